"""The stage "early exit": how many blocks are saved by exiting where a shortcut is confident.

A token exits at the first level that is confident enough, by the probability p of its most likely token, and
otherwise runs through all blocks (JTC, arXiv 2303.09435, section 5). Every rule gives a sample at a level a
score, to be held against one threshold lambda for all, so that a sweep over thresholds is one sort:

| rule | exits where |
|---|---|
| fixed | p >= lambda |
| decaying | p >= 0.9 lambda + 0.1 exp(-tau t / N), t the token's position (CALM, arXiv 2207.07061) |
| per-level | (L - l) / (1 - g) >= lambda, g the calibrated probability to agree with the full model |

The last one is a threshold on p of each level's own. Its lambda is the number of blocks to save for one
disagreement to expect: an exit that saves more blocks may be less sure. That is the greedy choice by ratio
for the problem of saving most blocks at a given agreement. Thresholds fitted to that problem level by level,
backwards or by coordinate ascent, fit the held-out samples better and others no better.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.errors import OneJumpError, StudyError
from onejump.base.files import read_table, write_table
from onejump.data.document_roles import FEW_DOCUMENTS
from onejump.data.held_out import documents_of_samples, samples_with_role
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.models.logit_parts import samples_together
from onejump.scoring.evaluation import Exits
from onejump.scoring.standard_errors import Clusters
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.methods import ShortcutAt, methods_of
from onejump.shortcuts.shortcut import LowRank, Shortcut

Floats = NDArray[np.float64]

RULES = ("fixed", "decaying", "per-level")

# Thresholds of a curve.
_SWEPT = 200
# A float32 probability nearest to one has a logit nevertheless.
_LARGEST = 1 - 2.0**-24
# Largest ln odds whose odds times a number of blocks are finite.
_SURE = 600.0
# Steps of a calibration, and what a step still has to gain.
_NEWTON, _CONVERGED = 100, 1e-10
# Disagreements to expect among the samples that a threshold is chosen on, and agreements that the calibration
# of a level needs.
_DISAGREEMENTS = _AGREEMENTS = 5
_LOG = logging.getLogger(__name__)


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
    """What methods think of their most likely token, at all early-exit levels.

    Parameters
    ----------
    store : ActivationStore
    head : Head
    methods : mapping of name -> function of a level that gives its shortcut
    samples : Tensor of shape (samples,), bool, optional
        Which of them; all unless given.
    documents : ndarray of shape (samples,), optional
        The document of each sample of the store; unless given, each sentence counts as one.
    device : torch.device

    Returns
    -------
    DataFrame
        Columns method, sample (number in the store), document, position, level, probability (of the most
        likely token) and hit (whether it is the full model's most likely token).
    """
    head = head.to(device)
    exits = Exits(head, methods, device)
    chosen = torch.ones(store.samples, dtype=torch.bool) if samples is None else samples
    rows = chosen.nonzero()[:, 0].numpy()
    teacher = torch.from_numpy(store.of_samples("top_tokens")[rows, :1].astype(np.int64)).to(device)
    levels = store.levels - 1
    found = {method: torch.empty(levels, len(rows), 2) for method in methods}
    together = samples_together(head, device)
    for level in tqdm(range(levels), unit="level", disable=None):
        at_level = {method: exits.at(method, level) for method in methods}
        for part, of_level in store.parts(level, together, chosen.numpy()):
            states, tokens = torch.from_numpy(of_level).to(device), teacher[part]
            for method, (shortcut, exit_head) in at_level.items():
                logits = _logits(states, shortcut, exit_head, head)
                found[method][level, part] = _confidence(logits, tokens).cpu()
    from_documents = store.of_samples("sentence") if documents is None else documents
    of_samples = {
        "sample": np.tile(rows.astype(np.int32), levels),
        "document": np.tile(from_documents[rows].astype(np.int64), levels),
        "position": np.tile(store.of_samples("position")[rows].astype(np.int32), levels),
        "level": np.repeat(np.arange(levels, dtype=np.int16), len(rows)),
    }
    tables = []
    for method, at_levels in found.items():
        probability, hit = at_levels.flatten(0, 1).T.numpy()
        columns = {"probability": probability, "hit": hit.astype(bool)}
        tables.append(pd.DataFrame({"method": method, **of_samples, **columns}))
    return pd.concat(tables, ignore_index=True)


def _logits(states: Tensor, shortcut: Shortcut, exit_head: ExitHead | None, head: Head) -> Tensor:
    if exit_head is None:
        return head.logits(shortcut(states))
    assert isinstance(shortcut, LowRank)
    return exit_head.logits(shortcut.reduce(states))


def _confidence(logits: Tensor, tokens: Tensor) -> Tensor:
    """Largest probability, and whether it is that of a token (n, 1), as (n, 2). The logits are used up."""
    hit = logits.gather(-1, tokens)[:, 0] == logits.amax(-1)
    return torch.stack([torch.softmax(logits, -1, out=logits).amax(-1), hit.float()], 1)


def measure_confidences(
    output: Path,
    shards: Sequence[Path],
    head: Path,
    *,
    method: str,
    shortcuts: Path | None,
    selection: Path | None = None,
    documents: Path | None = None,
    role: str | None = None,
    device: str = "auto",
) -> None:
    """The stage's first half: the confidences of one method.

    Parameters
    ----------
    output : Path
        Table of `confidences`.
    shards : sequence of Path
        Validation shards, or training shards to choose thresholds on.
    head : Path
        Of the model stage.
    method, shortcuts, selection
        As of `evaluation.evaluate_method`. On training shards, shortcuts that were not fitted to the
        documents for thresholds: confidence in what was fitted to comes too easily.
    documents : Path, optional
        Table of the stage "document roles"; without it each sentence counts as a document.
    role : {"thresholds"}, optional
        Only samples of documents of this role.
    device : str
    """
    store = ActivationStore(shards)
    on = pick_device(device)
    methods = methods_of(method, shortcuts, selection, levels=store.levels - 1, device=on)
    samples = None if documents is None or role is None else samples_with_role(store, documents, role)
    of_samples = documents_of_samples(store, documents)
    table = confidences(store, Head.load(head), methods, samples=samples, documents=of_samples, device=on)
    write_table(output, table)


class Confidences(NamedTuple):
    """One method's confidences in n samples at L levels."""

    probabilities: Floats
    """(n, L)."""
    hits: NDArray[np.bool_]
    """(n, L)."""
    positions: NDArray[np.int32]
    """(n,)."""
    documents: NDArray[np.int64]
    """(n,)."""

    @classmethod
    def of(cls, table: pd.DataFrame) -> Confidences:
        """From the rows of one method.

        Raises
        ------
        OneJumpError
            If a sample lacks a level.
        """
        levels, samples = table["level"].nunique(), table["sample"].nunique()
        if levels * samples != len(table):
            raise OneJumpError(
                f"confidences: {len(table)} rows given, {samples} samples at {levels} levels expected"
            )
        table = table.sort_values(["level", "sample"])

        def matrix(column: str) -> NDArray[Any]:
            return table[column].to_numpy().reshape(levels, samples).T

        probabilities = matrix("probability").astype(np.float64)
        return cls(probabilities, matrix("hit"), matrix("position")[:, 0], matrix("document")[:, 0])


class Calibration:
    """Probability that a level's most likely token is the full model's, from that token's own probability p.

    At each level it is a logistic function of ln(p / (1 - p)) (Platt 1999). A few hundred samples are enough
    for its two numbers, where a threshold fitted to each level by itself, or an isotonic function, is not.

    Parameters
    ----------
    probabilities : ndarray of shape (n, L)
    hits : ndarray of shape (n, L), bool

    Attributes
    ----------
    weights : ndarray of shape (L, 2)
        Of the constant and of ln(p / (1 - p)).
    """

    def __init__(self, probabilities: Floats, hits: NDArray[np.bool_]) -> None:
        logits = _logits_of(probabilities)
        self.weights = np.stack(
            [_logistic_regression(x, y) for x, y in zip(logits.T, hits.T.astype(np.float64), strict=True)]
        )

    def odds(self, probabilities: Floats) -> Floats:
        """Odds to agree, g / (1 - g), of probabilities (n, L)."""
        constant, slope = self.weights.T
        odds: Floats = np.exp((constant + slope * _logits_of(probabilities)).clip(max=_SURE))
        return odds


def _logits_of(probabilities: Floats) -> Floats:
    p = probabilities.clip(1 - _LARGEST, _LARGEST)
    logits: Floats = np.log(p) - np.log1p(-p)
    return logits


def _logistic_regression(inputs: Floats, outcomes: Floats) -> Floats:
    """Constant and slope of least log loss for inputs (n,) and outcomes (n,), by Newton's method.

    A normal prior of variance one, around 0 and 1 (the inputs are right as they are), keeps both finite where
    one threshold separates all outcomes.
    """
    design = np.stack([np.ones_like(inputs), inputs], 1)
    prior = np.array([0.0, 1.0])

    def loss(weights: Floats) -> float:
        z = design @ weights
        return float((np.logaddexp(0, z) - outcomes * z).sum() + np.square(weights - prior).sum() / 2)

    weights, least = prior, loss(prior)
    for _ in range(_NEWTON):
        fitted = np.exp(-np.logaddexp(0, -design @ weights))
        slope = design.T @ (fitted - outcomes) + weights - prior
        curvature = (design.T * (fitted * (1 - fitted))) @ design + np.eye(2)
        step = np.linalg.solve(curvature, slope)
        if slope @ step < _CONVERGED:
            break
        # The loss is convex: some part of the step lowers it.
        while loss(weights - step) > least and slope @ step > _CONVERGED:
            step /= 2
        weights = weights - step
        least = loss(weights)
    return weights


class Sweep:
    """Exits at the first level whose score reaches a threshold, for any threshold at once.

    Parameters
    ----------
    scores : ndarray of shape (n, L)
        Of a rule: finite, or -inf where there is no exit.
    hits : ndarray of shape (n, L), bool
        Whether an exit there agrees with the full model. A sample that never exits agrees.
    """

    def __init__(self, scores: Floats, hits: NDArray[np.bool_]) -> None:
        self.samples, self.levels = scores.shape
        self._hits = hits
        # A sample is through with a level where the highest score so far reaches the threshold.
        self._highest = np.maximum.accumulate(scores, 1)
        before = np.concatenate([np.full((len(scores), 1), -np.inf), self._highest[:, :-1]], 1)
        agreeing = hits & (self._highest > before)
        # A sample exits at a level for thresholds over the highest score before, up to that so far.
        self._over, self._up_to = np.sort(before[agreeing]), np.sort(self._highest[agreeing])
        self._never, self._sorted = np.sort(self._highest[:, -1]), np.sort(self._highest, axis=None)

    def at(self, thresholds: Floats) -> tuple[Floats, Floats]:
        """Agreement with the full model, and mean blocks processed: two of the thresholds' shape."""
        over, up_to, never, blocks = (
            np.searchsorted(values, thresholds)
            for values in (self._over, self._up_to, self._never, self._sorted)
        )
        # Counts are exact, and so is a target that is just reached.
        return (over - up_to + never) / self.samples, blocks / self.samples

    def exits(self, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Of each sample, whether it agrees, and its level of exit (blocks processed), L for none."""
        level = (self._highest < threshold).sum(1)
        inside = self._hits[np.arange(self.samples), np.minimum(level, self.levels - 1)]
        return inside | (level == self.levels), level

    def thresholds(self, count: int | None = None) -> Floats:
        """Where exits change, rising: all, or so many, evenly spaced in blocks. The last, inf: never."""
        values = self._sorted[np.isfinite(self._sorted)]
        if count is not None:
            values = values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)]
        return np.append(np.unique(values), np.inf)

    def reaching(self, target: float) -> float:
        """The least threshold with an agreement of at least the target there and at every higher one.

        Thresholds are tried from the strictest on, as in CALM (arXiv 2207.07061), so that a lucky one behind
        others that failed is not taken.
        """
        thresholds = self.thresholds()
        agreement, _ = self.at(thresholds)
        failed = (agreement < target).nonzero()[0]
        return float(thresholds[failed[-1] + 1 if len(failed) else 0])


Rule = Callable[[Confidences], Floats]
"""Scores (n, L), to be held against one threshold."""


def rule_of(
    name: str, held_out: Confidences, *, tau: float = 4.0, length: float | None = None, from_level: int = 0
) -> Rule:
    """The scores of a rule.

    Parameters
    ----------
    name : {"fixed", "decaying", "per-level"}
    held_out : Confidences
        What the rule may be fitted to.
    tau : float
        Of the decaying threshold.
    length : float, optional
        N, tokens of an average sentence; unless given 2 mean(t) + 1, as positions t are drawn evenly.
    from_level : int
        The first level to exit from.

    Raises
    ------
    StudyError
        If there is no such rule or level.
    """
    levels = held_out.probabilities.shape[1]
    if not 0 <= from_level < levels:
        raise StudyError(f"from_level: {from_level} given, 0 to {levels - 1} accepted")
    scores: Rule
    if name == "fixed":
        scores = _fixed
    elif name == "decaying":
        scores = _decaying(tau, 2 * float(held_out.positions.mean()) + 1 if length is None else length)
    elif name == "per-level":
        scores = _per_level(Calibration(held_out.probabilities, held_out.hits))
    else:
        raise StudyError(f"rule: {name!r} given, accepted is {', '.join(RULES)}")
    return lambda found: np.where(np.arange(levels) < from_level, -np.inf, scores(found))


def _fixed(found: Confidences) -> Floats:
    return found.probabilities


def _decaying(tau: float, length: float) -> Rule:
    def scores(found: Confidences) -> Floats:
        decayed: Floats = 0.1 * np.exp(-tau * found.positions / length)
        return (found.probabilities - decayed[:, None]) / 0.9

    return scores


def _per_level(calibration: Calibration) -> Rule:
    """Blocks that are saved for one disagreement to expect: an early exit is worth more of a risk."""

    def scores(found: Confidences) -> Floats:
        saved = np.arange(found.probabilities.shape[1], 0, -1)
        return saved * (1 + calibration.odds(found.probabilities))

    return scores


def compare_exits(
    curves: Path,
    savings: Path,
    held_out: Sequence[Path],
    validation: Sequence[Path],
    *,
    rules: Sequence[str] = RULES,
    targets: Sequence[float] = (0.95, 0.9),
    tau: float = 4.0,
    length: float | None = None,
    from_level: int = 0,
    model: str,
    corpus: str,
) -> None:
    """The stage's second half: agreement with the full model against blocks processed.

    A sample that exits at level l has processed l blocks, one that never exits L.

    Parameters
    ----------
    curves : Path
        Table with columns model, corpus, method, rule, split (held-out, validation), threshold, agreement,
        blocks (mean), n. The same thresholds for both splits; the last one, inf, never exits.
    savings : Path
        Table with columns model, corpus, method, rule, target, threshold (chosen on held-out samples); as
        found on validation samples agreement, agreement_stderr, blocks (mean), saved (1 - blocks / L),
        saved_stderr; reached (whether any exits reached the target on held-out samples), n and documents (of
        validation); held_out_n, held_out_documents; note (what to know about a threshold, or empty). Where
        the held-out samples or documents are too few for a target (`samples_needed`), no threshold is
        chosen: reached is false, the threshold inf, and the note says so. Standard errors are those of
        `onejump.scoring.standard_errors`.
    held_out, validation : sequence of Path
        Tables of `measure_confidences`, of the same methods in the same order.
    rules : sequence of {"fixed", "decaying", "per-level"}
    targets : sequence of float
        Agreement asked for.
    tau, length, from_level
        As of `rule_of`.

    Raises
    ------
    OneJumpError
        If the tables of a pair are not of the same methods.
    """
    swept, chosen = [], []
    for method, seen, unseen in _pairs(held_out, validation):
        for name in rules:
            scores = rule_of(name, seen, tau=tau, length=length, from_level=from_level)
            about = {"model": model, "corpus": corpus, "method": method, "rule": name}
            on_held_out, on_validation = (Sweep(scores(found), found.hits) for found in (seen, unseen))
            thresholds = on_held_out.thresholds(_SWEPT)
            for split, sweep in (("held-out", on_held_out), ("validation", on_validation)):
                swept.append(_curve({**about, "split": split}, sweep, thresholds))
            documents = Clusters(unseen.documents)
            for target in targets:
                refused = too_few(seen, target)
                threshold = np.inf if refused else on_held_out.reaching(target)
                note = refused or (_few_agreements(seen, from_level) if name == "per-level" else "")
                about_held_out = {
                    "held_out_n": len(seen.hits),
                    "held_out_documents": len(np.unique(seen.documents)),
                    "note": note,
                }
                chosen.append(about | _saving(on_validation, target, threshold, documents) | about_held_out)
    found = pd.DataFrame(chosen)
    for text, of_note in found[found["note"] != ""].groupby("note", sort=False):
        _LOG.warning("%s: %s", ", ".join(of_note["method"].unique()), text)
    write_table(curves, pd.concat(swept, ignore_index=True))
    write_table(savings, found)


def samples_needed(target: float) -> int:
    """Held-out samples that a threshold for an agreement has to be chosen on.

    So many that an exit policy which just reaches the target is expected to disagree five times; for targets
    above .99, as many as for .99.
    """
    return math.ceil(round(_DISAGREEMENTS / max(1 - target, 0.01), 6))


def too_few(held_out: Confidences, target: float) -> str:
    """Why no threshold can be chosen on held-out samples, or an empty text if it can."""
    samples, documents = len(held_out.hits), len(np.unique(held_out.documents))
    needed = samples_needed(target)
    if samples >= needed and documents >= FEW_DOCUMENTS:
        return ""
    return (
        f"no threshold for an agreement of {target:g}: there are {samples} held-out samples of {documents} "
        f"documents, and at least {needed} samples of {FEW_DOCUMENTS} documents are needed; more training "
        "sentences, or a larger held_out.thresholds, give them"
    )


def _few_agreements(held_out: Confidences, from_level: int) -> str:
    """Levels whose odds rest on the prior of their calibration more than on samples."""
    agreeing = held_out.hits.sum(0)
    levels = [level for level in range(from_level, len(agreeing)) if agreeing[level] < _AGREEMENTS]
    if not levels:
        return ""
    named = ", ".join(map(str, levels))
    return f"fewer than {_AGREEMENTS} held-out samples agree at level {named}: its odds are a guess"


def _pairs(
    held_out: Sequence[Path], validation: Sequence[Path]
) -> Iterator[tuple[str, Confidences, Confidences]]:
    for paths in zip(held_out, validation, strict=True):
        seen, unseen = (read_table(path) for path in paths)
        methods, others = (list(table["method"].unique()) for table in (seen, unseen))
        if methods != others:
            raise OneJumpError(
                f"{paths[0]} is of {', '.join(methods)}, but {paths[1]} of {', '.join(others)}"
            )
        for method in methods:
            yield method, *(Confidences.of(table[table["method"] == method]) for table in (seen, unseen))


def _curve(about: dict[str, str], sweep: Sweep, thresholds: Floats) -> pd.DataFrame:
    agreement, blocks = sweep.at(thresholds)
    columns = {"threshold": thresholds, "agreement": agreement, "blocks": blocks, "n": sweep.samples}
    return pd.DataFrame({**about, **columns})


def _saving(sweep: Sweep, target: float, threshold: float, documents: Clusters) -> dict[str, Any]:
    agreed, blocks = sweep.exits(threshold)
    saved = 1 - blocks / sweep.levels
    values = torch.from_numpy(np.stack([agreed.astype(np.float64), saved], 1))
    agreement_stderr, saved_stderr = documents.of_values(values)[1].tolist()
    return {
        "target": target,
        "threshold": threshold,
        "agreement": agreed.mean(),
        "agreement_stderr": agreement_stderr,
        "blocks": blocks.mean(),
        "saved": saved.mean(),
        "saved_stderr": saved_stderr,
        "reached": bool(np.isfinite(threshold)),
        "n": sweep.samples,
        "documents": documents.documents,
    }
