"""The fit of one-forward: as one-jump, of states with the last level's state of the position before."""

from __future__ import annotations

from collections.abc import Sequence

from onejump.fitting.distiller import Distiller
from onejump.fitting.low_rank import train_low_rank
from onejump.shortcuts.kinds.one_forward import OneForward

KIND = OneForward
ONE_FOR_ALL_LEVELS = True


def by_distillation(distiller: Distiller, levels: Sequence[int], rank: int) -> OneForward:
    """Distil one jump for several levels. It numbers them from 0 on.

    It is for drafts, and a draft costs the blocks below its level: level l counts 1 / (l + 1) times.
    """
    weights = [1 / (level + 1) for level in levels]
    statistics = distiller.options.statistics
    jump = train_low_rank(distiller, levels, rank, statistics=statistics, weights=weights)
    shared = jump.down, jump.offset, jump.up, jump.bias
    return OneForward(*shared, distiller.norm, distiller.head.config.eps, scale=jump.scale, mix=jump.mix)
