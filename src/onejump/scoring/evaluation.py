"""The stage "evaluate": how well a method predicts from each level, on validation samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from onejump.data.held_out import documents_of_samples
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.models.logit_parts import samples_together
from onejump.scoring.metrics import LABEL_METRICS, FinalDistribution, label_metrics, token_metrics
from onejump.scoring.predictors import Predictors, read_by
from onejump.scoring.standard_errors import ClusteredR2, Clusters, Variation
from onejump.scoring.top_tokens import top_tokens_of
from onejump.shortcuts.methods import ShortcutAt, methods_of


@dataclass(frozen=True)
class ArbitraryJumps:
    """Jumps to compare the selected one with."""

    arbitrary: Sequence[str | int] = ()
    """By place (first, middle, last), or by the level that they were fitted at."""
    random: int = 0
    """How many more to draw."""
    seed: int = 0
    """Of the draw."""


@torch.inference_mode()
def evaluate(
    store: ActivationStore,
    head: Head,
    methods: Mapping[str, ShortcutAt],
    *,
    documents: NDArray[Any] | None = None,
    precision_at: Sequence[int] = (1, 5, 10),
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """Measure methods at all early-exit levels.

    Parameters
    ----------
    store : ActivationStore
        Validation samples.
    head : Head
    methods : mapping of name -> function of a level that gives its shortcut
    documents : ndarray of shape (samples,), optional
        The document of each sample. The standard errors allow for samples of one document being alike
        (`onejump.scoring.standard_errors`). Unless given, each sentence counts as a document.
    precision_at : sequence of int
        Each k of the metrics precision@k.
    device : torch.device

    Returns
    -------
    DataFrame
        Columns method, level, metric, value (mean over samples), stderr, n (number of samples), documents
        (number of documents that they come from). The metric r2 is there for the methods that predict a
        state (`Shortcut.predicts_state`). The metrics accuracy and accuracy-change are there if the store
        knows the samples' labels (`label_metrics`).

    Raises
    ------
    OneJumpError
        If the store keeps fewer than max(precision_at) most likely tokens of each sample.
    """
    head, store = head.to(device), read_by(methods, store)
    # Of a classifier all labels are kept. There precision@k is 1 for every k from their number on.
    top_tokens = top_tokens_of(store, min(max(precision_at), head.vocabulary))
    known = store.labels()
    labels = None if known is None else torch.from_numpy(known.astype(np.int64)).to(device)
    clusters = Clusters(store.of_samples("sentence") if documents is None else documents)
    sources = range(store.levels - 1)
    variation = _variation(store, clusters, device)
    names = [*(f"precision@{k}" for k in precision_at), "surprisal", "kl"]
    names += [] if labels is None else LABEL_METRICS
    sums = {(method, level): clusters.sums(len(names)) for method in methods for level in sources}
    r2: dict[tuple[str, int], ClusteredR2] = {}
    predictors = Predictors(head, methods, device)
    with tqdm(total=store.samples, unit="sample", disable=None) as progress:
        for part, states, last in _parts(store, samples_together(head, device), device):
            final = FinalDistribution.of(head.logits(last), top_tokens[part].to(device))
            for level in sources:
                for method in methods:
                    logits, predicted = predictors.at(method, level).logits_and_states(states[level])
                    if predicted is not None:
                        if (method, level) not in r2:
                            r2[method, level] = ClusteredR2(variation, device)
                        r2[method, level].add(predicted, last, part)
                    of_labels = {} if labels is None else label_metrics(logits, final, labels[part])
                    metrics = token_metrics(logits, final, precision_at) | of_labels
                    clusters.add(sums[method, level], torch.stack([metrics[n] for n in names], 1), part)
            progress.update(len(last))
    rows: list[tuple[str, int, str, float, float]] = []
    for (method, level), of_clusters in sums.items():
        means, errors = (found.tolist() for found in clusters.mean_and_error(of_clusters))
        rows += [(method, level, *found) for found in zip(names, means, errors, strict=True)]
    rows += [(*key, "r2", *found.result()) for key, found in r2.items()]
    table = pd.DataFrame(rows, columns=["method", "level", "metric", "value", "stderr"])
    table = table.assign(n=clusters.samples, documents=clusters.documents)
    return table.sort_values(["method", "level"], kind="stable", ignore_index=True)


def _variation(store: ActivationStore, clusters: Clusters, device: torch.device | str) -> Variation:
    last = [store.levels - 1]
    mean = torch.zeros(store.hidden, dtype=torch.float64, device=device)
    for (states,) in store.blocks(last):
        mean += torch.from_numpy(states).to(device).double().sum(0) / store.samples
    variation, start = Variation(mean, clusters), 0
    for (states,) in store.blocks(last):
        variation.add(torch.from_numpy(states).to(device), slice(start, start + len(states)))
        start += len(states)
    return variation


def _parts(
    store: ActivationStore, together: int, device: torch.device | str
) -> Iterator[tuple[slice, list[Tensor], Tensor]]:
    """Samples, some at a time: which, their states at each early-exit level, and at the last level."""
    start = 0
    for block in store.blocks(range(store.levels)):
        for part in range(0, len(block[-1]), together):
            *states, last = (torch.from_numpy(level[part : part + together]).to(device) for level in block)
            which = slice(start, start + len(last))
            yield which, states, last
            start = which.stop


def evaluate_method(
    table: Path,
    shards: Sequence[Path],
    head: Path,
    shortcuts: Path | None,
    selection: Path | None = None,
    documents: Path | None = None,
    *,
    method: str,
    arbitrary: ArbitraryJumps = ArbitraryJumps(),
    precision_at: Sequence[int],
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage: evaluate one method.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, level, metric, value, stderr, n, documents, as of
        `evaluate`.
    shards : sequence of Path
        Validation shards.
    head : Path
        Of the model stage.
    shortcuts : Path or None
        Folder of the kind. For a method that uses a selected jump: folder of the kind that the jump was
        selected from. None for identity.
    selection : Path, optional
        Of the selection stage, for a method that uses a selected jump.
    documents : Path, optional
        Table of the stage "document roles", for the standard errors. Without it each sentence counts as a
        document.
    method : str
        As in `onejump.shortcuts.methods.methods_of`: a shortcut kind, or a method that uses selected jumps.
    arbitrary : ArbitraryJumps
        For the method arbitrary.
    precision_at : sequence of int
        Each k of the metrics precision@k.
    model, corpus : str
        Names, for the table.
    device : str

    Raises
    ------
    OneJumpError
        If the activations keep fewer than max(precision_at) most likely tokens of each sample.
    """
    model_digest = one_model(shards[0], head, shortcuts, selection)
    store = ActivationStore(shards)
    on = pick_device(device)
    methods = methods_of(
        method,
        shortcuts,
        selection,
        levels=store.levels - 1,
        arbitrary=arbitrary.arbitrary,
        random=arbitrary.random,
        seed=arbitrary.seed,
        device=on,
    )
    measured = evaluate(
        store,
        Head.load(head),
        methods,
        documents=documents_of_samples(store, documents),
        precision_at=precision_at,
        device=on,
    )
    write_table(table, measured, model_digest=model_digest, model=model, corpus=corpus)
