"""The shortlist head: the exit head, and a second look at its most likely tokens.

The low-rank exit head costs V r multiplications and often has the right token among its best ones, but not in
the first place. So its k most likely tokens, the candidates S, are judged again, by the state's own logits.
These need only the k rows of the unembedding that belong to the candidates: k H multiplications in place of
V H.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from onejump.models.head import Head
from onejump.models.most_likely import Top, largest
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.shortlist import Shortlist, ShortlistAt

# States whose rows of the unembedding are gathered together: these rows stay in a core's caches.
_TOGETHER = 8


class _Chosen(torch.autograd.Function):
    """Multiply states (n, E) with chosen rows of a matrix (V, E), other rows (n, k) for each state: (n, k).

    A plain product would write the n k rows to memory and keep them for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        states, matrix, rows = inputs
        ctx.save_for_backward(matrix, rows)
        products = [
            (matrix[of] @ some[..., None])[..., 0]
            for some, of in zip(torch.split(states, _TOGETHER), torch.split(rows, _TOGETHER), strict=True)
        ]
        return products[0] if len(products) == 1 else torch.cat(products)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (matrix, rows), (gradient,) = ctx.saved_tensors, upstream
        weights = gradient.contiguous()
        by_states = functional.embedding_bag(rows, matrix, per_sample_weights=weights, mode="sum")
        return by_states, None, None


class Judged(NamedTuple):
    """Candidates of n states, the most likely ones of the exit head first."""

    tokens: Tensor
    """(..., k), int64."""
    first: Tensor
    """Log-probabilities of the exit head, ln q, (..., k)."""
    own: Tensor
    """Logits of the state itself, (..., k)."""


def candidates_of(head: Head, likelihoods: Tensor, states: Tensor, k: int) -> Judged:
    """Find the candidates, and what the state itself says of them.

    Parameters
    ----------
    head : Head
    likelihoods : Tensor of shape (..., V)
        The exit head's log-probabilities, or its logits.
    states : Tensor of shape (..., H)
        The states that judge, before the final norm.
    k : int
    """
    first, tokens = largest(likelihoods, min(k, head.vocabulary))
    return Judged(tokens, first, own_logits(head, states, tokens))


def own_logits(head: Head, states: Tensor, tokens: Tensor) -> Tensor:
    """Give those of the logits `Head.logits` of states (..., H) that belong to tokens (..., k): (..., k)."""
    features = head.features(states)
    shape = tokens.shape
    logits: Tensor = _Chosen.apply(  # type: ignore[no-untyped-call]
        features.reshape(-1, features.shape[-1]), head.unembedding, tokens.reshape(-1, shape[-1])
    ).view(shape)
    if head.logit_bias is not None:
        logits = logits + head.logit_bias[tokens]
    # Not in place: gradients may have to pass.
    logits = logits * head.config.scale
    softcap = head.config.softcap
    return logits if softcap is None else (logits / softcap).tanh() * softcap


def judged(weights: Tensor, candidates: Judged) -> Tensor:
    """Give the log-probabilities (..., k) of candidates behind the second look.

    With the weights a and b of a level, ln p_t = ln q(S) + ln softmax_S(a ln q_t + b s_t), where s are the
    state's own logits. The candidates together keep the probability q(S) that the exit head gives them.

    Parameters
    ----------
    weights : Tensor of shape (..., 2)
        a and b.
    candidates : Judged
    """
    scores = scores_of(weights, candidates)
    return candidates.first.logsumexp(-1, keepdim=True) + scores.log_softmax(-1)


def scores_of(weights: Tensor, candidates: Judged) -> Tensor:
    """Give a ln q + b s (..., k) of candidates, with the weights a and b (..., 2)."""
    return weights[..., :1] * candidates.first + weights[..., 1:] * candidates.own


class ShortlistHead:
    """The head of a shortlist: log-probabilities of all tokens from states of a level.

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
        """Give the log-probabilities (..., V) of states (..., H) of the shortlist's level."""
        log_probabilities, candidates = self.look(shortlist, states)
        return log_probabilities.scatter(-1, candidates.tokens, judged(shortlist.weights, candidates))

    def top(self, shortlist: ShortlistAt, states: Tensor, k: int = 1) -> Top:
        """Find the k most likely tokens and their probabilities, among the candidates."""
        _, candidates = self.look(shortlist, states)
        best = judged(shortlist.weights, candidates).topk(k)
        return Top(best.values.exp(), candidates.tokens.gather(-1, best.indices))

    def look(self, shortlist: ShortlistAt, states: Tensor) -> tuple[Tensor, Judged]:
        """Give the exit head's log-probabilities (..., V) of states (..., H), and its candidates."""
        logits = self.exit_head.logits(shortlist.first.reduce(states))
        log_probabilities = logits.log_softmax(-1)
        return log_probabilities, candidates_of(
            self.head, log_probabilities, shortlist(states), shortlist.candidates
        )
