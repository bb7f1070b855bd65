"""The stage "transfer": how well the shortcuts of one corpus serve on other corpora, in one table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from onejump.base.files import read_json, read_table, write_table
from onejump.base.format import SELECTION
from onejump.base.identity import one_model
from onejump.data.sides import normalised

_LOG = logging.getLogger(__name__)

FromTo = tuple[str, str]
"""The corpus that shortcuts were fitted and selected on, and the corpus that they are used on, the target."""


def collect_transfer(
    table: Path,
    evaluations: Sequence[Path],
    selections: Sequence[Path],
    sentences: Sequence[Path],
    *,
    pairs: Sequence[FromTo],
    methods: Sequence[str],
    corpora: Sequence[str],
    corpus: str,
) -> None:
    """The stage: compare shortcuts from other corpora with the target's own, for all pairs with one corpus.

    In each pair, one corpus is that of the table: shortcuts are fitted on it, or used on it.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, fitted_on, target, method, level, metric, value, stderr, n,
        documents, jump (the jump of fitted_on that the training samples of the target select), seen (how many
        validation sentences of the target are training sentences of fitted_on: `count_seen`).
    evaluations : sequence of Path
        Tables of `onejump.scoring.evaluation.evaluate_method` on validation samples of the target: of all
        methods for the first pair, then of all methods for the next pair, and so on.
    selections : sequence of Path
        Of `onejump.scoring.selection.select_jump` on training samples of the target, one for each pair.
    sentences : sequence of Path
        Tables of the corpora, one for each.
    pairs : sequence of (fitted on, target)
    methods, corpora : sequence of str
        Names.
    corpus : str
        The corpus that all pairs have in common, for the table.
    """
    model_digest = one_model(*evaluations, *selections)
    jumps = {pair: read_json(path, SELECTION)["jump"] for pair, path in zip(pairs, selections, strict=True)}
    text = {name: read_table(path) for name, path in zip(corpora, sentences, strict=True)}
    seen = {(fitted_on, target): count_seen(text[fitted_on], text[target]) for fitted_on, target in pairs}
    tables = []
    for ((fitted_on, target), _), path in zip(product(pairs, methods), evaluations, strict=True):
        found = read_table(path)
        found["corpus"] = corpus
        found.insert(2, "fitted_on", fitted_on)
        found.insert(3, "target", target)
        found["jump"] = jumps[fitted_on, target]
        found["seen"] = seen[fitted_on, target]
        tables.append(found)
    for (fitted_on, target), count in seen.items():
        if count:
            _LOG.warning(
                "from %s to %s: %d validation sentences of %s are training sentences of %s too",
                *(fitted_on, target, count, target, fitted_on),
            )
    write_table(table, pd.concat(tables, ignore_index=True), model_digest=model_digest)


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
