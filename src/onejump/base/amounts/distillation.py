"""Amounts of distillation, and how often it checks the held-out loss."""

from __future__ import annotations

LOGITS_TOGETHER = {"cpu": 2**21, "cuda": 2**27}
"""Elements of one samples x vocabulary matrix by type of device. On a CPU the matrix stays in the caches."""
CHECKS = 20
"""How many times a fit computes the held-out loss, besides once before the first step."""
HELD_OUT = 4096
"""The most held-out samples of a fit, summed over its levels."""
HELD_OUT_OF_A_LEVEL = 64
"""The fewest held-out samples of one level, if the corpus has that many."""


def held_out_of_a_level(levels: int) -> int:
    """The most held-out samples of one level, in a fit of several levels together."""
    return max(HELD_OUT_OF_A_LEVEL, HELD_OUT // levels)
