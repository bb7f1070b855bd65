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
    """Second moments of inputs X (n, W) and targets Y (n, H), in float64. W is H, but for wider inputs.

    Attributes
    ----------
    count : int
        n.
    sum_x, sum_y : Tensor of shape (W,) and (H,)
        Sums over the samples.
    xx, xy : Tensor of shape (W, W) and (W, H)
        G = X'X and C = X'Y.
    """

    count: int
    sum_x: Tensor
    sum_y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def empty(cls, hidden: int, device: torch.device | str = "cpu", *, width: int | None = None) -> Moments:
        """Begin without samples; the inputs have H numbers unless another width is given."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        inputs = hidden if width is None else width
        return cls(0, zeros(inputs), zeros(hidden), zeros(inputs, inputs), zeros(inputs, hidden))

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add the samples of inputs (n, W) and targets (n, H)."""
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
    """Mean of the inputs before, (W,)."""
    variance: Tensor
    """Variance of the inputs before, (W,)."""
    scale: Tensor
    """1 / sqrt(variance + 1e-5), (W,)."""
    gram: Tensor
    """Z'Z, (W, W)."""
    cross: Tensor
    """Z'Y, (W, H)."""
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
