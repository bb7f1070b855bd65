"""The stage "evaluation": the tables of all methods, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model


def collect(table: Path, tables: Sequence[Path]) -> None:
    """The stage: put the tables of all methods together.

    Parameters
    ----------
    table : Path
        To write, with the rows of all tables.
    tables : sequence of Path
        Of `onejump.scoring.evaluation.evaluate_method`, one for each method.
    """
    model_digest = one_model(*tables)
    collected = pd.concat([read_table(path) for path in tables], ignore_index=True)
    write_table(table, collected, model_digest=model_digest)
