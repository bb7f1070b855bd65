"""Random jumps of the kinds that a study would train."""

from __future__ import annotations

import torch

from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.one_jump import OneJump as OneJumpKind

RANK = 3


def trained(kind: str, levels: int, hidden: int) -> list[OneJumpKind] | list[Distilled]:
    """Give the one jump of one-jump, or a distilled jump for each level."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(*shape, generator=generator) / hidden**0.5
        return drawn

    if kind == "one-jump":
        shared = (normal(hidden, RANK), normal(levels, RANK), normal(RANK, hidden), normal(hidden))
        return [OneJumpKind(*shared, "rms", 1e-6, mix=normal(levels, RANK, RANK))]
    return [
        Distilled(normal(hidden, RANK), normal(RANK), normal(RANK, hidden), normal(hidden), "rms", 1e-6)
        for _ in range(levels)
    ]
