"""Amounts of the stage "level-pairs"."""

from __future__ import annotations

MOMENTS_TOGETHER = 2**28
"""Bytes of moments gathered in one pass. The moments of one source level are always gathered together."""
