"""The batches of a tuning: sentences, the tokens that count, and the levels whose losses are computed.

The batch of a step depends on the seed and the number of the step alone. So a tuning that goes on from a
checkpoint sees what it would have seen without the kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from onejump.base.errors import CorpusError
from onejump.fitting.joint_losses import Integers, Weights, draw_levels

# The sentences of this many batches are sorted by length, then cut into batches: that leaves little padding.
# The batches then come in random order.
_SORTED_TOGETHER = 16
# Share of the tokens that are masked for a masked language model (arXiv 1810.04805).
_MASKED = 0.15


def cut_into_batches(
    lengths: Sequence[int], steps: int, batch_tokens: int, seed: int, context: int | None = None
) -> list[Integers]:
    """Say which sentences each step trains on.

    Each pass over the sentences has an order of its own. Every sentence comes once in each pass.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each sentence.
    steps : int
    batch_tokens : int
        The most tokens of a batch, padding included. A longer sentence is a batch of its own.
    seed : int
    context : int, optional
        A sentence of more tokens than this is a batch of its own (`Transformer.context`).

    Returns
    -------
    list of ndarray of int64
        The numbers of the sentences, for each step.
    """
    sizes = np.asarray(lengths)
    generator = np.random.default_rng([seed, 0])
    window = max(1, _SORTED_TOGETHER * batch_tokens // max(1, int(sizes.mean())))
    batches: list[Integers] = []
    while len(batches) < steps:
        order = generator.permutation(len(sizes))
        for start in range(0, len(order), window):
            some = order[start : start + window]
            some = some[np.argsort(sizes[some], kind="stable")]
            cut = list(_cut(some, sizes, batch_tokens, context))
            batches += [cut[place] for place in generator.permutation(len(cut))]
    return batches[:steps]


def _cut(some: Integers, sizes: Integers, batch_tokens: int, context: int | None) -> list[Integers]:
    """Cut sentences, sorted by rising length, into batches."""
    cut: list[list[int]] = [[]]
    for sentence in some.tolist():
        length = int(sizes[sentence])
        alone = context is not None and length > context
        if cut[-1] and (alone or (len(cut[-1]) + 1) * length > batch_tokens):
            cut.append([])
        cut[-1].append(sentence)
    return [np.asarray(batch) for batch in cut]


class Batches(Dataset[dict[str, Tensor]]):
    """Batches by the number of their step.

    Parameters
    ----------
    sentences : sequence of sequence of int
        Token ids of each sentence.
    weights : Weights
    steps : int
    batch_tokens : int
    each : int
        Early levels of a token.
    seed : int
    padding : int
        Token that fills a batch up on the right.
    context : int, optional
        See `cut_into_batches`.
    mask : int, optional
        The mask token of a masked language model; None for a causal one.
    special : sequence of int
        Tokens that are never masked.

    Raises
    ------
    CorpusError
        If no sentence has a token to train on.
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[int]],
        weights: Weights,
        *,
        steps: int,
        batch_tokens: int,
        each: int,
        seed: int,
        padding: int,
        context: int | None = None,
        mask: int | None = None,
        special: Sequence[int] = (),
    ) -> None:
        self._mask, self._special = mask, np.asarray(special, np.int64)
        kept = [np.asarray(sentence, np.int64) for sentence in sentences]
        self.sentences = [sentence for sentence in kept if len(self._predictable(sentence))]
        if not self.sentences:
            raise CorpusError("no sentence to tune the model on has a token to predict")
        self._weights, self._steps, self._each = weights, steps, each
        self._seed, self._padding = seed, padding
        lengths = [len(sentence) for sentence in self.sentences]
        self.batches = cut_into_batches(lengths, steps, batch_tokens, seed, context)

    def __len__(self) -> int:
        return self._steps

    def _predictable(self, sentence: Integers) -> Integers:
        """The positions whose predictions count: those before another token, or those that may be masked."""
        if self._mask is None:
            return np.arange(len(sentence) - 1)
        return (~np.isin(sentence, self._special)).nonzero()[0]

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Give the batch of a step.

        Returns
        -------
        dict
            tokens (sentences, length); rows, positions, targets (n,): the tokens that count; of, level, share
            (R,): the pairs of these tokens and levels (`onejump.fitting.joint_losses.Drawn`).
        """
        generator = np.random.default_rng([self._seed, 1, step])
        chosen = [self.sentences[number] for number in self.batches[step]]
        tokens = np.full((len(chosen), max(map(len, chosen))), self._padding, np.int64)
        rows, positions, targets = [], [], []
        for row, sentence in enumerate(chosen):
            tokens[row, : len(sentence)] = sentence
            where = self._predictable(sentence)
            if self._mask is None:
                targets.append(sentence[1:])
            else:
                count = max(1, round(_MASKED * len(where)))
                where = np.sort(generator.choice(where, count, replace=False))
                targets.append(sentence[where])
                tokens[row, where] = self._mask
            rows.append(np.full(len(where), row))
            positions.append(where)
        count = sum(map(len, rows))
        drawn = draw_levels(self._weights, count, self._each, step, self._steps, generator)
        arrays: dict[str, Any] = {
            "tokens": tokens,
            "rows": np.concatenate(rows),
            "positions": np.concatenate(positions),
            "targets": np.concatenate(targets),
            "of": drawn.token,
            "level": drawn.level,
            "share": drawn.share.astype(np.float32),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
