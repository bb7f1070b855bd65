"""The stage "rank-sweep": the evaluations of methods at each rank, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from onejump.base.files import read_json, read_table, write_table
from onejump.base.format import SELECTION
from onejump.base.identity import one_model
from onejump.shortcuts.files import ShortcutFolder
from onejump.shortcuts.shortcut import LowRank


def collect_ranks(
    table: Path,
    evaluations: Sequence[Path],
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    *,
    ranks: Sequence[str],
    methods: Sequence[str],
) -> None:
    """The stage: put the evaluations together, and count the numbers that each method keeps.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, level, metric, value, stderr, n, documents, rank,
        numbers.
    evaluations : sequence of Path
        Tables of `onejump.scoring.evaluation.evaluate_method`: of all methods at the first rank, then of all
        methods at the next rank, and so on.
    shortcuts : sequence of Path
        The folder of shortcuts of each evaluation: for ojfa, that of the kind that it is selected from.
    selections : sequence of Path
        Of the selection stage, one for each rank; none if ojfa is not among the methods.
    ranks : sequence of str
        As the study gives them.
    methods : sequence of str
    """
    model_digest = one_model(*evaluations, *shortcuts, *selections)
    selecting = ranks if "ojfa" in methods else []
    jumps = {
        rank: read_json(path, SELECTION)["jump"] for rank, path in zip(selecting, selections, strict=True)
    }
    tables = []
    each = product(ranks, methods)
    for (rank, method), path, of_method in zip(each, evaluations, shortcuts, strict=True):
        folder = ShortcutFolder(of_method)
        one = folder.load(jumps[rank] if method == "ojfa" else 0)
        assert isinstance(one, LowRank)
        found = read_table(path)
        found["rank"] = one.rank
        found["numbers"] = one.numbers() if method == "ojfa" else folder.numbers()
        tables.append(found)
    write_table(table, pd.concat(tables, ignore_index=True), model_digest=model_digest)
