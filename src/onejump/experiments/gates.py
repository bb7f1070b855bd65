"""The stage "gates": how well gates find the level at which a token could exit.

Each kind of gate (`onejump.exits.gates`) sees the prediction of a level and decides. Its thresholds are
chosen on held-out samples, one for all levels (the rule fixed) or one for each level (per-level), and judged
on validation samples: what they save, and how far their exits are from the stable level of the oracle
(`onejump.exits.oracle`). With E the level of exit, S the stable level and L the last one, a sample is

| outcome | where |
|---|---|
| wrong | E < S, and the token is not the full model's |
| unsettled | E < S, and the token is the full model's, but a later level changes it |
| exact | E = S < L |
| late | S < E < L |
| missed | S < L, and the sample does not exit |
| stayed | S = L, and the sample does not exit: rightly so |

Source: arXiv 2412.01455, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.exits.choosing import choose_guaranteed, choose_threshold, log_notes
from onejump.exits.confidences import Confidences
from onejump.exits.gate_confidences import (
    GATE_KINDS,
    confidences_of_gate,
    confidences_of_learned,
    tables_of_methods,
)
from onejump.exits.guarantee import learning_part
from onejump.exits.learned_gate import Learned
from onejump.exits.oracle import oracle_exits
from onejump.exits.rules import rule_of
from onejump.exits.sweep import Sweep
from onejump.scoring.standard_errors import Clusters

# Thresholds of a curve.
_OF_A_CURVE = 100

OUTCOMES = ("wrong", "unsettled", "exact", "late", "missed", "stayed")


@dataclass(frozen=True)
class GateOptions:
    """Which gates are compared."""

    gates: Sequence[str] = GATE_KINDS
    """Kinds of gate. A learned one is that of methods whose tables hold coordinates."""
    rules: Sequence[str] = ("fixed", "per-level")
    """Of `onejump.exits.rules`."""
    targets: Sequence[float] = (0.95, 0.9)
    """Agreements with the full model that thresholds are chosen for."""
    guarantee: float | None = None
    """Beside plain thresholds, those whose agreement holds with this probability
    (`onejump.exits.guarantee`)."""
    from_level: int = 1
    """The first level to exit from; the oracle's exits begin there too."""


def compare_gates(
    curves: Path,
    outcomes: Path,
    held_out: Sequence[Path],
    validation: Sequence[Path],
    *,
    options: GateOptions,
    model: str,
    corpus: str,
) -> None:
    """The stage: what gates save, and how their exits lie beside those of the oracle.

    Parameters
    ----------
    curves : Path
        Table to write, with columns model, corpus, method, gate, rule, threshold, agreement, blocks (mean),
        saved (1 - blocks / L), n: on validation samples. The last threshold is inf: nothing exits.
    outcomes : Path
        Table to write, with columns

        - model, corpus, method, gate, rule, target, guarantee (NaN of a plain threshold), threshold (chosen
          on held-out samples);
        - agreement, saved and the six outcomes of the module's docstring, which are shares of the samples,
          each with a column <name>_stderr, on validation samples; standard errors are those of
          `onejump.scoring.standard_errors`; of texts with labels also accuracy and accuracy_change (against
          the full model);
        - blocks (mean), early (mean of S - E over the exits before S), behind (mean of E - S over those after
          S), NaN where there are none;
        - possible, possible_first (what exits at the stable and at the first level would save);
        - reached, n, documents, held_out_n, held_out_documents, note: as in
          `onejump.experiments.early_exit.compare_exits`.
    held_out, validation : sequence of Path
        Tables of `onejump.exits.measuring.measure_confidences`, of the same methods in the same order.
    options : GateOptions
    model, corpus : str
        Names, for the tables.

    Raises
    ------
    OneJumpError
        If a held-out and a validation table have different methods.
    """
    model_digest = one_model(*held_out, *validation)
    swept: list[pd.DataFrame] = []
    judged: list[dict[str, Any]] = []
    for method, seen_table, unseen_table in tables_of_methods(held_out, validation):
        for gate in options.gates:
            pairs = _pairs(seen_table, unseen_table, gate, options)
            if pairs is None:
                continue
            (seen, unseen), (seen_surely, unseen_surely) = pairs
            documents = Clusters(unseen.documents)
            held_out_size = {
                "held_out_n": len(seen.hits),
                "held_out_documents": len(np.unique(seen.documents)),
            }
            for rule in options.rules:
                about = {"model": model, "corpus": corpus, "method": method, "gate": gate, "rule": rule}
                scores = rule_of(rule, seen, from_level=options.from_level)
                on_held_out, on_validation = (Sweep(scores(found), found.hits) for found in (seen, unseen))
                swept.append(_curve(about, on_validation, on_held_out.thresholds(_OF_A_CURVE)))
                for target in options.targets:
                    plain = choose_threshold(on_held_out, target, seen, rule, options.from_level)
                    ways = [(float("nan"), on_validation, plain)]
                    if options.guarantee is not None:
                        fitted, chosen = choose_guaranteed(
                            rule, seen_surely, target, options.guarantee, options.from_level
                        )
                        ways.append((options.guarantee, Sweep(fitted(unseen_surely), unseen.hits), chosen))
                    for guarantee, sweep, (threshold, note) in ways:
                        way = {"target": target, "guarantee": guarantee, "threshold": threshold}
                        result = _outcomes(sweep, threshold, unseen, options.from_level, documents)
                        judged.append(about | way | result | held_out_size | {"note": note})
    found = pd.DataFrame(judged)
    log_notes(found)
    write_table(curves, pd.concat(swept, ignore_index=True), model_digest=model_digest)
    write_table(outcomes, found, model_digest=model_digest)


