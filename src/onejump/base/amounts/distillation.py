"""How much distillation takes at a time, and how often it checks the held-out loss."""

from __future__ import annotations

LOGITS_TOGETHER = {"cpu": 2**21, "cuda": 2**27}
"""Elements of one samples x vocabulary matrix by type of device. On a CPU the matrix stays in the caches."""
CHECKS = 20
"""Times that a fit looks at the held-out loss, besides once before the first step."""
HELD_OUT = 4096
"""Most held-out samples of a fit, counted over all its levels."""
HELD_OUT_OF_A_LEVEL = 64
"""Held-out samples that each level has at least, if there are enough."""


def held_out_of_a_level(levels: int) -> int:
    """Most held-out samples of one level in a fit of several levels together."""
    return max(HELD_OUT_OF_A_LEVEL, HELD_OUT // levels)
