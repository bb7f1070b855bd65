"""The stage "evaluation": how well each method predicts from each level, on validation samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.errors import OneJumpError
from onejump.base.files import read_json, read_table, write_table
from onejump.data.held_out import documents_of_samples
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.models.logit_parts import samples_together
from onejump.scoring.standard_errors import ClusteredR2, Clusters, Variation
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.files import ShortcutFolder
from onejump.shortcuts.methods import ShortcutAt, methods_of
from onejump.shortcuts.shortcut import LowRank, Shortcut


class Teacher(NamedTuple):
    """The true final distribution of n samples."""

    probabilities: Tensor
    """p, (n, V)."""
    negentropy: Tensor
    """Sum of p ln p, (n,)."""
    top_tokens: Tensor
    """Most likely tokens, best first, (n, k)."""


def token_metrics(logits: Tensor, teacher: Teacher, precision_at: Sequence[int]) -> dict[str, Tensor]:
    """Metrics of predicted logits (n, V) against the teacher, for each sample. The logits are used up.

    Those of `top_metrics`, and kl: KL(p || q) = sum p ln p - sum p ln q.
    """
    expected = torch.einsum("nv,nv->n", teacher.probabilities, logits)
    metrics, normaliser = top_metrics(logits, teacher.top_tokens, precision_at)
    metrics["kl"] = teacher.negentropy - expected + normaliser
    return metrics


def top_metrics(
    logits: Tensor, top_tokens: Tensor, precision_at: Sequence[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Metrics of predicted logits (n, V) against the teacher's top tokens (n, k). The logits are used up.

    - precision@k: 1 where the top token is among the k most likely tokens of the teacher (JTC, section 4).
    - surprisal: -ln q(w*), w* the teacher's most likely token (JTC, section 4).

    Returns
    -------
    dict of metric -> Tensor of shape (n,)
    Tensor of shape (n,)
        Logarithm of the sum of the exponentiated logits.
    """
    peak, top = logits.max(-1, keepdim=True)
    best = logits.gather(-1, top_tokens[:, :1])[:, 0]
    normaliser = logits.sub_(peak).exp_().sum(-1).log_() + peak[:, 0]
    hits = top_tokens == top
    metrics = {f"precision@{k}": hits[:, :k].any(-1).float() for k in precision_at}
    metrics["surprisal"] = normaliser - best
    return metrics, normaliser


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
        The document of each sample: those of one document are no independent ones to the standard errors
        (`onejump.scoring.standard_errors`). Unless given, each sentence counts as a document.
    precision_at : sequence of int

    Returns
    -------
    DataFrame
        Columns method, level, metric, value, stderr, n (samples), documents (how many they are from). r2 is
        there of methods that predict a state (`Shortcut.predicts_state`).

    Raises
    ------
    OneJumpError
        If the store keeps fewer most likely tokens than a precision looks at.
    """
    head = head.to(device)
    check_kept_tokens(store, precision_at)
    clusters = Clusters(store.of_samples("sentence") if documents is None else documents)
    sources = range(store.levels - 1)
    variation = _variation(store, clusters, device)
    names = [*(f"precision@{k}" for k in precision_at), "surprisal", "kl"]
    sums = {(method, level): clusters.sums(len(names)) for method in methods for level in sources}
    r2: dict[tuple[str, int], ClusteredR2] = {}
    exits = Exits(head, methods, device)
    with tqdm(total=store.samples, unit="sample", disable=None) as progress:
        for part, states, last, teacher in _parts(store, head, max(precision_at), device):
            for level in sources:
                for method in methods:
                    shortcut, exit_head = exits.at(method, level)
                    logits, predicted = _predict(states[level], shortcut, exit_head, head)
                    if shortcut.predicts_state:
                        if (method, level) not in r2:
                            r2[method, level] = ClusteredR2(variation, device)
                        r2[method, level].add(predicted, last, part)
                    metrics = token_metrics(logits, teacher, precision_at)
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


def check_kept_tokens(store: ActivationStore, precision_at: Sequence[int]) -> None:
    """Make sure that a store keeps the most likely tokens that precisions look at.

    Raises
    ------
    OneJumpError
        If it keeps fewer.
    """
    kept = store.of_samples("top_tokens").shape[1]
    if max(precision_at) > kept:
        raise OneJumpError(
            f"precision_at: {max(precision_at)} given, but {store.paths[0]} keeps the {kept} most likely "
            f"tokens of each sample; accepted is at most {kept}"
        )


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


class Exits:
    """Shortcuts with their heads. Low-rank ones are small and kept; an H x H one is read when needed."""

    def __init__(self, head: Head, methods: Mapping[str, ShortcutAt], device: torch.device | str) -> None:
        self._head, self._methods, self._device = head, methods, device
        self._kept: dict[tuple[str, int], LowRank] = {}
        self._heads: dict[tuple[int, ...], ExitHead] = {}

    def at(self, method: str, level: int) -> tuple[Shortcut, ExitHead | None]:
        """Give a method's shortcut for states of a level, and its exit head where it has one."""
        shortcut = self._kept.get((method, level)) or self._methods[method](level).to(self._device)
        if not isinstance(shortcut, LowRank):
            return shortcut, None
        self._kept[method, level] = shortcut
        # One B (and b) for all levels has one exit head for all levels.
        behind = tuple(t.data_ptr() for t in (shortcut.up, shortcut.bias) if t is not None)
        if behind not in self._heads:
            self._heads[behind] = ExitHead(self._head, shortcut.up, shortcut.bias)
        return shortcut, self._heads[behind]


