"""How much the stage "analysis" takes at a time."""

from __future__ import annotations

PREDICTED = 1024
"""Most samples whose predictions are compared for each number of ranks."""
METRIC_SAMPLES = 512
"""Samples whose part of the head's metric is made at a time."""
