"""The exit head: the model's head behind a low-rank shortcut, with V r multiplications instead of V H.

The head of a masked language model has a transform that is not linear. There, only the transform gets cheaper
(r H instead of H H); the unembedding still costs V H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onejump.base.identity import same_model
from onejump.models.head import Head, normalised
from onejump.models.most_likely import Top, most_likely, parts_of
from onejump.shortcuts.shortcut import LowRank


def by_vocabulary(matrix: Tensor) -> Tensor:
    """Divide a matrix (n, V) into p parts of the vocabulary, (p, n, V / p).

    A product of a few rows with the whole vocabulary is faster as p small products: the threads of a CPU
    share these evenly, and each reads its memory in order.
    """
    rows, vocabulary = matrix.shape
    return matrix.view(rows, parts_of(vocabulary), -1).transpose(0, 1)


class _Projected(torch.autograd.Function):
    """Multiply rows (r, H) with W_U', in the order that reads W_U as fast as the memory allows."""

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
    """The head for states z B + b, computed from z alone.

    With the gain g of the norm, W_U diag(g) (z B) / rms = (z P') / rms. P = W_U diag(g) B' (V x r) is
    computed once, and rms^2 = z (B B') z' / H + eps. A bias b counts as one more row of B, whose coordinate
    is always one. For a LayerNorm, the rows of B are centred first, and its bias adds W_U norm_bias to all
    logits. Without a final norm, logits = z P'. A shortcut with one B for all levels has one exit head for
    all levels.

    A head with a transform T(h) = activation(h D' + c) gets z (B D') + (b D' + c) in front of the activation.
    A product with B cannot be taken through the activation, so the coordinates are those of the normalised
    transformed states. A sample costs r E + V E multiplications, E being the transform's width. If the head
    has a norm in front of its transform, z / rms takes the place of z.

    Parameters
    ----------
    head : Head
    basis : Tensor of shape (r, H)
        B.
    bias : Tensor of shape (H,), optional
        b.

    Attributes
    ----------
    projection : Tensor of shape (r, V), or (r + 1, V) with a bias; (E, V) with a transform
        P', times the head's scale; W_U' with a transform.
    offset : Tensor of shape (V,) or None
        A constant that is added to the logits of every state; None if it is zero.
    """

    def __init__(self, head: Head, basis: Tensor, bias: Tensor | None = None) -> None:
        self.head = head
        self.offset = head.offset()
        self._gain = head.config.scale * head.gain
        self.has_bias = bias is not None
        self._first_norm = head.first_norm
        if bias is not None and (self._first_norm is not None or head.dense_weight is None):
            # The norm needs the coordinates of the whole state: a bias is one more of them, always one.
            basis, bias = torch.cat([basis, bias[None]]), None
        # Whether the bias is a coordinate, and not a part of the transform.
        self._bias_is_coordinate = self.has_bias and bias is None
        if self._first_norm is not None:
            kind, self._eps = self._first_norm
            basis = basis - basis.mean(1, keepdim=True) if kind == "layer" else basis
            self._quadratic = basis @ basis.T / head.hidden
        # What a transform's activation gets: z times the first, plus the second.
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

    def multiplications(self) -> int:
        """Count the multiplications that the logits of one state cost in products with matrices."""
        matrices: list[Tensor] = [self.projection]
        if self._first_norm is not None:
            matrices.append(self._quadratic)
        if self._to_activation is not None:
            matrices.append(self._to_activation[0])
        return sum(matrix.numel() for matrix in matrices)

    def coordinates(self, reduced: Tensor) -> Tensor:
        """Give the coordinates of the normalised states in the rows of `projection`: z / rms, 1 / rms for b.

        Parameters
        ----------
        reduced : Tensor of shape (..., r)
            z, in any precision.

        Returns
        -------
        Tensor of shape (..., r), or (..., r + 1) with a bias
            With a transform, (..., E), multiplied by the norm's gain and the head's scale.
        """
        reduced = reduced.to(self.projection.dtype)
        if self._bias_is_coordinate:
            reduced = torch.cat([reduced, torch.ones_like(reduced[..., :1])], -1)
        if self._first_norm is not None:
            mean_square = (reduced @ self._quadratic * reduced).sum(-1, keepdim=True).clamp_min(0)
            reduced = reduced * torch.rsqrt(mean_square + self._eps)
        if self._to_activation is None:
            return reduced
        transformed = self.head.activate(functional.linear(reduced, *self._to_activation))
        norm = self.head.config.norm
        normed = transformed if norm is None else normalised(transformed, norm, self.head.config.eps)
        return normed * self._gain

    def logits(self, reduced: Tensor) -> Tensor:
        """Give the logits (..., V) of reduced states z (..., r)."""
        logits = self.coordinates(reduced) @ self.projection
        if self.offset is not None:
            logits += self.offset
        return self.head.cap(logits)

    def top(self, reduced: Tensor, k: int = 1) -> Top:
        """Find the k most likely tokens and their probabilities, which a decision to exit needs."""
        return most_likely(self.logits(reduced), k, overwrite=True)
