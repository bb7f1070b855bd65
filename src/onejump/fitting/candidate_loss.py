"""Cross-entropy within the candidates of a jump, without keeping any logits or rows of the unembedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onejump.base.amounts.distillation import LOGITS_TOGETHER
from onejump.fitting.teacher import Teacher
from onejump.models.most_likely import largest
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.shortlist_head import Judged, of_tokens, scores_of


class _CandidateLoss(torch.autograd.Function):
    """Mean cross-entropy to the teacher's tokens among the candidates.

    Goes through the samples in blocks whose logits, and whose rows of the unembedding, stay in the CPU's
    caches. The gradients of a block are made while its rows are at hand: each row is read once.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        features, weights, coordinates, exit_head, candidates, teacher = inputs
        head, (samples, width) = exit_head.head, features.shape
        k = min(candidates, head.vocabulary)
        by_features, by_weights = torch.empty_like(features), torch.empty_like(weights)
        total = features.new_zeros((), dtype=torch.float64)
        block = max(1, LOGITS_TOGETHER[features.device.type] // max(head.vocabulary, k * width))
        # Buffers for all blocks: fresh memory would cost as much as what fills it.
        all_logits = features.new_empty(min(block, samples), head.vocabulary)
        all_rows = features.new_empty(min(block, samples), k, width)
        for start in range(0, samples, block):
            part = slice(start, start + block)
            of_part, weight = features[part], weights[part]
            logits, rows = all_logits[: len(of_part)], all_rows[: len(of_part)]
            torch.mm(coordinates[part], exit_head.projection, out=logits)
            if exit_head.offset is not None:
                logits += exit_head.offset
            first, tokens = largest(logits, k)
            # The cap leaves the order as it is, so only the candidates need it.
            first = head.cap(first)
            torch.index_select(head.unembedding, 0, tokens.flatten(), out=rows.view(-1, width))
            products = torch.bmm(rows, of_part[..., None])[..., 0]
            own = of_tokens(head, products, tokens)
            log_shares = scores_of(weight, Judged(tokens, first, own)).log_softmax(1)
            # The logits are not needed any more. In their place, the teacher's weights meet the candidates.
            logits.scatter_(1, tokens, 0.0).scatter_(1, teacher.tokens[part], teacher.weights[part])
            wanted = logits.gather(1, tokens)
            total -= (wanted * log_shares).sum(dtype=torch.float64)
            by_scores = (log_shares.exp() * wanted.sum(1, keepdim=True) - wanted) / samples
            by_weights[part] = torch.stack([(by_scores * first).sum(1), (by_scores * own).sum(1)], 1)
            by_own = head.config.scale * weight[:, 1:] * by_scores
            if head.config.softcap is not None:
                by_own *= 1 - (own / head.config.softcap).square()
            by_features[part] = torch.bmm(by_own[:, None], rows)[:, 0]
        ctx.save_for_backward(by_features, by_weights)
        loss: Tensor = (total / samples).to(features.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (factor,), (by_features, by_weights) = upstream, ctx.saved_tensors
        return factor * by_features, factor * by_weights, None, None, None, None


def candidate_loss(
    exit_head: ExitHead, reduced: Tensor, judging: Tensor, weights: Tensor, candidates: int, teacher: Teacher
) -> Tensor:
    """Mean cross-entropy, within the candidates, to the teacher's tokens among them.

    The second look changes neither other tokens nor the probability of all candidates together. The loss is
    differentiable in the states that judge and in the weights, not in what finds the candidates.

    Parameters
    ----------
    exit_head : ExitHead
        Of the jump that finds the candidates.
    reduced : Tensor of shape (n, r)
        z of that jump.
    judging : Tensor of shape (n, H)
        The states that judge, before the final norm.
    weights : Tensor of shape (n, 2)
        a and b of each sample's level (`onejump.shortcuts.shortlist_head.judged`).
    candidates : int
        k.
    teacher : Teacher
        Of the same n samples: no token twice in a sample.

    Returns
    -------
    Tensor of shape ()
    """
    with torch.no_grad():
        coordinates = exit_head.coordinates(reduced)
    features = exit_head.head.features(judging)
    loss: Tensor = _CandidateLoss.apply(features, weights, coordinates, exit_head, candidates, teacher)  # type: ignore[no-untyped-call]
    return loss
