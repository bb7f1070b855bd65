"""Writes and reads the files that stages pass to one another.

A reader sees either the old file, or the whole new one, and never a part. JSON and parquet files carry a
checksum (`onejump.base.checksum`), and state their format and their model (`onejump.base.format`).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onejump.base.checksum import PLACEHOLDER, stamp, verify
from onejump.base.errors import OneJumpError
from onejump.base.format import FORMAT, KIND, MODEL_DIGEST, TABLE, TABLE_METADATA, Format, check_keys
from onejump.base.scratch import remove_leftovers, scratch_path

if TYPE_CHECKING:
    import pandas as pd

_CHECKSUM = "checksum"
_FLUSHED_AT_ONCE = 8


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a fresh path. What is written there becomes ``path`` on success, and is removed on failure.

    The caller creates a file or a folder at the fresh path. The fresh path is on the same file system as
    ``path``, so that the rename is atomic. Before the rename, all that was written is flushed to the disk and
    gets the permissions that the umask leaves.

    Raises
    ------
    OneJumpError
        If the disk is full; the message says where.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    scratch = scratch_path(path)
    # The yielded name keeps the suffix: writers such as matplotlib choose the format by it.
    fresh, replaced = scratch / path.name, scratch / "replaced"

    def clean_up() -> None:
        if replaced.exists() and not path.exists():
            os.rename(replaced, path)
        shutil.rmtree(scratch, ignore_errors=True)

    try:
        try:
            scratch.mkdir()
            yield fresh
            _finish(fresh, scratch.stat().st_mode)
            if path.is_symlink() and fresh.is_dir():
                path.unlink()  # a folder replaces files, but no link to a folder
            elif path.is_dir() and not path.is_symlink():
                os.rename(path, replaced)  # a folder cannot be replaced by rename: the old one steps aside
            os.replace(fresh, path)
            _flush(path.parent)
        except Exception as error:
            if _disk_is_full(error):
                raise OneJumpError(
                    f"no space left on the disk that holds {path.parent} while writing {path.name}; "
                    "the unfinished file was removed: free some space and run the same command again"
                ) from error
            raise
        finally:
            clean_up()
    except BaseException:
        # A signal that ends the process can come while it cleans up.
        clean_up()
        raise


def _finish(fresh: Path, permitted: int) -> None:
    """Flush a file, or a folder and all that is in it, to the disk, and set its permissions.

    Some writers (safetensors) make files that nobody else may read. ``permitted`` is the mode of a folder
    that was just made, with all permissions that the umask leaves.
    """
    entries = [entry for entry in (fresh, *fresh.rglob("*")) if not entry.is_symlink()]
    for entry in entries:
        usual = permitted & (0o777 if entry.is_dir() else 0o666)
        entry.chmod(entry.stat().st_mode & 0o7777 | usual)
    # A disk takes little more time to flush many files at once than to flush one.
    with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as pool:
        list(pool.map(_flush, entries))


def _flush(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some file systems cannot flush a folder by itself.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(opened)


def _disk_is_full(error: Exception) -> bool:
    # Writers in Rust (safetensors) raise errors of their own. Only their text holds the system's error
    # number.
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"(os error {code})" in str(error) for code in full)


def write_json(
    path: str | Path, content: Mapping[str, Any], form: Format, *, model_digest: str | None = None
) -> None:
    """Write an indented JSON object, atomically.

    Parameters
    ----------
    path : path
    content : mapping
    form : Format
        What the file holds. The first entries of the file state it. Its last entry is a checksum.
    model_digest : str, optional
        The identity of the model that the content belongs to.
    """
    whole = {**form.statement(model_digest), **content, _CHECKSUM: PLACEHOLDER}
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        stamp(fresh)


def read_json(path: str | Path, form: Format) -> dict[str, Any]:
    """Read what `write_json` wrote. The key "model_digest" holds the model that the content belongs to.

    Raises
    ------
    DamagedFileError
        If the file is damaged.
    FormatError
        If an older or newer onejump wrote it, it is of another kind, or a key is missing or unknown.
    OneJumpError
        If it is missing or not readable.
    """
    verify(path)
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    form.check(path, content)
    content = {key: value for key, value in content.items() if key not in (KIND, FORMAT, _CHECKSUM)}
    if form.keys:
        check_keys(path, content, form.keys, (MODEL_DIGEST,))
    return content


def write_table(
    path: str | Path, table: pd.DataFrame, *, model_digest: str | None = None, **first: str
) -> None:
    """Write a parquet table, atomically, without an index column.

    The metadata of the file state its format and its model, and hold a checksum.

    Parameters
    ----------
    path : path
    table : DataFrame
    model_digest : str, optional
        The identity of the model that the table belongs to.
    **first
        Columns to put before the table's own. Each has one value, the same in all rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = table.copy(deep=False)  # so that the caller's table gets no columns
    for place, (column, value) in enumerate(first.items()):
        table.insert(place, column, value)
    content = pa.Table.from_pandas(table, preserve_index=False)
    stated = {**TABLE.statement(model_digest), _CHECKSUM: PLACEHOLDER}
    with replacing(path) as fresh:
        with pq.ParquetWriter(fresh, content.schema) as writer:
            writer.write_table(content)
            writer.add_key_value_metadata({TABLE_METADATA: json.dumps(stated)})
        stamp(fresh)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read what `write_table` wrote.

    Raises
    ------
    DamagedFileError
        If the file is damaged.
    FormatError
        If an older or newer onejump wrote it.
    OneJumpError
        If it is missing or not readable.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    verify(path)
    stated = json.loads((pq.read_metadata(path).metadata or {}).get(TABLE_METADATA, b"{}"))
    TABLE.check(path, stated)
    check_keys(path, stated, (KIND, FORMAT, _CHECKSUM), (MODEL_DIGEST,))
    return pd.read_parquet(path)
