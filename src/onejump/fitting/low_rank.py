"""Low-rank jumps in distillation: the closed form that they start from, and their training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from onejump.fitting.distiller import Distiller
from onejump.fitting.regression import reduced_rank
from onejump.fitting.teacher import Teacher, exit_loss
from onejump.shortcuts.exit_head import ExitHead

# Factor of A's learning rate, times the root of H: a step in A moves z by a sum over H coordinates, a step in
# any other parameter moves it by itself. Of 6, 12 and 24, 12 was best at H = 576.
_RATE_OF_DOWN = 12


class Start(NamedTuple):
    """The closed form: where training starts."""

    mean: Tensor
    """Mean of each level's inputs, (L, W): W is H, or 2H where inputs are two states."""
    scale: Tensor
    """Inverse standard deviations of each level's inputs, (L, W)."""
    down: Tensor
    """A, for standardised inputs, (W, r)."""
    up: Tensor
    """B, (r, H)."""
    bias: Tensor
    """b, (H,)."""


class Trained(NamedTuple):
    """One low-rank jump for L levels: (norm(h) A + c) B + b, with what is each level's own."""

    down: Tensor
    """A, (W, r)."""
    offset: Tensor
    """c, (L, r)."""
    up: Tensor
    """B, (r, H)."""
    bias: Tensor
    """b, (H,)."""
    scale: Tensor | None
    """Scales of each level's input coordinates, (L, W); None if levels have none."""
    mix: Tensor | None
    """Mixing of each level's z, (L, r, r); None if levels have none."""


def closed_form(
    distiller: Distiller, levels: Sequence[int], rank: int, weights: Sequence[float] | None = None
) -> Start:
    """Reduced-rank regression of the last level's `Head.essence`, with errors in the head's metric.

    The samples of all levels are fitted together, each level's inputs standardised by its own statistics.
    Each level counts alike, unless weights are given.
    """
    store = distiller.store
    gram = torch.zeros(store.width, store.width, dtype=torch.float64, device=distiller.device)
    cross = torch.zeros_like(gram[:, : store.hidden])
    target_mean = torch.zeros_like(cross[0])
    means, scales = [], []
    counts = [1.0] * len(levels) if weights is None else weights
    for level, count in zip(levels, counts, strict=True):
        of_level = distiller.standardised(level)
        gram += count * of_level.gram
        cross += count * of_level.cross
        target_mean = of_level.target_mean
        means.append(of_level.mean)
        scales.append(of_level.scale)
    down, up = reduced_rank(gram, cross, rank, distiller.metric)
    # Coordinates z of variance 1, so that a step of the optimiser is as large for each.
    variance = (down.T @ gram @ down).diagonal() / (sum(counts) * int(distiller.trained.sum()))
    spread = variance.clamp_min(1e-12).sqrt()
    return Start(
        torch.stack(means).float(),
        torch.stack(scales).float(),
        (down / spread).float(),
        (up * spread[:, None]).float(),
        target_mean.float(),
    )


def train_low_rank(
    distiller: Distiller,
    levels: Sequence[int],
    rank: int,
    *,
    statistics: str = "shared",
    weights: Sequence[float] | None = None,
) -> Trained:
    """Distil one low-rank jump for some levels.

    Parameters
    ----------
    distiller : Distiller
    levels : sequence of int
    rank : int
        r.
    statistics : {"shared", "level"}
        What a level has of its own besides c: "shared" for a mixing of z (r x r), "level" for a scale of each
        input coordinate. A jump for a single level has neither.
    weights : sequence of float, optional
        How much each of the levels counts; unless given, all count alike.
    """
    model = _LowRankInTraining(
        closed_form(distiller, levels, rank, weights), shared_scale=len(levels) == 1 or statistics == "shared"
    )

    def loss(inputs: Tensor, level: Tensor, teacher: Teacher) -> Tensor:
        exit_head = ExitHead(distiller.head, model.up, model.bias)
        return exit_loss(exit_head, model.reduce(inputs, level), teacher)

    of_down = _RATE_OF_DOWN / math.sqrt(distiller.store.width)
    rates = {name: of_down if name == "down" else 1.0 for name, _ in model.named_parameters()}
    distiller.train(model, rates, loss, levels, weights=weights)
    return model.trained()


class _LowRankInTraining(nn.Module):
    """A, B and b for all levels, with what each level has of its own."""

    scale: Tensor

    def __init__(self, start: Start, *, shared_scale: bool) -> None:
        super().__init__()
        levels, rank = len(start.mean), start.down.shape[1]
        # One scale for all levels is a part of A. Levels then differ in how they mix z.
        scale = start.scale.log().mean(0).exp().expand_as(start.scale) if shared_scale else start.scale
        self.register_buffer("scale", scale.clone())
        self.down = nn.Parameter(start.down.clone())
        self.up = nn.Parameter(start.up.clone())
        self.bias = nn.Parameter(start.bias.clone())
        self.offset = nn.Parameter(-(start.mean * scale) @ start.down)
        self.mix = self.log_gain = None
        if levels > 1 and shared_scale:
            self.mix = nn.Parameter(torch.eye(rank).repeat(levels, 1, 1).to(scale))
        elif levels > 1:
            self.log_gain = nn.Parameter(torch.zeros_like(scale))

    def reduce(self, inputs: Tensor, level: Tensor) -> Tensor:
        """Give z (n, r) of prepared states (n, H) and the number of each one's level (n,)."""
        scale = self.scale[0] if self.log_gain is None else (self.scale * self.log_gain.exp())[level]
        reduced = (inputs * scale) @ self.down
        if self.mix is not None:
            reduced = torch.einsum("nr,nrs->ns", reduced, self.mix[level])
        return reduced + self.offset[level]

    def trained(self) -> Trained:
        """Give the jump as it is kept: a scale that all levels share is multiplied into A."""
        down, offset, up, bias = (t.detach().cpu() for t in (self.down, self.offset, self.up, self.bias))
        scale = self.scale.cpu()
        if self.log_gain is not None:
            return Trained(down, offset, up, bias, scale * self.log_gain.detach().cpu().exp(), None)
        mix = None if self.mix is None else self.mix.detach().cpu()
        return Trained(scale[0][:, None] * down, offset, up, bias, None, mix)