def _predict(
    states: Tensor, shortcut: Shortcut, exit_head: ExitHead | None, head: Head
) -> tuple[Tensor, Tensor]:
    """Logits (n, V) and the predicted last-level states (n, H)."""
    if exit_head is None:
        predicted = shortcut(states)
        return head.logits(predicted), predicted
    assert isinstance(shortcut, LowRank)
    reduced = shortcut.reduce(states)
    predicted = reduced @ shortcut.up
    return exit_head.logits(reduced), predicted if shortcut.bias is None else predicted + shortcut.bias


def _parts(
    store: ActivationStore, head: Head, top_k: int, device: torch.device | str
) -> Iterator[tuple[slice, list[Tensor], Tensor, Teacher]]:
    """Samples in parts whose logits fit into memory: which, states of all levels, of the last, teacher."""
    top_tokens = torch.from_numpy(store.of_samples("top_tokens")[:, :top_k].astype(np.int64))
    rows = samples_together(head, device)
    start = 0
    for block in store.blocks(range(store.levels)):
        for part in range(0, len(block[-1]), rows):
            *states, last = (torch.from_numpy(level[part : part + rows]).to(device) for level in block)
            which = slice(start, start + len(last))
            yield which, states, last, _teacher(head.logits(last), top_tokens[which].to(device))
            start = which.stop


def _teacher(logits: Tensor, top_tokens: Tensor) -> Teacher:
    logits -= logits.logsumexp(-1, keepdim=True)
    probabilities = logits.exp()
    return Teacher(probabilities, torch.linalg.vecdot(probabilities, logits), top_tokens)


def evaluate_method(
    output: Path,
    shards: Sequence[Path],
    head: Path,
    *,
    method: str,
    shortcuts: Path | None,
    selection: Path | None = None,
    arbitrary: Sequence[str | int] = (),
    random: int = 0,
    documents: Path | None = None,
    precision_at: Sequence[int],
    seed: int = 0,
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage: evaluate one method.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus, method, level, metric, value, stderr, n, documents.
    shards : sequence of Path
        Validation shards.
    head : Path
        Of the model stage.
    method : str
        A fitted method, or what is made of a selection: ojfa, arbitrary (several), ojfa-normalised (the
        selected jump with each level's own normalisation statistics), or ojfa-distilled (of distilled jumps,
        with the one that held-out surprisal chose besides).
    shortcuts : Path or None
        The method's folder; for the latter ones that of the method selected from; None for identity.
    selection : Path
        For the latter ones.
    documents : Path, optional
        Table of the stage "document roles", for the standard errors.
    """
    store = ActivationStore(shards)
    on = pick_device(device)
    methods = methods_of(
        method,
        shortcuts,
        selection,
        levels=store.levels - 1,
        arbitrary=arbitrary,
        random=random,
        seed=seed,
        device=on,
    )
    table = evaluate(
        store,
        Head.load(head),
        methods,
        documents=documents_of_samples(store, documents),
        precision_at=precision_at,
        device=on,
    )
    write_table(output, table, model=model, corpus=corpus)


def collect(output: Path, tables: Sequence[Path]) -> None:
    """Put the methods' tables together."""
    write_table(output, pd.concat([read_table(table) for table in tables], ignore_index=True))


def count_parameters(
    output: Path, folders: Mapping[str, Path], selection: Path, *, model: str, corpus: str
) -> None:
    """Numbers that each method keeps at inference.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus, method, shortcuts (how many are kept), numbers,
        reduction (how many times fewer numbers than the set that the selected jump comes from).
    folders : mapping of method -> folder
    selection : Path
    """
    chosen = read_json(selection)
    multi_jump = chosen["computed_from"]["method"]
    counts = {"identity": (0, 0)}
    for method, path in folders.items():
        folder = ShortcutFolder(path)
        counts[method] = len(folder), folder.numbers()
    one = ShortcutFolder(folders[multi_jump]).load(chosen["jump"])
    counts["ojfa"] = 1, one.numbers()
    if "distilled" in folders:
        counts["ojfa-distilled"] = 1, ShortcutFolder(folders["distilled"]).load(0).numbers()
    full = counts[multi_jump][1]
    rows = [
        (model, corpus, method, kept, numbers, full / numbers if numbers else float("nan"))
        for method, (kept, numbers) in counts.items()
    ]
    columns = ["model", "corpus", "method", "shortcuts", "numbers", "reduction"]
    write_table(output, pd.DataFrame(rows, columns=columns))
