"""Random jumps of the kinds that a study would train."""

from __future__ import annotations

import torch

from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.one_jump import OneJump as OneJumpKind
from onejump.shortcuts.kinds.shortlist import Shortlist

RANK = 3


def trained(kind: str, levels: int, hidden: int) -> list[OneJumpKind] | list[Distilled] | list[Shortlist]:
    """Give the one jump of one-jump, shortlist or one-residual, or a distilled jump for each level."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(*shape, generator=generator) / hidden**0.5
        return drawn

    def one_jump(rank: int) -> OneJumpKind:
        shared = (normal(hidden, rank), normal(levels, rank), normal(rank, hidden), normal(hidden))
        return OneJumpKind(*shared, "rms", 1e-6, mix=normal(levels, rank, rank))

    if kind == "one-jump":
        return [one_jump(RANK)]
    if kind in ("shortlist", "one-residual"):
        weights = torch.linspace(0.2, 2, 2 * levels).view(levels, 2)
        return [Shortlist(one_jump(RANK), weights, 8, one_jump(2) if kind == "one-residual" else None)]
    return [
        Distilled(normal(hidden, RANK), normal(RANK), normal(RANK, hidden), normal(hidden), "rms", 1e-6)
        for _ in range(levels)
    ]
