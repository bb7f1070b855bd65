"""How much the metric of a head takes at a time."""

from __future__ import annotations

SAMPLES_TOGETHER = 512
"""Samples whose part of the metric is made at a time."""
