"""The fit of residual: an n-njtc of what the state lacks."""

from __future__ import annotations

from dataclasses import replace

from onejump.fitting.kinds import n_njtc
from onejump.fitting.moments import Moments
from onejump.shortcuts.kinds.residual import Residual

KIND = Residual
ONE_FOR_ALL_LEVELS = False


def from_moments(moments: Moments, rank: int) -> Residual:
    """Fit the correction to the difference Y - X, with the moments of (X, Y - X)."""
    difference = replace(moments, sum_y=moments.sum_y - moments.sum_x, xy=moments.xy - moments.xx)
    return Residual(n_njtc.from_moments(difference, rank))
