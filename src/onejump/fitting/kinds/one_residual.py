"""The fit of one-residual: a shortlist whose candidates are judged by a state with a low-rank correction."""

from __future__ import annotations

from collections.abc import Sequence

from onejump.base.rank import rank_for
from onejump.fitting.distiller import Distiller
from onejump.fitting.kinds import one_jump
from onejump.fitting.second_look import trained_correction, weighted
from onejump.shortcuts.kinds.shortlist import Shortlist

KIND = Shortlist
ONE_FOR_ALL_LEVELS = True


def by_distillation(distiller: Distiller, levels: Sequence[int], rank: int) -> Shortlist:
    """Distil a one-jump, then a correction through its candidates, and fit the weights of the second look."""
    options = distiller.options
    first = one_jump.by_distillation(distiller, levels, rank)
    second = trained_correction(
        distiller,
        first,
        levels,
        rank_for(distiller.store.hidden, options.correction),
        options.possible_candidates[-1],
        options.correction_steps,
    )
    return weighted(distiller, first, second, levels, options.possible_candidates)
