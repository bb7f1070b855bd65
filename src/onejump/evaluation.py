"""The stage "evaluation": how well each method predicts from each level, on validation samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.device import pick_device
from onejump.exit_head import ExitHead
from onejump.files import read_json, read_table, write_table
from onejump.head import Head
from onejump.logit_parts import samples_together
from onejump.maps import NNJTC, Identity, LowRank, Shortcut, ShortcutFolder
from onejump.store import ActivationStore

ShortcutAt = Callable[[int], Shortcut]
"""The shortcut that a method uses at a level."""


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


class _Variation:
    """Spread of the last level's states: what r2 is measured against."""

    def __init__(self, store: ActivationStore, device: torch.device | str) -> None:
        last = [store.levels - 1]
        self.mean = torch.zeros(store.hidden, dtype=torch.float64, device=device)
        for (states,) in store.blocks(last):
            self.mean += torch.from_numpy(states).to(device).double().sum(0) / store.samples
        # D'D of the squared deviations D (n, H).
        self.gram = torch.zeros(store.hidden, store.hidden, dtype=torch.float64, device=device)
        total = torch.zeros_like(self.mean)
        for (states,) in store.blocks(last):
            deviations = self.squared_deviations(torch.from_numpy(states).to(device))
            total += deviations.sum(0)
            self.gram.addmm_(deviations.T, deviations)
        # 0 where a coordinate is constant.
        self.inverse_total = torch.where(total > 0, 1 / total, 0.0)

    def squared_deviations(self, last: Tensor) -> Tensor:
        """(y - mean)^2 of last-level states y, (n, H)."""
        return (last.double() - self.mean).square_()


class _R2:
    """r2 averaged over coordinates, as scikit-learn's `r2_score(..., multioutput="uniform_average")`.

    With squared errors e_ij, squared deviations d_ij, T_j = sum_i d_ij and q_j = sum_i e_ij / T_j, r2 is
    1 - mean_j q_j. Its standard error is that of the linearised ratio: sample i moves r2 by -(a_i - b_i) / H,
    where a_i = sum_j e_ij / T_j and b_i = sum_j q_j d_ij / T_j. As q is known at the end only, the sum of
    (a_i - b_i)^2 is put together from sums of a_i^2, a_i d_i and d_i d_i'.
    """

    def __init__(self, variation: _Variation) -> None:
        self._variation = variation
        self._errors = torch.zeros_like(variation.mean)
        self._squares = 0.0
        self._with_deviations = torch.zeros_like(variation.mean)

    def add(self, predicted: Tensor, last: Tensor, deviations: Tensor) -> None:
        errors = (last - predicted).double().square_()
        self._errors += errors.sum(0)
        relative = errors @ self._variation.inverse_total
        self._squares += float(relative.square().sum())
        self._with_deviations += relative @ deviations

    def result(self) -> tuple[float, float]:
        inverse = self._variation.inverse_total
        # A constant coordinate counts 0 if predicted exactly, else 1.
        ratios = torch.where(inverse > 0, self._errors * inverse, (self._errors > 0).double())
        weights = ratios * inverse
        variance = (
            self._squares - 2 * weights @ self._with_deviations + weights @ self._variation.gram @ weights
        )
        return float(1 - ratios.mean()), float(variance.clamp_min(0).sqrt()) / len(ratios)


class _Mean:
    """Mean of a metric over samples, and its standard error."""

    def __init__(self) -> None:
        self.total = self.squares = 0.0

    def add(self, values: Tensor) -> None:
        values = values.double()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    def result(self, n: int) -> tuple[float, float]:
        mean = self.total / n
        variance = max(0.0, self.squares / n - mean**2) * n / max(1, n - 1)
        return mean, float(np.sqrt(variance / n))


