"""The losses of all levels through a model's one head, and which of them a step computes.

The loss of a token is L = sum_l w_l loss(head(h_l)) / sum_l w_l over the levels l = 0..L (arXiv 2412.01455).
Its heads cost (L + 1) V H multiplications a token, many times the blocks. So a step computes a part: for each
token the last level, and a few earlier levels that are drawn with probabilities in proportion to w. What is
drawn has the same expectation as the whole sum, and so does its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onejump.base.amounts.tuning import LOGITS_TOGETHER
from onejump.models.live_head import LastMap, cap_logits

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LogProbabilities = Callable[[Tensor], Tensor]
"""Gives the log probabilities (n, V) of a teacher for the tokens with these numbers (n,)."""

# The part of all steps in which the curriculum takes up one level after another.
_JOINING = 0.5


@dataclass(frozen=True)
class Weights:
    """How much each level counts in the loss.

    Parameters
    ----------
    kind : {"uniform", "linear", "curriculum", "final"}
        uniform: w_l = 1. linear: w_l = l. curriculum: as uniform in the end. It begins with the levels L and
        L-1. The next earlier level joins, again and again, at even intervals in the first half of the steps.
        A level that has not joined leaves its weight to level L. final: level L alone.
    blocks : int
        L.
    early : float, optional
        The share of all weight that levels 0..L-1 get together. None: as the kind has it.
    """

    kind: str
    blocks: int
    early: float | None = None

    @property
    def share(self) -> float:
        """The share of all weight that levels 0..L-1 have together, once all have joined."""
        if self.kind == "final":
            return 0.0
        if self.early is not None:
            return self.early
        weights = self._weights()
        return float(weights[:-1].sum() / weights.sum())

    def among_early(self) -> Floats:
        """How the early levels share their part: (L,), with sum 1."""
        early = self._weights()[:-1]
        total = early.sum()
        return early / total if total > 0 else np.full(self.blocks, 1 / self.blocks)

    def first_level(self, step: int, steps: int) -> int:
        """The earliest level that has joined at a step, which is counted from 0."""
        if self.kind == "final":
            return self.blocks
        if self.kind != "curriculum":
            return 0
        joined = 1 + int(step * self.blocks / max(1.0, _JOINING * steps))
        return max(0, self.blocks - joined)

    def at(self, step: int, steps: int) -> Floats:
        """The weight of each level at a step: (L + 1,), with sum 1."""
        of_early = self.share * self.among_early()
        of_early[: self.first_level(step, steps)] = 0.0
        return np.append(of_early, 1 - of_early.sum())

    def _weights(self) -> Floats:
        levels = np.arange(self.blocks + 1, dtype=np.float64)
        return levels if self.kind == "linear" else np.ones_like(levels)


class Drawn(NamedTuple):
    """Pairs of a token and a level whose losses a step computes. Sorted by token."""

    token: Integers
    """The number of the token in the batch, (R,)."""
    level: Integers
    """(R,)."""
    share: Floats
    """What the pair's loss counts in the loss of the batch, (R,)."""


def draw_levels(
    weights: Weights, tokens: int, each: int, step: int, steps: int, generator: np.random.Generator
) -> Drawn:
    """Draw the levels whose losses a step computes: for each token the last level and `each` early ones.

    The draws of a batch are spread as evenly over the early levels as their weights allow (systematic
    sampling, in random order), so that each token's level has exactly the probability w_l / sum of early w.

    Parameters
    ----------
    weights : Weights
    tokens : int
        Tokens of the batch, n.
    each : int
        Early levels of a token, k.
    step, steps : int
        The number of this step, from 0, and of all steps.
    generator : numpy.random.Generator

    Returns
    -------
    Drawn
        The shares sum to 1: the loss is a mean over tokens.
    """
    last = np.full(tokens, 1 / tokens)
    if weights.share == 0:
        return Drawn(np.arange(tokens), np.full(tokens, weights.blocks), last)
    draws = tokens * each
    places = (generator.permutation(draws) + generator.random()) / draws
    levels = np.searchsorted(np.cumsum(weights.among_early())[:-1], places, side="right").reshape(
        tokens, each
    )
    share = weights.share / draws
    joined = levels >= weights.first_level(step, steps)
    last -= share * joined.sum(1)
    token, place = joined.nonzero()
    of_token = np.concatenate([np.arange(tokens), token])
    order = np.argsort(of_token, kind="stable")
    return Drawn(
        of_token[order],
        np.concatenate([np.full(tokens, weights.blocks), levels[token, place]])[order],
        np.concatenate([last, np.full(len(token), share)])[order],
    )


