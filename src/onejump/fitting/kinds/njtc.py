"""The fit of njtc: reduced-rank regression."""

from __future__ import annotations

from onejump.fitting.moments import Moments
from onejump.fitting.regression import solve_symmetric, top_directions
from onejump.shortcuts.kinds.njtc import NJTC

KIND = NJTC
ONE_FOR_ALL_LEVELS = False


def from_moments(moments: Moments, rank: int) -> NJTC:
    """Reduced-rank regression of Y on X (Izenman 1975): A = G^-1 C V_r, B = V_r'.

    V_r are the top eigenvectors of C' G^-1 C.
    """
    solution = solve_symmetric(moments.xx, moments.xy)
    directions = top_directions(moments.xy.T @ solution, rank)
    return NJTC(solution @ directions, directions.T)