Pair = tuple[Confidences, Confidences]
"""Confidences in held-out and in validation samples."""


def _pairs(
    seen: pd.DataFrame, unseen: pd.DataFrame, gate: str, options: GateOptions
) -> tuple[Pair, Pair] | None:
    """Confidences for plain thresholds and for guaranteed ones; None if the method has no such gate."""
    if gate != Learned.kind:
        pair = tuple(confidences_of_gate(table, gate, options.from_level) for table in (seen, unseen))
        return (pair[0], pair[1]), (pair[0], pair[1])
    plain = surely = confidences_of_learned(seen, unseen)
    if plain is not None and options.guarantee is not None:
        # What a guaranteed threshold is tested on must not have been fitted to.
        surely = confidences_of_learned(seen, unseen, learning_part(plain[0].documents))
    return None if plain is None or surely is None else (plain, surely)


def _curve(about: dict[str, str], sweep: Sweep, thresholds: NDArray[np.float64]) -> pd.DataFrame:
    agreement, blocks = sweep.at(thresholds)
    columns = {"threshold": thresholds, "agreement": agreement, "blocks": blocks}
    return pd.DataFrame({**about, **columns, "saved": 1 - blocks / sweep.levels, "n": sweep.samples})


def _outcomes(
    sweep: Sweep, threshold: float, unseen: Confidences, from_level: int, documents: Clusters
) -> dict[str, Any]:
    """Columns of a gate with a threshold, beside the oracle."""
    agreed, level = sweep.exits(threshold)
    last = sweep.levels
    oracle = oracle_exits(unseen.hits, from_level)
    stable = oracle.stable
    of_samples = {
        "agreement": agreed,
        "saved": 1 - level / last,
        "wrong": ~agreed,
        "unsettled": agreed & (level < stable),
        "exact": (level == stable) & (level < last),
        "late": (stable < level) & (level < last),
        "missed": (stable < last) & (level == last),
        "stayed": (stable == last) & (level == last),
        **unseen.accuracy_of(level),
    }
    values = torch.from_numpy(np.stack([of.astype(np.float64) for of in of_samples.values()], 1))
    means, errors = (of.tolist() for of in documents.of_values(values))
    columns: dict[str, Any] = {}
    for name, mean, error in zip(of_samples, means, errors, strict=True):
        columns |= {name: mean, f"{name}_stderr": error}
    return columns | {
        "blocks": float(level.mean()),
        "early": _mean((stable - level)[level < stable]),
        "behind": _mean((level - stable)[level > stable]),
        "possible": float(1 - stable.mean() / last),
        "possible_first": float(1 - oracle.first.mean() / last),
        "reached": bool(np.isfinite(threshold)),
        "n": sweep.samples,
        "documents": documents.documents,
    }


def _mean(values: NDArray[np.int64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