class _Streamed(torch.autograd.Function):
    """Sum of the losses of rows, times their shares, without keeping logits.

    The gradients of a block of rows are made while its softmax is at hand, so no logits are computed twice.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        features, weight, bias, last, shares, targets, teacher = inputs
        moved, moved_weight, moved_bias = ctx.needs_input_grad[:3]
        by_features = torch.empty_like(features) if moved else None
        by_weight = torch.zeros_like(weight) if moved_weight else None
        by_bias = torch.zeros_like(bias) if moved_bias else None
        losses = features.new_empty(len(features))
        rows = max(1, LOGITS_TOGETHER[features.device.type] // len(weight))
        for start in range(0, len(features), rows):
            part = slice(start, start + rows)
            logits = cap_logits(features[part], last)
            slope = None if last.softcap is None else 1 - (logits / last.softcap).square()
            logs = torch.log_softmax(logits, -1)
            if teacher is None:
                chosen = targets[part, None]
                losses[part] = -logs.gather(1, chosen)[:, 0]
                gradient = logs.exp_().scatter_add_(1, chosen, -torch.ones_like(chosen, dtype=logs.dtype))
            else:
                wanted = _of_rows(teacher, targets[part])
                likely = wanted.exp()
                losses[part] = (likely * (wanted - logs)).sum(1)
                gradient = logs.exp_().sub_(likely)
            if by_features is None and by_weight is None and by_bias is None:
                continue
            gradient *= shares[part, None]
            if slope is not None:
                gradient *= slope
            if last.factor != 1.0:
                gradient *= last.factor
            if by_features is not None:
                torch.mm(gradient, weight, out=by_features[part])
            if by_weight is not None:
                by_weight.addmm_(gradient.T, features[part])
            if by_bias is not None:
                by_bias += gradient.sum(0)
        ctx.save_for_backward(by_features, by_weight, by_bias)
        ctx.mark_non_differentiable(losses)
        return losses.double().mul(shares.double()).sum().to(losses.dtype), losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        factor = upstream[0]
        moved = [None if gradient is None else factor * gradient for gradient in ctx.saved_tensors]
        return *moved, None, None, None, None


def _of_rows(teacher: LogProbabilities, tokens: Tensor) -> Tensor:
    """Give the teacher's log probabilities for rows: a token's rows stand together and share them."""
    distinct, place = torch.unique_consecutive(tokens, return_inverse=True)
    found = teacher(distinct)
    return found if len(distinct) == len(tokens) else found[place]


def joint_loss(
    features: Tensor,
    last: LastMap,
    shares: Tensor,
    targets: Tensor,
    teacher: LogProbabilities | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of shares times losses of rows, each of them one token at one level.

    Logits exist for a few rows at a time only.

    Parameters
    ----------
    features : Tensor of shape (R, E)
        What the head's last map takes. The loss is differentiable in them, and in weight and bias of the map.
    last : LastMap
    shares : Tensor of shape (R,)
    targets : Tensor of shape (R,), int64
        Without a teacher: the token that each row should predict; the loss is -ln q(target). With a teacher:
        the number of each row's token, for the teacher; the loss is KL(p || q), p the teacher's distribution.
    teacher : callable, optional

    Returns
    -------
    loss : Tensor of shape ()
    losses : Tensor of shape (R,)
        Of each row, without gradient.
    """
    found: tuple[Tensor, Tensor] = _Streamed.apply(  # type: ignore[no-untyped-call]
        features, last.weight, last.bias, last, shares, targets, teacher
    )
    return found
