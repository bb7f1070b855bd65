"""The fit of distilled: a low-rank jump for each level, trained on the model's distribution."""

from __future__ import annotations

from collections.abc import Sequence

from onejump.fitting.distiller import Distiller
from onejump.fitting.low_rank import train_low_rank
from onejump.shortcuts.kinds.distilled import Distilled

KIND = Distilled
ONE_FOR_ALL_LEVELS = False


def by_distillation(distiller: Distiller, levels: Sequence[int], rank: int) -> Distilled:
    """Distil the jump from a single level."""
    jump = train_low_rank(distiller, levels, rank)
    eps = distiller.head.config.eps
    return Distilled(jump.down, jump.offset[0], jump.up, jump.bias, distiller.norm, eps)
