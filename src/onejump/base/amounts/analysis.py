"""Amounts of the stage "analysis"."""

from __future__ import annotations

PREDICTED = 1024
"""The most samples to predict for each number of ranks: the mean is known to a few hundredths of a nat."""
