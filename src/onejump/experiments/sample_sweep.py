"""The stage "sample-sweep": the evaluations of kinds at each number of training samples, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.shortcuts.files import ShortcutFolder


def collect_samples(table: Path, evaluations: Sequence[Path], shortcuts: Sequence[Path]) -> None:
    """The stage: put the evaluations together, with the number of samples that each fit saw.

    Where a study asks for more samples than there are, several fits see all of them: the table has one.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, level, metric, value, stderr, n, documents (of the
        validation samples), samples (that were trained on).
    evaluations : sequence of Path
        Tables of `onejump.scoring.evaluation.evaluate_method`.
    shortcuts : sequence of Path
        The folder of shortcuts of each evaluation.
    """
    model_digest = one_model(*evaluations, *shortcuts)
    tables: dict[tuple[str, int], pd.DataFrame] = {}
    for path, folder in zip(evaluations, shortcuts, strict=True):
        found, samples = read_table(path), ShortcutFolder(folder).samples
        assert samples is not None  # the stage "distillation" states it
        tables[str(found["method"].iloc[0]), samples] = found.assign(samples=samples)
    write_table(table, pd.concat(tables.values(), ignore_index=True), model_digest=model_digest)
