"""Training samples that are not trained on: they say when to stop, and what to prefer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onejump.errors import StudyError
from onejump.files import read_table
from onejump.store import ActivationStore


def hold_out(documents: Sequence[str], fraction: float, seed: int) -> Tensor:
    """Samples that are not trained on: all of some documents.

    Parameters
    ----------
    documents : sequence of str
        The document of each sample.
    fraction : float
        Of the documents; at least one is held out and one is not.
    seed : int

    Returns
    -------
    Tensor of shape (samples,), bool

    Raises
    ------
    StudyError
        If there is but one document.
    """
    every = sorted(set(documents))
    if len(every) < 2:
        raise StudyError(
            f"some documents are held out of the fits: {len(every)} document given, at least 2 accepted"
        )
    count = min(max(1, round(fraction * len(every))), len(every) - 1)
    chosen = np.random.default_rng(seed).permutation(len(every))[:count]
    names = {every[i] for i in chosen.tolist()}
    return torch.tensor([document in names for document in documents])


def hold_out_samples(store: ActivationStore, corpus: Path, fraction: float, seed: int) -> Tensor:
    """`hold_out` for the samples of a store, by the documents of the corpus stage's table."""
    documents = read_table(corpus).set_index("sentence_id")["document"]
    return hold_out(documents.loc[store.of_samples("sentence")].tolist(), fraction, seed)


def some_of(rows: Tensor, count: int) -> Tensor:
    """At most `count` of some rows, evenly spread over them."""
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()]
