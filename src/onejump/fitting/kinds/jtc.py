"""The fit of jtc: least squares."""

from __future__ import annotations

from onejump.fitting.moments import Moments
from onejump.fitting.regression import solve_symmetric
from onejump.shortcuts.kinds.jtc import JTC

KIND = JTC
ONE_FOR_ALL_LEVELS = False


def from_moments(moments: Moments, rank: int | None = None) -> JTC:
    """Least squares without intercept: A = G^-1 C. The rank is not used."""
    return JTC(solve_symmetric(moments.xx, moments.xy))
