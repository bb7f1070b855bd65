"""Amounts of the stage "tuning"."""

from __future__ import annotations

LOGITS_TOGETHER = {"cpu": 2**24, "cuda": 2**28}
"""Elements of one rows x vocabulary matrix, by type of device. About four of them exist at a time. On a CPU,
fewer rows
would read and write the gradient of the unembedding too often."""
CHECKPOINTS = 5
"""How often a tuning saves a checkpoint, from which it goes on after a kill."""
