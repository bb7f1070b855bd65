"""How many logits are made at a time: a vocabulary has up to 262,144 tokens."""

from __future__ import annotations

LOGITS_TOGETHER = {"cpu": 2**22, "cuda": 2**27}
"""Elements of one samples x vocabulary matrix by type of device; a few such matrices are alive at a time. On
a CPU they are so small that the allocator keeps their memory: new pages from the system cost more time than
the arithmetic."""
