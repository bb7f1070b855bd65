"""Amounts of the metric of a head."""

from __future__ import annotations

SAMPLES_TOGETHER = 512
"""Samples in one block of the sum that gives the metric."""
