"""How many logits are computed at a time. A vocabulary has up to 262,144 tokens."""

from __future__ import annotations

LOGITS_TOGETHER = {"cpu": 2**22, "cuda": 2**27}
"""The most elements of one samples x vocabulary matrix, by type of device. A few of them exist at a time.
On a CPU the matrices are small, so that the allocator reuses their memory: to get new memory from the system
would take longer than the arithmetic."""
