"""The batches of a tuning of an encoder-decoder: pairs, all tokens of whose targets count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from onejump.base.errors import CorpusError
from onejump.fitting.joint_losses import Integers, Weights, draw_levels
from onejump.fitting.tuning_batches import cut_into_batches


class TokenPair(NamedTuple):
    """A pair, as token ids."""

    source: Integers
    taken: Integers
    """What the decoder takes, start token included."""
    labels: Integers
    """What it has to predict at each position: the target, end token included."""


class PairBatches(Dataset[dict[str, Tensor]]):
    """Batches by the number of their step, as `onejump.fitting.tuning_batches.Batches` gives them.

    Parameters
    ----------
    pairs : sequence of TokenPair
    weights, steps, batch_tokens, each, seed, padding
        See `onejump.fitting.tuning_batches.Batches`. Sources and targets count as tokens of a batch.

    Raises
    ------
    CorpusError
        If there is no pair.
    """

    def __init__(
        self,
        pairs: Sequence[TokenPair],
        weights: Weights,
        *,
        steps: int,
        batch_tokens: int,
        each: int,
        seed: int,
        padding: int,
    ) -> None:
        if not pairs:
            raise CorpusError("no pair to tune the model on")
        self._pairs = pairs
        self.sentences = [np.concatenate([pair.source, pair.labels]) for pair in pairs]
        self._weights, self._steps, self._each = weights, steps, each
        self._seed, self._padding = seed, padding
        lengths = [2 * max(len(pair.source), len(pair.taken)) for pair in pairs]
        self.batches = cut_into_batches(lengths, steps, batch_tokens, seed)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Give the batch of a step: that of `Batches`, and source (pairs, length of the longest source)."""
        generator = np.random.default_rng([self._seed, 1, step])
        chosen = [self._pairs[number] for number in self.batches[step]]
        lengths = [len(pair.taken) for pair in chosen]
        drawn = draw_levels(self._weights, sum(lengths), self._each, step, self._steps, generator)
        arrays: dict[str, Any] = {
            "source": self._padded([pair.source for pair in chosen]),
            "tokens": self._padded([pair.taken for pair in chosen]),
            "rows": np.repeat(np.arange(len(chosen)), lengths),
            "positions": np.concatenate([np.arange(length) for length in lengths]),
            "targets": np.concatenate([pair.labels for pair in chosen]),
            "of": drawn.token,
            "level": drawn.level,
            "share": drawn.share.astype(np.float32),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _padded(self, sequences: Sequence[Integers]) -> Integers:
        padded = np.full((len(sequences), max(map(len, sequences))), self._padding, np.int64)
        for row, sequence in enumerate(sequences):
            padded[row, : len(sequence)] = sequence
        return padded
