"""Computes logits of a few samples at a time, as a vocabulary has up to 262,144 tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.models.head import Head


def samples_together(head: Head, device: torch.device | str) -> int:
    """The number of samples whose logits are computed at a time."""
    return max(1, LOGITS_TOGETHER[torch.device(device).type] // head.vocabulary)


def summarise_logits(head: Head, states: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give the largest logits of last-level states, and the log-sum-exp of all their logits.

    Logits are computed for a few samples at a time, so that memory does not grow with n V.

    Parameters
    ----------
    head : Head
    states : Tensor of shape (n, H)
        On the head's device, in its dtype.
    top_k : int

    Returns
    -------
    top_logits : Tensor of shape (n, top_k)
        Largest first.
    top_tokens : Tensor of shape (n, top_k)
        Their tokens.
    logsumexp : Tensor of shape (n,)
    """
    # Allocated before any logits: otherwise, these small tensors would take memory that the logits have just
    # freed, and the next logits would need new memory.
    top_logits = states.new_empty(len(states), top_k)
    top_tokens = torch.empty_like(top_logits, dtype=torch.long)
    logsumexp = states.new_empty(len(states))
    together = samples_together(head, states.device)
    for start in range(0, len(states), together):
        some = slice(start, start + together)
        logits = head.logits(states[some])
        top_logits[some], top_tokens[some] = logits.topk(top_k)
        logsumexp[some] = logits.logsumexp(-1)
    return top_logits, top_tokens, logsumexp
