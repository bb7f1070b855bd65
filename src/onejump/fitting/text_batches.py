"""The batches of a tuning of a classifier: each text counts once, at the position that the head reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from onejump.base.errors import CorpusError
from onejump.fitting.joint_losses import Integers, Weights, draw_levels
from onejump.fitting.tuning_batches import cut_into_batches
from onejump.models.prompts import Encoded


class TextBatches(Dataset[dict[str, Tensor]]):
    """Batches by the number of their step, as `onejump.fitting.tuning_batches.Batches` gives them.

    Parameters
    ----------
    texts : sequence of Encoded
    positions : sequence of int
        The position of each text that the head reads.
    labels : sequence of int or None
        The number of each text's label. None: 0 stands for all, for a loss that takes none.
    weights, steps, batch_tokens, each, seed, padding, context
        See `onejump.fitting.tuning_batches.Batches`.

    Raises
    ------
    CorpusError
        If there is no text.
    """

    def __init__(
        self,
        texts: Sequence[Encoded],
        positions: Sequence[int],
        labels: Sequence[int] | None,
        weights: Weights,
        *,
        steps: int,
        batch_tokens: int,
        each: int,
        seed: int,
        padding: int,
        context: int | None = None,
    ) -> None:
        if not texts:
            raise CorpusError("no text to tune the model on")
        self._texts = [np.asarray(text.tokens, np.int64) for text in texts]
        self._parts = [None if text.parts is None else np.asarray(text.parts, np.int64) for text in texts]
        self._positions = np.asarray(positions, np.int64)
        self._labels = np.asarray([0] * len(texts) if labels is None else labels, np.int64)
        # What a tuning is told apart from another one by.
        self.sentences = [np.append(text, of) for text, of in zip(self._texts, self._labels, strict=True)]
        self._weights, self._steps, self._each = weights, steps, each
        self._seed, self._padding = seed, padding
        self.batches = cut_into_batches(list(map(len, self._texts)), steps, batch_tokens, seed, context)

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Give the batch of a step: that of `Batches`, with labels as targets."""
        generator = np.random.default_rng([self._seed, 1, step])
        chosen: Integers = self.batches[step]
        texts = [self._texts[number] for number in chosen]
        tokens = np.full((len(texts), max(map(len, texts))), self._padding, np.int64)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = text
        drawn = draw_levels(self._weights, len(texts), self._each, step, self._steps, generator)
        arrays: dict[str, Any] = {
            "tokens": tokens,
            **self._parts_of(chosen, tokens.shape),
            "rows": np.arange(len(texts)),
            "positions": self._positions[chosen],
            "targets": self._labels[chosen],
            "of": drawn.token,
            "level": drawn.level,
            "share": drawn.share.astype(np.float32),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _parts_of(self, chosen: Integers, shape: tuple[int, ...]) -> dict[str, Integers]:
        """Which part of its text each token is of, where the tokenizer tells."""
        found = np.zeros(shape, np.int64)
        for row, number in enumerate(chosen):
            parts = self._parts[number]
            if parts is None:
                return {}
            found[row, : len(parts)] = parts
        return {"parts": found}
