"""Cross-entropy to the most likely tokens of the model, without keeping any logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onejump.base.amounts.distillation import LOGITS_TOGETHER
from onejump.shortcuts.exit_head import by_vocabulary

# Samples in one block, at least, for each row of the projection. Behind a full rank, reading the projection
# takes longest: a block of that many samples shares one reading of it.
_SAMPLES_A_ROW = 0.5


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of weighted tokens, logits = cap(coordinates @ projection + offset).

    Goes through the samples in blocks whose logits stay in the CPU's caches. The gradients of a block are
    made while its softmax is at hand: every exponential is taken once, and no logits are kept. (Blocks of the
    vocabulary would need every exponential twice, once for the normaliser.)
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        coordinates, projection, offset, softcap, tokens, weights = inputs
        moving, made = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        samples, vocabulary = len(coordinates), projection.shape[1]
        by_coordinates = torch.empty_like(coordinates)
        by_projection = torch.zeros_like(projection) if made else None
        total = coordinates.new_zeros((), dtype=torch.float64)
        cached = LOGITS_TOGETHER[coordinates.device.type] // vocabulary
        rows = max(1, cached, int(_SAMPLES_A_ROW * len(projection)))
        # One buffer for all blocks: fresh memory would cost as much as the product that fills it.
        buffer = coordinates.new_empty(min(rows, samples), vocabulary)
        for start in range(0, samples, rows):
            part = slice(start, start + rows)
            logits = buffer[: len(coordinates[part])]
            torch.mm(coordinates[part], projection, out=logits)
            if offset is not None:
                logits += offset
            slope = None
            if softcap is not None:
                logits = logits.div_(softcap).tanh_()
                slope = 1 - logits.square()
                logits *= softcap
            weight, chosen = weights[part], logits.gather(1, tokens[part])
            mass = weight.sum(1, keepdim=True)
            if moving or made:
                peak = logits.amax(1, keepdim=True)
                probabilities = torch.softmax(logits, 1, out=logits)
                # The largest probability is never so small that its logarithm is lost.
                normaliser = peak - probabilities.amax(1, keepdim=True).log()
            else:
                normaliser = logits.logsumexp(1, keepdim=True)
            total += (mass * normaliser).sum(dtype=torch.float64)
            total -= (weight * chosen).sum(dtype=torch.float64)
            if not moving and not made:
                continue
            gradient = probabilities.mul_(mass / samples).scatter_add_(1, tokens[part], -weight / samples)
            if slope is not None:
                gradient *= slope
            by_coordinates[part] = torch.bmm(by_vocabulary(gradient), by_vocabulary(projection).mT).sum(0)
            if by_projection is not None:
                by_projection.addmm_(coordinates[part].T, gradient)
        ctx.save_for_backward(by_coordinates, by_projection)
        loss: Tensor = (total / samples).to(coordinates.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (factor,) = upstream
        moved = [None if gradient is None else factor * gradient for gradient in ctx.saved_tensors]
        return *moved, None, None, None, None


def cross_entropy(
    coordinates: Tensor,
    projection: Tensor,
    tokens: Tensor,
    weights: Tensor,
    *,
    offset: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Mean over samples of -sum_k w_k ln q(t_k), q = softmax(cap(coordinates @ projection + offset)).

    Coordinates and projection are those of an `ExitHead` for a low-rank shortcut, and normalised states and
    the unembedding for any other. The loss is differentiable in both.

    Parameters
    ----------
    coordinates : Tensor of shape (n, q)
    projection : Tensor of shape (q, V)
    tokens : Tensor of shape (n, k), int64
        t: no token twice in a row.
    weights : Tensor of shape (n, k)
        w.
    offset : Tensor of shape (V,), optional
    softcap : float, optional

    Returns
    -------
    Tensor of shape ()
    """
    loss: Tensor = _CrossEntropy.apply(coordinates, projection, offset, softcap, tokens, weights)  # type: ignore[no-untyped-call]
    return loss
