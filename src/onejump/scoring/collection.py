"""The stage "evaluation": the tables of all methods, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model


def collect(output: Path, tables: Sequence[Path]) -> None:
    """Put the methods' tables together."""
    model_digest = one_model(*tables)
    collected = pd.concat([read_table(table) for table in tables], ignore_index=True)
    write_table(output, collected, model_digest=model_digest)
