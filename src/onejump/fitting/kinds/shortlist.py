"""The fit of shortlist: a one-jump, and two weights for each level for its second look."""

from __future__ import annotations

from collections.abc import Sequence

from onejump.fitting.distiller import Distiller
from onejump.fitting.kinds import one_jump
from onejump.fitting.second_look import weighted
from onejump.shortcuts.kinds.shortlist import Shortlist

KIND = Shortlist
ONE_FOR_ALL_LEVELS = True


def by_distillation(distiller: Distiller, levels: Sequence[int], rank: int) -> Shortlist:
    """Distil a one-jump, and fit the weights of its second look."""
    first = one_jump.by_distillation(distiller, levels, rank)
    return weighted(distiller, first, None, levels, distiller.options.possible_candidates)
