"""The stage "joint optimisation": a model and the models that are tuned from it (arXiv 2412.01455).

Joint optimisation trains all levels through the model's one head. It promises a level that is easier to find:
a confidence that grows evenly, neighbouring levels that predict alike, gates that are right more often. Its
price is a worse final prediction. Exits here are those of the method `identity`, the hidden state as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onejump.base.files import read_table, write_table
from onejump.exits.choosing import choose_threshold
from onejump.exits.confidences import Confidences
from onejump.exits.rules import rule_of
from onejump.exits.sweep import Sweep
from onejump.scoring.standard_errors import Clusters

Floats = NDArray[np.float64]

_LOG = logging.getLogger(__name__)

RULES = ("per-level", "fixed")
"""The rules of the gate (`onejump.exits.rules`). The figure shows the first one."""


def compare_tuned(
    comparison: Path,
    levels: Path,
    measured_levels: Sequence[Path],
    losses: Sequence[Path],
    held_out: Sequence[Path],
    validation: Sequence[Path],
    *,
    names: Sequence[str],
    tuned: Mapping[str, Mapping[str, Any]],
    targets: Sequence[float],
    model: str,
    corpus: str,
) -> None:
    """Compare models before and after joint optimisation: the stage.

    Parameters
    ----------
    comparison : Path
        Table to write, a row for each model, rule and target, with columns

        - model, corpus: whose folder the table lies in; of: the model that the row is about;
        - how: "as it was", or the options of the tuning that matter, such as "uniform, early 0.3";
        - loss (nats per token of the final distribution on validation text, `losses`), perplexity,
          loss_change (against the model as it was, 0 for this one itself), loss_change_stderr, tokens;
        - of a classifier accuracy, accuracy_change, accuracy_change_stderr: of the final predictions of
          labels;
        - probability, divergence: means over levels 0..L-1 of the columns of `levels`;
        - oracle_saved: the share of blocks saved by exits at the first level whose token is the final one,
          oracle_saved_stderr;
        - rule: fixed, one threshold for all levels, or per-level, one for each (`onejump.exits.rules`);
        - target: the agreement that the gate's threshold was chosen for on held-out samples; threshold (of
          the rule's scores), reached (whether there was one), note;
        - agreement, saved (1 - blocks / L), on validation samples, each with _stderr;
        - of a classifier exit_accuracy, exit_accuracy_change: of those exits, the latter against the model's
          own final predictions, each with _stderr;
        - on_time, early, late: shares of samples where the gate exits at the oracle's level, before it (with
          another token than the final one), after it; on_time_stderr;
        - n, documents: of the samples.

        The gate exits at the first level where the probability of the predicted token reaches the threshold.
        One threshold for all levels has to be as high as the level that is sure and wrong needs it: level 0
        of a model whose input and output embeddings are tied is sure of the token that it has just read.
        Standard errors are by documents; that of loss_change is of the difference, document by document.
    levels : Path
        Table to write: those of `onejump.experiments.level_predictions`, with columns model, corpus, of, how.
    measured_levels, losses : sequence of Path
        Tables of `onejump.experiments.level_predictions`, for each of the models.
    held_out, validation : sequence of Path
        Tables of `onejump.exits.measuring.measure_confidences` for identity, for each of the models.
    names : sequence of str
        The models. The first is the one as it was.
    tuned : mapping of model -> options
        What the study says of each of the others.
    targets : sequence of float
    model, corpus : str
    """
    about = {"model": model, "corpus": corpus}
    told = {name: _told(tuned[name]) if name in tuned else "as it was" for name in names}
    of_levels = [
        read_table(path).assign(of=name, how=told[name])
        for name, path in zip(names, measured_levels, strict=True)
    ]
    of_losses = [read_table(path) for path in losses]
    rows = []
    for name, by_level, lost, seen, unseen in zip(
        names, of_levels, of_losses, held_out, validation, strict=True
    ):
        early = by_level[by_level["level"] < by_level["level"].max()]
        shared = {
            "of": name,
            "how": told[name],
            **_loss(lost, of_losses[0]),
            "probability": early["probability"].mean(),
            "divergence": early["divergence"].mean(),
        }
        on_held_out, on_validation = (Confidences.of(read_table(path)) for path in (seen, unseen))
        rows += [
            shared | _exits(on_held_out, on_validation, rule, target) for rule in RULES for target in targets
        ]
    table = pd.DataFrame(rows)
    for note in sorted(set(table["note"]) - {""}):
        _LOG.warning("%s", note)
    write_table(comparison, table, **about)
    write_table(levels, pd.concat(of_levels, ignore_index=True), **about)


def _told(options: Mapping[str, Any]) -> str:
    """Say in a few words how a model was tuned."""
    parts = [str(options["weights"])]
    if options["loss"] != "next-token":
        parts.insert(0, str(options["loss"]))
    if options["early"] is not None:
        parts.append(f"early {options['early']:g}")
    if options["adapters"] is not None:
        parts.append(f"adapters of rank {options['adapters']['rank']}")
    return ", ".join(parts)


def _loss(lost: pd.DataFrame, before: pd.DataFrame) -> dict[str, Any]:
    """Final loss on text and, with labels, accuracy: how they differ from the model as it was."""
    found = _change(lost, before, "loss") | {"tokens": int(lost["tokens"].sum())}
    found["perplexity"] = float(np.exp(found["loss"]))
    if "right" in lost:
        accuracy = _change(lost, before, "right")
        found |= {name.replace("right", "accuracy"): value for name, value in accuracy.items()}
    return found


def _change(lost: pd.DataFrame, before: pd.DataFrame, column: str) -> dict[str, Any]:
    """A column's mean per token, its difference from that before, and the difference's standard error."""
    mean, influence = _ratio(lost, column)
    mean_before, influence_before = _ratio(before, column)
    moved = influence.sub(influence_before, fill_value=0.0).to_numpy()
    count = len(moved)
    error = float(np.sqrt(np.square(moved).sum() * count / (count - 1))) if count > 1 else float("nan")
    return {column: mean, f"{column}_change": mean - mean_before, f"{column}_change_stderr": error}


def _ratio(lost: pd.DataFrame, column: str) -> tuple[float, pd.Series[float]]:
    """The mean per token, and what each document moves it by (`onejump.scoring.standard_errors`)."""
    by_document = lost.set_index("document")
    tokens = by_document["tokens"].sum()
    mean = float(by_document[column].sum() / tokens)
    return mean, (by_document[column] - mean * by_document["tokens"]) / tokens


def _exits(seen: Confidences, unseen: Confidences, rule: str, target: float) -> dict[str, Any]:
    """How exits by thresholds on the probability compare with the oracle's."""
    scores = rule_of(rule, seen)
    threshold, note = choose_threshold(Sweep(scores(seen), seen.hits), target, seen, rule, from_level=0)
    agreed, level = Sweep(scores(unseen), unseen.hits).exits(threshold)
    blocks = unseen.hits.shape[1]
    oracle = np.where(unseen.hits.any(1), unseen.hits.argmax(1), blocks)
    values = {
        "agreement": agreed.astype(np.float64),
        "saved": 1 - level / blocks,
        "oracle_saved": 1 - oracle / blocks,
        "on_time": (level == oracle).astype(np.float64),
        "early": (level < oracle).astype(np.float64),
        "late": (level > oracle).astype(np.float64),
        **{f"exit_{name}": of_samples for name, of_samples in unseen.accuracy_of(level).items()},
    }
    clusters = Clusters(unseen.documents)
    mean, error = clusters.of_values(torch.from_numpy(np.stack(list(values.values()), 1)))
    found: dict[str, Any] = {"rule": rule, "target": target, "threshold": threshold}
    for name, value, uncertain in zip(values, mean.tolist(), error.tolist(), strict=True):
        found |= {name: value, f"{name}_stderr": uncertain}
    return found | {
        "reached": bool(np.isfinite(threshold)),
        "note": note,
        "n": clusters.samples,
        "documents": clusters.documents,
    }
