"""The stage "confidences": how confident a method is in its predicted token, at every early-exit level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.data.held_out import documents_of_samples, samples_with_role
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.models.logit_parts import samples_together
from onejump.scoring.predictors import Predictors
from onejump.scoring.top_tokens import top_tokens_of
from onejump.shortcuts.methods import ShortcutAt, methods_of


@torch.inference_mode()
def confidences(
    store: ActivationStore,
    head: Head,
    methods: Mapping[str, ShortcutAt],
    *,
    samples: Tensor | None = None,
    documents: NDArray[Any] | None = None,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Probability of each method's predicted token at all early-exit levels, and whether it is right.

    Parameters
    ----------
    store : ActivationStore
    head : Head
    methods : mapping of name -> function of a level that gives its shortcut
    samples : Tensor of shape (samples,), bool, optional
        Which samples of the store; all unless given.
    documents : ndarray of shape (samples,), optional
        The document of each sample of the store; unless given, each sentence counts as a document.
    device : torch.device

    Returns
    -------
    DataFrame
        Columns method, sample (its number in the store), document, position, level, probability (of the
        predicted token) and hit (whether the predicted token is the full model's own token).
    """
    head = head.to(device)
    predictors = Predictors(head, methods, device)
    chosen = torch.ones(store.samples, dtype=torch.bool) if samples is None else samples
    rows = chosen.nonzero()[:, 0]
    own = top_tokens_of(store)[rows].to(device)
    levels = store.levels - 1
    found = {method: torch.empty(levels, len(rows), 2) for method in methods}
    together = samples_together(head, device)
    for level in tqdm(range(levels), unit="level", disable=None):
        at_level = {method: predictors.at(method, level) for method in methods}
        for part, of_level in store.parts(level, together, chosen.numpy()):
            states, tokens = torch.from_numpy(of_level).to(device), own[part]
            for method, predictor in at_level.items():
                found[method][level, part] = _confidence(predictor.logits(states), tokens).cpu()
    return pd.concat(
        [
            pd.DataFrame({"method": method, **_about(store, rows.numpy(), documents), **_columns(of_levels)})
            for method, of_levels in found.items()
        ],
        ignore_index=True,
    )


def _confidence(logits: Tensor, tokens: Tensor) -> Tensor:
    """Largest probability, and whether it is that of a token (n, 1), as (n, 2). Overwrites the logits."""
    hit = logits.gather(-1, tokens)[:, 0] == logits.amax(-1)
    return torch.stack([torch.softmax(logits, -1, out=logits).amax(-1), hit.float()], 1)


def _about(
    store: ActivationStore, rows: NDArray[np.int64], documents: NDArray[Any] | None
) -> dict[str, NDArray[Any]]:
    """Columns that say which sample and level a row is about; all samples of level 0 come first."""
    levels = store.levels - 1
    from_documents = store.of_samples("sentence") if documents is None else documents
    return {
        "sample": np.tile(rows.astype(np.int32), levels),
        "document": np.tile(from_documents[rows].astype(np.int64), levels),
        "position": np.tile(store.of_samples("position")[rows].astype(np.int32), levels),
        "level": np.repeat(np.arange(levels, dtype=np.int16), len(rows)),
    }


def _columns(of_levels: Tensor) -> dict[str, NDArray[Any]]:
    probability, hit = of_levels.flatten(0, 1).T.numpy()
    return {"probability": probability, "hit": hit.astype(bool)}


def measure_confidences(
    table: Path,
    shards: Sequence[Path],
    head: Path,
    shortcuts: Path | None,
    selection: Path | None = None,
    documents: Path | None = None,
    *,
    method: str,
    role: str | None = None,
    device: str = "auto",
) -> None:
    """The stage: the confidences of one method.

    Parameters
    ----------
    table : Path
        To write: `confidences` of the method.
    shards : sequence of Path
        Validation shards, or the training shards whose held-out documents thresholds are chosen on.
    head : Path
        Of the model stage.
    shortcuts, selection
        As in `onejump.scoring.evaluation.evaluate_method`. On training shards, the shortcuts must not have
        been fitted to the documents for thresholds: there they would be more confident than elsewhere.
    documents : Path, optional
        Table of the stage "document roles"; without it each sentence counts as a document.
    method : str
        As in `onejump.scoring.evaluation.evaluate_method`.
    role : {"thresholds"}, optional
        Only samples of documents of this role; unless given, all samples.
    device : str
    """
    model_digest = one_model(shards[0], head, shortcuts, selection)
    store = ActivationStore(shards)
    on = pick_device(device)
    methods = methods_of(method, shortcuts, selection, levels=store.levels - 1, device=on)
    samples = None if documents is None or role is None else samples_with_role(store, documents, role)
    of_samples = documents_of_samples(store, documents)
    found = confidences(store, Head.load(head), methods, samples=samples, documents=of_samples, device=on)
    write_table(table, found, model_digest=model_digest)
