"""The stage "evaluation": the tables of all methods, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from onejump.base.files import read_table, write_table


def collect(output: Path, tables: Sequence[Path]) -> None:
    """Put the methods' tables together."""
    write_table(output, pd.concat([read_table(table) for table in tables], ignore_index=True))
