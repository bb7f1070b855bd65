"""How many samples' logits are made at a time: a vocabulary has up to 262,144 tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.models.head import Head


def samples_together(head: Head, device: torch.device | str) -> int:
    """How many samples' logits are made at a time."""
    return max(1, LOGITS_TOGETHER[torch.device(device).type] // head.vocabulary)


def summarise_logits(head: Head, states: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest logits of last-level states, and the logarithm of the sum of all exponentiated.

    Logits are made for some samples at a time, so that memory does not grow with n V.

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
    # Made before any logits: small tensors kept between them would lie in the holes that those leave, and the
    # next logits would need new memory each time.
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
