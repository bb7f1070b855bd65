"""The stage "transfer": shortcuts of one corpus on the others, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from onejump.files import read_json, read_table, write_table

FromTo = tuple[str, str]
"""The corpus that shortcuts were fitted and selected on, and the one that they are used on."""


def collect_transfer(
    output: Path,
    evaluations: Mapping[FromTo, Sequence[Path]],
    selections: Mapping[FromTo, Path],
    *,
    corpus: str,
) -> None:
    """Put together what one corpus' shortcuts do on every corpus, and what that corpus' own do.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus (that this is about), fitted_on, target, method, level, metric,
        value, stderr, n, jump (which of the jumps of fitted_on the target's training samples choose).
    evaluations : mapping of (fitted on, target) -> paths
        Tables of `onejump.evaluation.evaluate_method`, of validation samples of the target.
    selections : mapping of the same keys -> path
        Of `onejump.selection.select_jump`, by training samples of the target.
    corpus : str
    """
    tables = []
    for (fitted_on, target), paths in evaluations.items():
        found = pd.concat([read_table(path) for path in paths], ignore_index=True)
        found["corpus"] = corpus
        found.insert(2, "fitted_on", fitted_on)
        found.insert(3, "target", target)
        found["jump"] = read_json(selections[fitted_on, target])["jump"]
        tables.append(found)
    write_table(output, pd.concat(tables, ignore_index=True))
