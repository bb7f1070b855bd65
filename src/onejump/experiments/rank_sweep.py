"""The stage "rank-sweep": what a kind gives at each rank, put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from onejump.base.files import read_json, read_table, write_table
from onejump.shortcuts.files import ShortcutFolder
from onejump.shortcuts.shortcut import LowRank


def collect_ranks(
    output: Path,
    evaluations: Mapping[tuple[str, str], Path],
    shortcuts: Mapping[tuple[str, str], Path],
    selections: Mapping[str, Path],
) -> None:
    """Put together evaluations, and count what each kind keeps.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus, method, level, metric, value, stderr, n, documents, rank, numbers.
    evaluations : mapping of (rank as the study gives it, method) -> path
        Tables of `onejump.scoring.evaluation.evaluate_method`.
    shortcuts : mapping of the same keys -> folder
        The method's; of ojfa that which it is selected from.
    selections : mapping of rank -> path
        Of the selection stage, where ojfa is among the methods.
    """
    tables = []
    for (rank, method), path in evaluations.items():
        folder = ShortcutFolder(shortcuts[rank, method])
        one = folder.load(read_json(selections[rank])["jump"] if method == "ojfa" else 0)
        assert isinstance(one, LowRank)
        found = read_table(path)
        found["rank"] = one.rank
        found["numbers"] = one.numbers() if method == "ojfa" else folder.numbers()
        tables.append(found)
    write_table(output, pd.concat(tables, ignore_index=True))
