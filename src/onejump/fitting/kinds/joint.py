"""The fit of joint: one n-njtc for the states of all levels together."""

from __future__ import annotations

from onejump.fitting.kinds import n_njtc

KIND = n_njtc.KIND
ONE_FOR_ALL_LEVELS = True
from_moments = n_njtc.from_moments
