"""Writing files so that a reader sees either the old one, or the whole new one, and never a part."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onejump.errors import OneJumpError

if TYPE_CHECKING:
    import pandas as pd

# A killed process leaves what it had begun. After so many seconds without a change nobody writes there.
_ABANDONED = 24 * 3600


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a fresh path beside ``path``; on success it becomes ``path``, on failure it is removed.

    The caller creates a file or a folder at the yielded path. It lies in the same folder as ``path``, so
    that the final rename stays within one file system.

    Raises
    ------
    OneJumpError
        If the disk is full; the message says where.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        # The yielded name keeps the suffix: writers such as matplotlib choose the format by it.
        fresh = scratch / path.name
        yield fresh
        if path.is_dir() and not path.is_symlink():
            # A folder cannot be replaced by rename: the old one steps aside, and back if the new one fails.
            os.rename(path, scratch / "replaced")
            try:
                os.replace(fresh, path)
            except BaseException:
                os.rename(scratch / "replaced", path)
                raise
        else:
            if path.is_symlink() and fresh.is_dir():
                path.unlink()  # a folder replaces files, but no link to a folder
            os.replace(fresh, path)
    except Exception as error:
        if _disk_is_full(error):
            raise OneJumpError(
                f"no space left on the disk that holds {path.parent} while writing {path.name}; "
                "nothing was kept of it: free some space and run the same command again"
            ) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    for scratch in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):  # its owner, or another job, may remove it at this moment
            changed = max(entry.stat().st_mtime for entry in (scratch, *scratch.rglob("*")))
            if changed < time.time() - _ABANDONED:
                shutil.rmtree(scratch)


def _disk_is_full(error: Exception) -> bool:
    # Writers in Rust (safetensors) raise errors of their own, which have the system's only in their text.
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"(os error {code})" in str(error) for code in full)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(path: str | Path, table: pd.DataFrame, **first: str) -> None:
    """Write a parquet table, atomically and without an index column.

    Parameters
    ----------
    path : path
    table : DataFrame
    **first
        Columns to put before the table's own, each of one value: what all its rows are of.
    """
    table = table.copy(deep=False)  # columns of its own
    for place, (column, value) in enumerate(first.items()):
        table.insert(place, column, value)
    with replacing(path) as fresh:
        table.to_parquet(fresh, index=False)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a parquet table."""
    import pandas as pd

    return pd.read_parquet(path)