@torch.inference_mode()
def evaluate(
    store: ActivationStore,
    head: Head,
    methods: Mapping[str, ShortcutAt],
    *,
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
    precision_at : sequence of int

    Returns
    -------
    DataFrame
        Columns method, level, metric, value, stderr, n. r2 is there of methods that predict a state
        (`Shortcut.predicts_state`).
    """
    head = head.to(device)
    sources = range(store.levels - 1)
    variation = _Variation(store, device)
    means: dict[tuple[str, int], dict[str, _Mean]] = {(m, level): {} for m in methods for level in sources}
    r2: dict[tuple[str, int], _R2] = {}
    exits = Exits(head, methods, device)
    done = 0
    with tqdm(total=store.samples, unit="sample", disable=None) as progress:
        for states, last, teacher in _parts(store, head, max(precision_at), device):
            deviations = variation.squared_deviations(last)
            for level in sources:
                for method in methods:
                    shortcut, exit_head = exits.at(method, level)
                    logits, predicted = _predict(states[level], shortcut, exit_head, head)
                    if shortcut.predicts_state:
                        found = r2.setdefault((method, level), _R2(variation))
                        found.add(predicted, last, deviations)
                    metrics = token_metrics(logits, teacher, precision_at)
                    for metric, values in metrics.items():
                        means[method, level].setdefault(metric, _Mean()).add(values)
            done += len(last)
            progress.update(len(last))
    rows = [
        (*key, metric, *mean.result(done), done)
        for key, of_metrics in means.items()
        for metric, mean in of_metrics.items()
    ]
    rows += [(*key, "r2", *found.result(), done) for key, found in r2.items()]
    columns = ["method", "level", "metric", "value", "stderr", "n"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["method", "level"], kind="stable", ignore_index=True
    )


class Exits:
    """Shortcuts with their heads. Low-rank ones are small and kept; an H x H one is read when needed."""

    def __init__(self, head: Head, methods: Mapping[str, ShortcutAt], device: torch.device | str) -> None:
        self._head, self._methods, self._device = head, methods, device
        self._kept: dict[tuple[str, int], LowRank] = {}
        self._heads: dict[tuple[int, ...], ExitHead] = {}

    def at(self, method: str, level: int) -> tuple[Shortcut, ExitHead | None]:
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
) -> Iterator[tuple[list[Tensor], Tensor, Teacher]]:
    """Samples in parts whose logits fit into memory: states of early-exit levels, of the last, teacher."""
    top_tokens = torch.from_numpy(store.of_samples("top_tokens")[:, :top_k].astype(np.int64))
    rows = samples_together(head, device)
    start = 0
    for block in store.blocks(range(store.levels)):
        for part in range(0, len(block[-1]), rows):
            *states, last = (torch.from_numpy(level[part : part + rows]).to(device) for level in block)
            stop = start + len(last)
            yield states, last, _teacher(head.logits(last), top_tokens[start:stop].to(device))
            start = stop


def _teacher(logits: Tensor, top_tokens: Tensor) -> Teacher:
    logits -= logits.logsumexp(-1, keepdim=True)
    probabilities = logits.exp()
    return Teacher(probabilities, torch.linalg.vecdot(probabilities, logits), top_tokens)


def arbitrary_jumps(
    choices: Sequence[str | int], random: int, *, levels: int, chosen: int, seed: int
) -> dict[str, int]:
    """Jumps to hold against the selected one: method name -> level the jump was fitted at.

    Random ones are drawn without repetition from the jumps that are neither selected nor named.
    """
    places = {"first": 0, "middle": levels // 2, "last": levels - 1}
    jumps = {f"arbitrary-{c}": places[c] if isinstance(c, str) else c for c in choices}
    rest = [level for level in range(levels) if level != chosen and level not in jumps.values()]
    drawn = np.random.default_rng(seed).permutation(rest)[:random]
    return jumps | {f"arbitrary-random-{i}": int(level) for i, level in enumerate(drawn, start=1)}


def methods_of(
    method: str,
    shortcuts: Path | None,
    selection: Path | None = None,
    *,
    levels: int,
    arbitrary: Sequence[str | int] = (),
    random: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, ShortcutAt]:
    """What a method of a study is made of: name -> function of a level that gives its shortcut.

    Parameters
    ----------
    method, shortcuts, selection, arbitrary, random, seed
        As of `evaluate_method`.
    levels : int
        L.
    device : torch.device
    """
    if shortcuts is None:
        return {method: lambda _: Identity()}
    folder = ShortcutFolder(shortcuts, device)
    if selection is None:
        return {method: folder.load}
    made = read_json(selection)
    if method == "ojfa-normalised":
        return {method: _renormalised(folder, made["jump"])}
    jumps = {method: made["jump"]}
    if method == "arbitrary":
        jumps = arbitrary_jumps(arbitrary, random, levels=levels, chosen=made["jump"], seed=seed)
    elif method == "ojfa-distilled":
        jumps["ojfa-distilled-surprisal"] = made["by_metric"]["surprisal"]
    return {name: _always(folder.load(level)) for name, level in jumps.items()}


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
        Table with columns model, corpus, method, level, metric, value, stderr, n.
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
    table = evaluate(store, Head.load(head), methods, precision_at=precision_at, device=on)
    write_table(output, table, model=model, corpus=corpus)


def _always(shortcut: Shortcut) -> ShortcutAt:
    return lambda _: shortcut


def _renormalised(folder: ShortcutFolder, jump: int) -> ShortcutAt:
    """One n-njtc jump that standardises states by the statistics of the level that they come from."""
    one = folder.load(jump).state_dict()

    def at(level: int) -> Shortcut:
        of_level = folder.load(level).state_dict()
        return NNJTC.restore({**one, "mean": of_level["mean"], "variance": of_level["variance"]}, {})

    return at


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
