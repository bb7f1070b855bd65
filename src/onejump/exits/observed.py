"""What a method predicts at all levels, and how sure it is: what thresholds of gates are chosen on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onejump.data.store import ActivationStore
from onejump.exits.confidences import Floats
from onejump.exits.gates import Entropy, Margin, ThresholdGate, TopProbability
from onejump.models.head import Head
from onejump.models.logit_parts import samples_together
from onejump.models.most_likely import likeliest
from onejump.scoring.predictors import Predictors, read_by
from onejump.scoring.top_tokens import top_tokens_of
from onejump.shortcuts.methods import ShortcutAt

SURE: tuple[type[ThresholdGate], ...] = (TopProbability, Margin, Entropy)
"""Kinds of gate whose confidence needs the logits of one level only."""


class Observed(NamedTuple):
    """What a method predicts in n samples at L levels."""

    confidence: dict[str, Floats]
    """By kind of gate, each (n, L): those kinds that need one level only."""
    tokens: NDArray[np.int64]
    """Predicted tokens, (n, L)."""
    hits: NDArray[np.bool_]
    """Whether a predicted token is the full model's own, (n, L)."""
    documents: NDArray[np.int64]
    """Document of the sample, (n,)."""

    def of(self, samples: NDArray[np.bool_]) -> Observed:
        """Give some of the samples, for which the mask (n,) is True."""
        confidence = {kind: values[samples] for kind, values in self.confidence.items()}
        return Observed(confidence, self.tokens[samples], self.hits[samples], self.documents[samples])

    def patience(self, levels: Sequence[int]) -> Floats:
        """How many of these levels in a row, up to each one, predict the same token: (n, levels)."""
        tokens = self.tokens[:, levels]
        counts = np.ones(tokens.shape)
        for place in range(1, len(levels)):
            same = tokens[:, place] == tokens[:, place - 1]
            counts[:, place] = np.where(same, counts[:, place - 1] + 1, 1)
        return counts


class Sure(NamedTuple):
    """What n rows of logits predict, and how sure they are."""

    tokens: Tensor
    """(n,), int64."""
    of_kinds: tuple[Tensor, ...]
    """The confidences (n,) of each kind in `SURE`."""


def confidences_of(logits: Tensor) -> Sure:
    """Give the confidences of all kinds in `SURE` from one softmax.

    Each gate by itself needs an exponential of all logits (`onejump.exits.gates`): together they take more
    than twice as long.

    Parameters
    ----------
    logits : Tensor of shape (n, V)
        They are overwritten.
    """
    tokens = likeliest(logits)
    # Differences to the largest logit: their products with probabilities are small where probabilities are
    # large, so that the entropy is exact to a few roundings. A logit of -inf adds 0 to it.
    below = logits.sub_(logits.gather(-1, tokens)).clamp_min_(torch.finfo(logits.dtype).min)
    probabilities = torch.softmax(below, -1)
    first = probabilities.gather(-1, tokens)
    # ln p = below + ln p1 for each token.
    entropy = -first.log()[:, 0] - torch.linalg.vecdot(probabilities, below)
    second = probabilities.scatter_(-1, tokens, 0.0).amax(-1)
    top = first[:, 0]
    return Sure(tokens[:, 0], (top, top - second, 1 - entropy / math.log(max(logits.shape[-1], 2))))


@torch.inference_mode()
def observe(
    store: ActivationStore,
    head: Head,
    method: ShortcutAt,
    *,
    samples: Tensor | None = None,
    documents: NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> Observed:
    """Confidences and predicted tokens of a method at all early-exit levels.

    Parameters
    ----------
    store : ActivationStore
    head : Head
    method : function of a level that gives its shortcut
    samples : Tensor of shape (samples,), bool, optional
        Which samples of the store; all unless given.
    documents : ndarray of shape (samples,)
        The document of each sample of the store.
    device : torch.device
    """
    head, store = head.to(device), read_by({"method": method}, store)
    predictors = Predictors(head, {"method": method}, device)
    chosen = torch.ones(store.samples, dtype=torch.bool) if samples is None else samples
    rows = chosen.nonzero()[:, 0]
    own = top_tokens_of(store)[rows][:, 0].numpy()
    levels = store.levels - 1
    confidence = {kind.kind: np.empty((len(rows), levels)) for kind in SURE}
    tokens = np.empty((len(rows), levels), np.int64)
    for level in tqdm(range(levels), unit="level", disable=None):
        predictor = predictors.at("method", level)
        for part, of_level in store.parts(level, samples_together(head, device), chosen.numpy()):
            sure = confidences_of(predictor.logits(torch.from_numpy(of_level).to(device)))
            tokens[part, level] = sure.tokens.cpu().numpy()
            for kind, values in zip(SURE, sure.of_kinds, strict=True):
                confidence[kind.kind][part, level] = values.cpu().numpy()
    return Observed(confidence, tokens, tokens == own[:, None], documents[rows.numpy()])
