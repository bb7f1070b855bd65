"""The shortlist head: the exit head, and a second look at its most likely tokens.

The low-rank exit head costs V r multiplications and often has the right token among its best ones, but not in
the first place. So its k most likely tokens, the candidates S, are judged again, by the state's own logits.
These need only the k rows of the unembedding that belong to the candidates: k H multiplications in place of
V H.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from onejump.models.head import Head
from onejump.models.most_likely import Top, largest
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.shortlist import Shortlist, ShortlistAt

# States whose rows of the unembedding are gathered together: on a CPU, these rows stay in a core's caches.
_TOGETHER_ON_CPU, _TOGETHER_ELSEWHERE = 8, 256


class Judged(NamedTuple):
    """Candidates of n states, the most likely ones of the exit head first."""

    tokens: Tensor
    """(..., k), int64."""
    first: Tensor
    """Logits of the exit head, ln q but for a number that all tokens of a state share, (..., k)."""
    own: Tensor
    """Logits of the state itself, (..., k)."""


def candidates_of(head: Head, logits: Tensor, states: Tensor, k: int) -> Judged:
    """Find the candidates, and what the state itself says of them.

    Parameters
    ----------
    head : Head
    logits : Tensor of shape (..., V)
        The exit head's.
    states : Tensor of shape (..., H)
        The states that judge, before the final norm.
    k : int
    """
    first, tokens = largest(logits, min(k, head.vocabulary))
    return Judged(tokens, first, own_logits(head, states, tokens))


def own_logits(head: Head, states: Tensor, tokens: Tensor) -> Tensor:
    """Give those of the logits `Head.logits` of states (..., H) that belong to tokens (..., k): (..., k)."""
    features = head.features(states)
    flat, rows = features.reshape(-1, features.shape[-1]), tokens.reshape(-1, tokens.shape[-1])
    together = _TOGETHER_ON_CPU if flat.device.type == "cpu" else _TOGETHER_ELSEWHERE
    if len(flat) <= together:
        products = _products(head, flat, rows)
    else:
        parts = zip(torch.split(flat, together), torch.split(rows, together), strict=True)
        products = torch.cat([_products(head, *part) for part in parts])
    return of_tokens(head, products.view(tokens.shape), tokens)


def _products(head: Head, features: Tensor, tokens: Tensor) -> Tensor:
    """Multiply features (n, E) with the rows of the unembedding of tokens (n, k): (n, k, 1)."""
    rows = head.unembedding.index_select(0, tokens.flatten())
    return torch.bmm(rows.view(*tokens.shape, -1), features[..., None])


def of_tokens(head: Head, products: Tensor, tokens: Tensor) -> Tensor:
    """Make logits of products (..., k) with the unembedding's rows of tokens (..., k), as a head does."""
    if head.logit_bias is not None:
        products = products + head.logit_bias[tokens]
    if head.config.scale != 1.0:
        products = products * head.config.scale
    softcap = head.config.softcap
    return products if softcap is None else (products / softcap).tanh() * softcap


def judged(weights: Tensor, candidates: Judged) -> Tensor:
    """Give the logits (..., k) of candidates behind the second look.

    With the weights a and b of a level, ln p_t = ln q(S) + ln softmax_S(a ln q_t + b s_t), where s are the
    state's own logits. The candidates together keep the probability q(S) that the exit head gives them. What
    all of the exit head's logits have in common stays in those of the candidates.

    Parameters
    ----------
    weights : Tensor of shape (..., 2)
        a and b.
    candidates : Judged
    """
    scores = scores_of(weights, candidates)
    return candidates.first.logsumexp(-1, keepdim=True) + scores.log_softmax(-1)


def scores_of(weights: Tensor, candidates: Judged) -> Tensor:
    """Give a ln q + b s (..., k) of candidates, with the weights a and b (..., 2).

    All scores of a state may differ from it by the same number.
    """
    return weights[..., :1] * candidates.first + weights[..., 1:] * candidates.own


class ShortlistHead:
    """The head of a shortlist: logits of all tokens from states of a level.

    Tokens that are no candidates keep the probability that the exit head gives them. The most likely token is
    always a candidate: of k candidates one has at least the mean of their q, and no other token has more than
    the smallest of them.

    Parameters
    ----------
    head : Head
    shortlist : Shortlist or ShortlistAt
        Levels share the exit head.
    """

    def __init__(self, head: Head, shortlist: Shortlist | ShortlistAt) -> None:
        self.head = head
        first = shortlist.first if isinstance(shortlist, ShortlistAt) else shortlist.at(0).first
        self.exit_head = ExitHead.of(head, first)

    def multiplications(self, shortlist: ShortlistAt) -> int:
        """Count the multiplications of the logits of one state, without those of the jumps themselves."""
        width = self.head.unembedding.shape[1]
        dense = 0 if self.head.dense_weight is None else self.head.dense_weight.numel()
        return self.exit_head.multiplications() + shortlist.candidates * width + dense

    def logits(self, shortlist: ShortlistAt, states: Tensor) -> Tensor:
        """Give the logits (..., V) of states (..., H) of the shortlist's level."""
        logits, candidates = self.look(shortlist, states)
        return logits.scatter_(-1, candidates.tokens, judged(shortlist.weights, candidates))

    def top(self, shortlist: ShortlistAt, states: Tensor, k: int = 1) -> Top:
        """Find the k most likely tokens and their probabilities, among the candidates."""
        logits, candidates = self.look(shortlist, states)
        # q(S). Log-probabilities of all tokens would be one more pass over the vocabulary.
        most = candidates.first[..., :1]
        mass = (candidates.first - most).exp_().sum(-1, keepdim=True)
        mass /= (logits - most).exp_().sum(-1, keepdim=True)
        best = scores_of(shortlist.weights, candidates).softmax(-1).topk(k)
        return Top(best.values * mass, candidates.tokens.gather(-1, best.indices))

    def look(self, shortlist: ShortlistAt, states: Tensor) -> tuple[Tensor, Judged]:
        """Give the exit head's logits (..., V) of states (..., H), and its candidates."""
        reduced, judging = shortlist.looks(states)
        logits = self.exit_head.logits(reduced)
        return logits, candidates_of(self.head, logits, judging, shortlist.candidates)
