"""The fit of one-jump: one low-rank jump for all levels, trained on the model's distribution."""

from __future__ import annotations

from collections.abc import Sequence

from onejump.fitting.distiller import Distiller
from onejump.fitting.low_rank import train_low_rank
from onejump.shortcuts.kinds.one_jump import OneJump

KIND = OneJump
ONE_FOR_ALL_LEVELS = True


def by_distillation(distiller: Distiller, levels: Sequence[int], rank: int) -> OneJump:
    """Distil one jump for several levels. It numbers them from 0 on."""
    jump = train_low_rank(distiller, levels, rank, statistics=distiller.options.statistics)
    shared = jump.down, jump.offset, jump.up, jump.bias
    return OneJump(*shared, distiller.norm, distiller.head.config.eps, scale=jump.scale, mix=jump.mix)
