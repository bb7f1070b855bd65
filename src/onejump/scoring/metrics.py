"""Metrics of predicted next-token distributions against the true final distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class FinalDistribution(NamedTuple):
    """The model's own next-token distribution p of n samples: what every prediction is compared with."""

    probabilities: Tensor
    """p, (n, V)."""
    negentropy: Tensor
    """Sum of p ln p, (n,)."""
    top_tokens: Tensor
    """The k most likely tokens of each sample, the most likely first, (n, k)."""

    @classmethod
    def of(cls, logits: Tensor, top_tokens: Tensor) -> FinalDistribution:
        """From the model's own logits, which are overwritten.

        Parameters
        ----------
        logits : Tensor of shape (n, V)
        top_tokens : Tensor of shape (n, k), int64
        """
        logits -= logits.logsumexp(-1, keepdim=True)
        probabilities = logits.exp()
        return cls(probabilities, torch.linalg.vecdot(probabilities, logits), top_tokens)


def token_metrics(logits: Tensor, final: FinalDistribution, precision_at: Sequence[int]) -> dict[str, Tensor]:
    """Metrics of predicted logits, for each sample: those of `top_metrics`, and kl.

    kl is the Kullback-Leibler divergence KL(p || q) = sum p ln p - sum p ln q of the prediction q from the
    true final distribution p.

    Parameters
    ----------
    logits : Tensor of shape (n, V)
        Overwritten.
    final : FinalDistribution
        Of the same samples.
    precision_at : sequence of int
        Each k of the metrics precision@k.

    Returns
    -------
    dict of metric -> Tensor of shape (n,)
    """
    expected = torch.einsum("nv,nv->n", final.probabilities, logits)
    metrics, normaliser = top_metrics(logits, final.top_tokens, precision_at)
    metrics["kl"] = final.negentropy - expected + normaliser
    return metrics


LABEL_METRICS = ("accuracy", "accuracy-change")
"""Names of the metrics of `label_metrics`."""


def label_metrics(logits: Tensor, final: FinalDistribution, labels: Tensor) -> dict[str, Tensor]:
    """Metrics of predicted logits against the labels of texts, for each sample.

    - accuracy: 1 where the most likely label is the text's own, else 0.
    - accuracy-change: that minus the same for the true final distribution.

    Parameters
    ----------
    logits : Tensor of shape (n, V)
    final : FinalDistribution
        Of the same samples.
    labels : Tensor of shape (n,), int64

    Returns
    -------
    dict of metric -> Tensor of shape (n,)
    """
    right = (logits.argmax(-1) == labels).float()
    return {"accuracy": right, "accuracy-change": right - (final.top_tokens[:, 0] == labels).float()}


def top_metrics(
    logits: Tensor, top_tokens: Tensor, precision_at: Sequence[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Metrics of predicted logits that need only the most likely tokens of the true final distribution.

    - precision@k: 1 where the prediction's most likely token is among the k most likely tokens of the true
      final distribution, else 0 (arXiv 2303.09435, section 4).
    - surprisal: -ln q(w*), w* the most likely token of the true final distribution (arXiv 2303.09435,
      section 4).

    Parameters
    ----------
    logits : Tensor of shape (n, V)
        Overwritten.
    top_tokens : Tensor of shape (n, k), int64
        Tokens of the true final distribution, the most likely first.
    precision_at : sequence of int
        Each at most k.

    Returns
    -------
    dict of metric -> Tensor of shape (n,)
    Tensor of shape (n,)
        ln sum exp of the logits.
    """
    peak, top = logits.max(-1, keepdim=True)
    best = logits.gather(-1, top_tokens[:, :1])[:, 0]
    normaliser = logits.sub_(peak).exp_().sum(-1).log_() + peak[:, 0]
    hits = top_tokens == top
    metrics = {f"precision@{k}": hits[:, :k].any(-1).float() for k in precision_at}
    metrics["surprisal"] = normaliser - best
    return metrics, normaliser
