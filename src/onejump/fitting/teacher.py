"""The teacher: the model's own most likely tokens, which distillation trains on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from onejump.base.amounts.head_metric import SAMPLES_TOGETHER
from onejump.data.store import ActivationStore
from onejump.fitting.cross_entropy import cross_entropy
from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead


class Teacher(NamedTuple):
    """The most likely tokens of the model at n samples, and how likely each is."""

    tokens: Tensor
    """(n, k), int64."""
    weights: Tensor
    """(n, k), probabilities, scaled so that those of a sample add up to 1."""

    @classmethod
    def of(cls, store: ActivationStore, sharpness: float = 1.0) -> Teacher:
        """Read the teacher of all samples of a store, its logits multiplied by `sharpness`."""
        logits = torch.from_numpy(store.of_samples("top_logits"))
        tokens = torch.from_numpy(store.of_samples("top_tokens").astype(np.int64))
        return cls(tokens, (sharpness * logits).softmax(1))

    def rows(self, rows: Tensor, device: torch.device) -> Teacher:
        """Take the teacher of some samples to a device."""
        return Teacher(self.tokens[rows].to(device), self.weights[rows].to(device))


def exit_loss(exit_head: ExitHead, reduced: Tensor, teacher: Teacher) -> Tensor:
    """Give the `cross_entropy` of reduced states z (n, r), behind an exit head, to their teacher."""
    return cross_entropy(
        exit_head.coordinates(reduced),
        exit_head.projection,
        *teacher,
        offset=exit_head.offset,
        softcap=exit_head.head.config.softcap,
    )


def head_metric(head: Head, teacher: Teacher, rows: Tensor) -> Tensor:
    """Measure how much a small error in the last level's state (`Head.essence`) changes the distribution.

    The Fisher information F = E[W' (diag(p) - p p') W] of the final distribution, W = scale W_U diag(gain)
    (`Head.linear`): for a small error e, the divergence of the distributions is e' F e / 2.

    Parameters
    ----------
    head : Head
    teacher : Teacher
    rows : Tensor of shape (n,), int64
        The samples whose mean E is.

    Returns
    -------
    Tensor of shape (H, H), float64
    """
    device = head.gain.device
    matrix = head.linear().double()
    frequency = torch.zeros(head.vocabulary, dtype=torch.float64, device=device)
    metric = torch.zeros(head.hidden, head.hidden, dtype=torch.float64, device=device)
    for part in torch.split(rows, SAMPLES_TOGETHER):
        tokens, weights = teacher.rows(part, device)
        probabilities = weights.double() / len(rows)
        frequency.index_add_(0, tokens.flatten(), probabilities.flatten())
        means = torch.einsum("nk,nkh->nh", probabilities, matrix[tokens]) * math.sqrt(len(rows))
        metric.addmm_(means.T, means, alpha=-1)
    return metric.addmm_(matrix.T, frequency[:, None] * matrix)
