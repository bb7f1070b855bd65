"""How much the stage "analysis" takes at a time."""

from __future__ import annotations

PREDICTED = 1024
"""Most samples to predict with each number of ranks: their mean is known to a few hundredths of a nat."""
