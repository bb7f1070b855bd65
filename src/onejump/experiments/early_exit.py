"""The stage "early exit": how many blocks are saved by exiting where a shortcut is confident.

A token exits at the first level that is confident enough, by the probability of the predicted token, and
otherwise runs through all blocks (arXiv 2303.09435, section 5). What is confident enough is up to a rule and
its threshold (`onejump.exits.rules`). Thresholds are chosen on held-out samples and measured on validation
samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.exits.choosing import choose_threshold, log_notes
from onejump.exits.confidences import Confidences, Floats
from onejump.exits.gate_confidences import tables_of_methods
from onejump.exits.rules import RULES, rule_of
from onejump.exits.sweep import Sweep
from onejump.scoring.standard_errors import Clusters

# Thresholds of a curve.
_OF_A_CURVE = 200


@dataclass(frozen=True)
class ExitOptions:
    """How exits are compared."""

    rules: Sequence[str] = RULES
    """Of `onejump.exits.rules`."""
    targets: Sequence[float] = (0.95, 0.9)
    """Agreements with the full model that thresholds are chosen for."""
    tau: float = 4.0
    """How fast the decaying threshold falls."""
    length: float | None = None
    """N of the decaying threshold, the tokens of an average sentence; None: as the held-out positions say."""
    from_level: int = 0
    """The first level to exit from."""


def compare_exits(
    curves: Path,
    savings: Path,
    held_out: Sequence[Path],
    validation: Sequence[Path],
    *,
    options: ExitOptions,
    model: str,
    corpus: str,
) -> None:
    """The stage: agreement with the full model against blocks processed.

    A sample that exits at level l has processed l blocks, one that never exits L.

    Parameters
    ----------
    curves : Path
        Table to write, with columns model, corpus, method, rule, split (held-out, validation), threshold,
        agreement, blocks (mean), n. Both splits have the same thresholds; the last is inf: nothing exits.
    savings : Path
        Table to write, with columns

        - model, corpus, method, rule, target, threshold (chosen on held-out samples);
        - agreement, agreement_stderr, blocks (mean), saved (1 - blocks / L), saved_stderr, on validation
          samples; standard errors are those of `onejump.scoring.standard_errors`; of texts with labels also
          accuracy and accuracy_change (against the full model), each with _stderr;
        - reached (whether a threshold reached the target on held-out samples), n and documents (how many
          validation samples and documents there are), held_out_n, held_out_documents;
        - note (what to know about a threshold, or empty). Where the held-out samples or documents are too few
          for a target (`onejump.exits.enough_samples`), no threshold is chosen: reached is false, the
          threshold inf, and the note says so.
    held_out, validation : sequence of Path
        Tables of `onejump.exits.measuring.measure_confidences`, of the same methods in the same order.
    options : ExitOptions
    model, corpus : str
        Names, for the tables.

    Raises
    ------
    OneJumpError
        If a held-out and a validation table have different methods.
    """
    model_digest = one_model(*held_out, *validation)
    swept, chosen = [], []
    for method, *tables in tables_of_methods(held_out, validation):
        seen, unseen = map(Confidences.of, tables)
        documents = Clusters(unseen.documents)
        about_held_out = {
            "held_out_n": len(seen.hits),
            "held_out_documents": len(np.unique(seen.documents)),
        }
        for rule in options.rules:
            scores = rule_of(
                rule, seen, tau=options.tau, length=options.length, from_level=options.from_level
            )
            about = {"model": model, "corpus": corpus, "method": method, "rule": rule}
            on_held_out, on_validation = (Sweep(scores(found), found.hits) for found in (seen, unseen))
            thresholds = on_held_out.thresholds(_OF_A_CURVE)
            for split, sweep in (("held-out", on_held_out), ("validation", on_validation)):
                swept.append(_curve({**about, "split": split}, sweep, thresholds))
            for target in options.targets:
                threshold, note = choose_threshold(on_held_out, target, seen, rule, options.from_level)
                saving = _saving(on_validation, target, threshold, unseen, documents)
                chosen.append(about | saving | about_held_out | {"note": note})
    found = pd.DataFrame(chosen)
    log_notes(found)
    write_table(curves, pd.concat(swept, ignore_index=True), model_digest=model_digest)
    write_table(savings, found, model_digest=model_digest)


def _curve(about: dict[str, str], sweep: Sweep, thresholds: Floats) -> pd.DataFrame:
    agreement, blocks = sweep.at(thresholds)
    columns = {"threshold": thresholds, "agreement": agreement, "blocks": blocks, "n": sweep.samples}
    return pd.DataFrame({**about, **columns})


def _saving(
    sweep: Sweep, target: float, threshold: float, unseen: Confidences, documents: Clusters
) -> dict[str, Any]:
    agreed, blocks = sweep.exits(threshold)
    saved = 1 - blocks / sweep.levels
    accuracy = unseen.accuracy_of(blocks)
    values = torch.from_numpy(np.stack([agreed.astype(np.float64), saved, *accuracy.values()], 1))
    agreement_stderr, saved_stderr, *others = documents.of_values(values)[1].tolist()
    found = {
        "target": target,
        "threshold": threshold,
        "agreement": agreed.mean(),
        "agreement_stderr": agreement_stderr,
        "blocks": blocks.mean(),
        "saved": saved.mean(),
        "saved_stderr": saved_stderr,
    }
    for (name, of_samples), stderr in zip(accuracy.items(), others, strict=True):
        found |= {name: of_samples.mean(), f"{name}_stderr": stderr}
    return found | {
        "reached": bool(np.isfinite(threshold)),
        "n": sweep.samples,
        "documents": documents.documents,
    }
