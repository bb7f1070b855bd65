"""Second moments of inputs and targets: all that an exact fit needs to know of the samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from onejump.data.store import ActivationStore
from onejump.shortcuts.shortcut import BATCH_NORM_EPS


@dataclass
class Moments:
    """Second moments of inputs X (n, H) and targets Y (n, H), in float64.

    Attributes
    ----------
    count : int
        n.
    sum_x, sum_y : Tensor of shape (H,)
        Sums over the samples.
    xx, xy : Tensor of shape (H, H)
        G = X'X and C = X'Y.
    """

    count: int
    sum_x: Tensor
    sum_y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def empty(cls, hidden: int, device: torch.device | str = "cpu") -> Moments:
        """Begin without samples."""
        vector = torch.zeros(hidden, dtype=torch.float64, device=device)
        matrix = torch.zeros(hidden, hidden, dtype=torch.float64, device=device)
        return cls(0, vector, vector.clone(), matrix, matrix.clone())

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add the samples of inputs (n, H) and targets (n, H)."""
        x, y = inputs.to(self.xx), targets.to(self.xx)
        self.count += len(x)
        self.sum_x += x.sum(0)
        self.sum_y += y.sum(0)
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)


def gather_moments(
    store: ActivationStore,
    levels: Iterable[int],
    device: torch.device | str = "cpu",
    held_out: Tensor | None = None,
) -> Moments:
    """Gather moments of states at some levels, taken together, with states at the last level as targets.

    Parameters
    ----------
    store : ActivationStore
    levels : iterable of int
        Levels of the inputs.
    device : torch.device
    held_out : Tensor of shape (samples,), bool, optional
        Samples to leave out.

    Returns
    -------
    Moments
    """
    moments = Moments.empty(store.hidden, device)
    kept = None if held_out is None else (~held_out).numpy()
    for level in levels:
        for states, targets in store.blocks([level, store.levels - 1], kept):
            moments.add(torch.from_numpy(states).to(device), torch.from_numpy(targets).to(device))
    return moments


class Standardised(NamedTuple):
    """Moments of inputs Z with mean 0 and variance 1, and of targets Y with mean 0."""

    mean: Tensor
    """Mean of the inputs before, (H,)."""
    variance: Tensor
    """Variance of the inputs before, (H,)."""
    scale: Tensor
    """1 / sqrt(variance + 1e-5), (H,)."""
    gram: Tensor
    """Z'Z, (H, H)."""
    cross: Tensor
    """Z'Y, (H, H)."""
    target_mean: Tensor
    """Mean of the targets before, (H,)."""


def standardise(moments: Moments) -> Standardised:
    """Give the moments of Z = (X - mean) scale and of Y - mean(Y)."""
    mean = moments.sum_x / moments.count
    target_mean = moments.sum_y / moments.count
    centred = moments.xx - moments.count * torch.outer(mean, mean)
    variance = centred.diagonal().clamp_min(0) / moments.count
    scale = torch.rsqrt(variance + BATCH_NORM_EPS)
    return Standardised(
        mean,
        variance,
        scale,
        scale[:, None] * centred * scale,
        scale[:, None] * (moments.xy - moments.count * torch.outer(mean, target_mean)),
        target_mean,
    )
