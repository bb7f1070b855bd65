"""The stage "confidences": what a method predicts at every early-exit level, and how confident it is.

Its tables are what early exit, gates, oracle exits and sub-words are computed from. Each has one row for each
sample at each level:

| column | what it is |
|---|---|
| `method` | |
| `sample` | the sample's number in the store |
| `document` | its document |
| `position` | position of its token in the sentence |
| `level` | |
| `token` | the predicted token |
| `probability` | its probability |
| `margin` | its probability minus that of the second most likely token |
| `entropy` | 1 - H / ln V, H the entropy of the prediction: 1 if one token has all the probability |
| `hit` | whether the predicted token is the full model's own token |
| `z0`, `z1`, ... | where asked for: the coordinates that a low-rank jump predicts from |
| `label` | of texts with labels: the text's own |
| `final` | of texts with labels: the one that the full model predicts |
"""

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
from onejump.exits.learned_gate import coordinates_at
from onejump.exits.observed import confidences_of
from onejump.models.head import Head
from onejump.models.logit_parts import samples_together
from onejump.models.most_likely import likeliest
from onejump.scoring.predictors import Predictors, read_by
from onejump.scoring.top_tokens import top_tokens_of
from onejump.shortcuts.methods import ShortcutAt, methods_of

# Columns that are measured, with their number format.
_MEASURED = {
    "token": torch.int32,
    "probability": torch.float32,
    "margin": torch.float32,
    "entropy": torch.float32,
    "hit": torch.bool,
}


@torch.inference_mode()
def confidences(
    store: ActivationStore,
    head: Head,
    methods: Mapping[str, ShortcutAt],
    *,
    samples: Tensor | None = None,
    documents: NDArray[Any] | None = None,
    coordinates: bool = False,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """What each method predicts at all early-exit levels, how sure it is, and whether it is right.

    Parameters
    ----------
    store : ActivationStore
    head : Head
    methods : mapping of name -> function of a level that gives its shortcut
    samples : Tensor of shape (samples,), bool, optional
        Which samples of the store; all unless given.
    documents : ndarray of shape (samples,), optional
        The document of each sample of the store; unless given, each sentence counts as a document.
    coordinates : bool
        Whether to give the coordinates of low-rank jumps too.
    device : torch.device

    Returns
    -------
    DataFrame
        Columns as in the module's docstring.
    """
    head, store = head.to(device), read_by(methods, store)
    predictors = Predictors(head, methods, device)
    chosen = torch.ones(store.samples, dtype=torch.bool) if samples is None else samples
    rows = chosen.nonzero()[:, 0]
    own = top_tokens_of(store)[rows].to(device)
    levels = store.levels - 1
    found = {
        method: {name: torch.empty(levels, len(rows), dtype=kind) for name, kind in _MEASURED.items()}
        for method in methods
    }
    reduced: dict[str, list[Tensor]] = {method: [] for method in methods}
    together = samples_together(head, device)
    for level in tqdm(range(levels), unit="level", disable=None):
        at_level = {method: predictors.at(method, level) for method in methods}
        for part, of_level in store.parts(level, together, chosen.numpy()):
            states, tokens = torch.from_numpy(of_level).to(device), own[part]
            for method, predictor in at_level.items():
                for name, values in _measured(predictor.logits(states), tokens).items():
                    found[method][name][level, part] = values.cpu()
                if coordinates:
                    z = coordinates_at(methods[method](level).to(device), states)
                    reduced[method] += [] if z is None else [z.float().cpu()]
    about = _about(store, rows.numpy(), documents)
    labels = store.labels()
    if labels is not None:
        about |= {"label": np.tile(labels[rows], levels), "final": np.tile(own.cpu().numpy()[:, 0], levels)}
    return pd.concat(
        [
            pd.DataFrame({"method": method, **about, **_columns(of_levels), **_numbered(reduced[method])})
            for method, of_levels in found.items()
        ],
        ignore_index=True,
    )


def _measured(logits: Tensor, own: Tensor) -> dict[str, Tensor]:
    """Columns `_MEASURED` of n rows of logits and the full model's tokens (n, 1). Overwrites the logits."""
    token = likeliest(logits)
    # Where the full model's own token shares the largest logit, it is the predicted one.
    hit = logits.gather(-1, own) == logits.gather(-1, token)
    probability, margin, entropy = confidences_of(logits).of_kinds
    return {
        "token": torch.where(hit, own, token)[:, 0],
        "probability": probability,
        "margin": margin,
        "entropy": entropy,
        "hit": hit[:, 0],
    }


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


def _columns(of_levels: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: values.flatten().numpy() for name, values in of_levels.items()}


def _numbered(reduced: list[Tensor]) -> dict[str, NDArray[Any]]:
    """Columns of coordinates, of all samples of level 0 first; none if there are no coordinates."""
    return {f"z{at}": of.numpy() for at, of in enumerate(torch.cat(reduced).T)} if reduced else {}


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
    coordinates: bool = False,
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
        As in `onejump.scoring.evaluation.evaluate_method`. Where thresholds are chosen, the shortcuts must
        not have been fitted to the documents for thresholds: there they would be more confident than
        elsewhere. Thresholds are judged with the same fit, as another one is more or less confident.
    documents : Path, optional
        Table of the stage "document roles"; without it each sentence counts as a document.
    method : str
        As in `onejump.scoring.evaluation.evaluate_method`.
    role : {"thresholds"}, optional
        Only samples of documents of this role; unless given, all samples.
    coordinates : bool
        As in `confidences`.
    device : str
    """
    model_digest = one_model(shards[0], head, shortcuts, selection)
    store = ActivationStore(shards)
    on = pick_device(device)
    methods = methods_of(method, shortcuts, selection, levels=store.levels - 1, device=on)
    samples = None if documents is None or role is None else samples_with_role(store, documents, role)
    of_samples = documents_of_samples(store, documents)
    found = confidences(
        store,
        Head.load(head),
        methods,
        samples=samples,
        documents=of_samples,
        coordinates=coordinates,
        device=on,
    )
    write_table(table, found, model_digest=model_digest)
