"""The stage "transfer": shortcuts of one corpus on the others, put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from onejump.base.files import read_json, read_table, write_table
from onejump.data.sides import normalised

_LOG = logging.getLogger(__name__)

FromTo = tuple[str, str]
"""The corpus that shortcuts were fitted and selected on, and the one that they are used on."""


def collect_transfer(
    output: Path,
    evaluations: Mapping[FromTo, Sequence[Path]],
    selections: Mapping[FromTo, Path],
    *,
    corpus: str,
    corpora: Mapping[str, Path],
) -> None:
    """Put together what one corpus' shortcuts do on every corpus, and what that corpus' own do.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus (that this is about), fitted_on, target, method, level, metric,
        value, stderr, n, documents, jump (which of the jumps of fitted_on the target's training samples
        choose), seen (validation sentences of the target that are training sentences of fitted_on:
        `count_seen`).
    evaluations : mapping of (fitted on, target) -> paths
        Tables of `onejump.scoring.evaluation.evaluate_method`, of validation samples of the target.
    selections : mapping of the same keys -> path
        Of `onejump.scoring.selection.select_jump`, by training samples of the target.
    corpus : str
    corpora : mapping of corpus -> path
        Tables of the corpus stage.
    """
    tables = []
    for (fitted_on, target), paths in evaluations.items():
        found = pd.concat([read_table(path) for path in paths], ignore_index=True)
        found["corpus"] = corpus
        found.insert(2, "fitted_on", fitted_on)
        found.insert(3, "target", target)
        found["jump"] = read_json(selections[fitted_on, target])["jump"]
        found["seen"] = count_seen(read_table(corpora[fitted_on]), read_table(corpora[target]))
        if found["seen"].any():
            _LOG.warning(
                "from %s to %s: %d validation sentences of %s are training sentences of %s too",
                *(fitted_on, target, found["seen"].iloc[0], target, fitted_on),
            )
        tables.append(found)
    write_table(output, pd.concat(tables, ignore_index=True))


def count_seen(fitted_on: pd.DataFrame, target: pd.DataFrame) -> int:
    """How many validation sentences of a corpus are training sentences of another one.

    No document is on both sides (`onejump.data.sides`), but different documents may have a sentence in
    common.

    Parameters
    ----------
    fitted_on, target : DataFrame
        Of the corpus stage, with columns sentence and split.
    """
    training = set(fitted_on.loc[fitted_on["split"] == "training", "sentence"].map(normalised))
    return int(target.loc[target["split"] == "validation", "sentence"].map(normalised).isin(training).sum())
