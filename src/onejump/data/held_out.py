"""Finds the samples of a store by the roles of their documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onejump.base.errors import OneJumpError, StudyError
from onejump.base.files import read_table
from onejump.data.store import ActivationStore


def samples_with_role(store: ActivationStore, documents: Path, role: str) -> Tensor:
    """Find the samples of a store that come from documents of a role.

    Parameters
    ----------
    store : ActivationStore
        Training samples.
    documents : Path
        Table of the stage "document roles".
    role : {"fit", "stopping", "thresholds"}

    Returns
    -------
    Tensor of shape (samples,), bool

    Raises
    ------
    StudyError
        If there is no such sample.
    """
    found = _of_samples(store, documents, "role") == role
    if not found.any():
        raise StudyError(f"{documents}: no document has the role {role!r}, and at least one is needed")
    return torch.from_numpy(found)


def documents_of_samples(store: ActivationStore, documents: Path | None) -> NDArray[np.int64]:
    """The document of each sample of a store, as a number: ndarray of shape (samples,).

    Parameters
    ----------
    store : ActivationStore
    documents : Path, optional
        Table of the stage "document roles". Without it, each sentence counts as a document, since at least
        the positions of one sentence are not independent.
    """
    if documents is None:
        return store.of_samples("sentence")
    return _of_samples(store, documents, "document").astype(np.int64)


def _of_samples(store: ActivationStore, documents: Path, column: str) -> NDArray[np.generic]:
    table = read_table(documents).set_index("sentence_id")[column]
    sentences = store.of_samples("sentence")
    unknown = ~np.isin(sentences, table.index)
    if unknown.any():
        raise OneJumpError(
            f"{documents}: sentence {sentences[unknown][0]} of {store.paths[0].parent} is not in this table: "
            "activations and documents of one corpus were expected"
        )
    return table.loc[sentences].to_numpy()


def some_of(rows: Tensor, count: int) -> Tensor:
    """Choose at most `count` of the rows, evenly spread over all of them."""
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()]


def drawn_among(chosen: Tensor, count: int, seed: int) -> Tensor:
    """Draw samples among those that are chosen: all of them, if they are not more than `count`.

    A larger count draws the samples of a smaller one, and others.

    Parameters
    ----------
    chosen : Tensor of shape (samples,), bool
    count, seed : int

    Returns
    -------
    Tensor of shape (samples,), bool
    """
    rows = chosen.nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    drawn = torch.zeros_like(chosen)
    drawn[rows[order[:count]]] = True
    return drawn
