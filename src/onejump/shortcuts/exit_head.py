"""The exit head: the model's head behind a low-rank shortcut, V r multiplications instead of V H.

A masked language model's head has a transform that is not linear: r H instead of H H then, but V H.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from onejump.base.identity import same_model
from onejump.models.head import Head, normalised
from onejump.shortcuts.shortcut import LowRank

_PARTS = 64  # of the vocabulary, at most


class Top(NamedTuple):
    """Most likely tokens of n states, best first."""

    probabilities: Tensor
    """(n, k)."""
    tokens: Tensor
    """(n, k), int64."""


def by_vocabulary(matrix: Tensor) -> Tensor:
    """A matrix (n, V) as parts (p, n, V / p) of the vocabulary.

    A product of a few rows with all of the vocabulary is faster as p small ones, which a CPU's threads share
    out evenly and read in order.
    """
    rows, vocabulary = matrix.shape
    parts = max(parts for parts in range(1, _PARTS + 1) if vocabulary % parts == 0)
    return matrix.view(rows, parts, -1).transpose(0, 1)


class _Projected(torch.autograd.Function):
    """rows W_U', (r, V), in the order of multiplications that reads W_U at the speed of the memory."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        rows, unembedding = inputs
        ctx.save_for_backward(unembedding)
        return (unembedding @ rows.T).T.contiguous()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (unembedding,), (gradient,) = ctx.saved_tensors, upstream
        parts = by_vocabulary(gradient)
        return torch.bmm(parts, unembedding.view(len(parts), -1, unembedding.shape[1])).sum(0), None


class ExitHead:
    """The head for states z B + b, from z alone.

    With the norm's gain g, W_U diag(g) (z B) / rms = (z P') / rms, where P = W_U diag(g) B' (V x r) is made
    once and rms^2 = z (B B') z' / H + eps. A bias b is one more row of B, whose coordinate is always one. A
    LayerNorm first centres the rows of B; its own bias adds W_U norm_bias to all logits. Shortcuts with one B
    for all levels have one exit head for all levels.

    Behind a transform T(h) = activation(h D' + c) the states are z (B D') + (b D' + c) when they come to its
    activation. No product with B goes through that: the coordinates are then those of the normalised
    transformed states themselves, and a sample costs r E + V E multiplications, V E of them as without a
    shortcut. If the head has a norm before its transform, z / rms stands for z.

    Parameters
    ----------
    head : Head
    basis : Tensor of shape (r, H)
        B.
    bias : Tensor of shape (H,), optional
        b.

    Attributes
    ----------
    projection : Tensor of shape (r, V), or (r + 1, V) with a bias; behind a transform (E, V)
        P', times the head's scale; behind a transform W_U'.
    offset : Tensor of shape (V,) or None
        What all logits have besides.
    """

    def __init__(self, head: Head, basis: Tensor, bias: Tensor | None = None) -> None:
        self.head = head
        self.offset = head.offset()
        self._gain = head.config.scale * head.gain
        self.has_bias = bias is not None
        self._first_norm = head.first_norm
        if self._first_norm is not None:
            # The norm is taken of z alone: a bias is a coordinate of z that is always one.
            kind, self._eps = self._first_norm
            basis = basis if bias is None else torch.cat([basis, bias[None]])
            basis = basis - basis.mean(1, keepdim=True) if kind == "layer" else basis
            bias = None
            self._quadratic = basis @ basis.T / head.hidden
        # What comes to a transform's activation: z times the first, plus the second.
        self._to_activation: tuple[Tensor, Tensor | None] | None = None
        dense, shift = head.dense_weight, head.dense_bias
        if dense is None:
            self.projection = _Projected.apply(self._gain * basis, head.unembedding)  # type: ignore[no-untyped-call]
        else:
            shift = shift if bias is None else functional.linear(bias, dense, shift)
            self._to_activation = dense @ basis.T, shift
            self.projection = head.unembedding.T

    @classmethod
    def of(cls, head: Head, jump: LowRank) -> ExitHead:
        """Make the exit head of a low-rank shortcut.

        Raises
        ------
        OneJumpError
            If both say which model they belong to, and it is not the same one.
        """
        same_model([("the head", head.model_digest), ("the shortcut", jump.model_digest)])
        return cls(head, jump.up, jump.bias)

    def coordinates(self, reduced: Tensor) -> Tensor:
        """Coordinates of the normalised states in the rows of `projection`: z / rms, and 1 / rms for b.

        Parameters
        ----------
        reduced : Tensor of shape (..., r)
            z, of any precision.

        Returns
        -------
        Tensor of shape (..., r), or (..., r + 1) with a bias; behind a transform (..., E), times the norm's
        gain and the head's scale
        """
        reduced = reduced.to(self.projection.dtype)
        if self._first_norm is not None:
            if self.has_bias:
                reduced = torch.cat([reduced, torch.ones_like(reduced[..., :1])], -1)
            mean_square = (reduced @ self._quadratic * reduced).sum(-1, keepdim=True).clamp_min(0)
            reduced = reduced * torch.rsqrt(mean_square + self._eps)
        if self._to_activation is None:
            return reduced
        transformed = self.head.activate(functional.linear(reduced, *self._to_activation))
        return normalised(transformed, self.head.config.norm, self.head.config.eps) * self._gain

    def logits(self, reduced: Tensor) -> Tensor:
        """Logits (..., V) of reduced states z (..., r)."""
        logits = self.coordinates(reduced) @ self.projection
        if self.offset is not None:
            logits += self.offset
        return self.head.cap(logits)

    def top(self, reduced: Tensor, k: int = 1) -> Top:
        """The k most likely tokens and their probabilities: what a decision to exit needs."""
        logits = self.logits(reduced)
        best, tokens = logits.max(-1, keepdim=True) if k == 1 else logits.topk(k)
        return Top((best - logits.logsumexp(-1, keepdim=True)).exp(), tokens)
