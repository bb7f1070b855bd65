"""A checksum inside a file, over all its bytes, so that damage is noticed whatever the file's format.

A writer puts `PLACEHOLDER` where its format keeps text about the file: into the metadata of a safetensors
file or a parquet table, into an entry of a JSON object. `stamp` then replaces the zeros of the placeholder
by the digest of all other bytes of the file. `verify` computes that digest again and compares the two.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from onejump.base.errors import DamagedFileError, MissingFileError, OneJumpError

_MARK = b"onejump-checksum:"
_DIGITS = 64
PLACEHOLDER = _MARK.decode() + _DIGITS * "0"
"""What a file holds until it is stamped."""

DELETE = "delete it and run snakemake again"
"""What a message about a damaged file tells its reader to do."""

# Metadata stand at the end of a parquet table and at the beginning of a safetensors file.
_WINDOW = 1 << 16
_READ_AT_ONCE = 1 << 20


def stamp(path: str | Path) -> None:
    """Write a file's checksum in place of its `PLACEHOLDER`.

    Raises
    ------
    ValueError
        If the file holds no placeholder.
    """
    with Path(path).open("r+b") as file:
        start = _find(file)
        if start is None:
            raise ValueError(f"{path}: no place for a checksum in it")
        digest = _digest(file, start)
        file.seek(start)
        file.write(digest)


def verify(path: str | Path, remedy: str = DELETE) -> None:
    """Compare a file with the checksum in it.

    Parameters
    ----------
    path : path
    remedy : str
        What the message tells its reader to do about a damaged file.

    Raises
    ------
    DamagedFileError
        If the file is damaged, or has no checksum.
    MissingFileError
        If there is no such file.
    OneJumpError
        If the system refuses to read it.
    """
    try:
        with Path(path).open("rb") as file:
            start = _find(file)
            if start is None:
                raise DamagedFileError(
                    f"{path}: no checksum in it: it is damaged, or an older onejump or another program wrote "
                    f"it; {remedy}"
                )
            file.seek(start)
            if file.read(_DIGITS) != _digest(file, start):
                raise DamagedFileError(f"{path}: damaged (its checksum differs): {remedy}")
    except FileNotFoundError as error:
        raise MissingFileError(path) from error
    except OSError as error:
        raise OneJumpError(f"{path}: cannot be read ({error.strerror or error})") from error


def _find(file: BinaryIO) -> int | None:
    """Where the digits begin; None if there is no mark, or the file ends too soon behind it."""
    size = file.seek(0, os.SEEK_END)
    tail = max(0, size - _WINDOW)
    file.seek(tail)
    place = file.read(_WINDOW).rfind(_MARK)
    if place < 0:
        tail = 0
        file.seek(0)
        place = file.read(_WINDOW).find(_MARK)
    start = tail + place + len(_MARK)
    return None if place < 0 or start + _DIGITS > size else start


def _digest(file: BinaryIO, start: int) -> bytes:
    """Hexadecimal digest of all bytes but the digits at ``start``."""
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    file.seek(0)
    left = start
    while left and (part := file.read(min(left, _READ_AT_ONCE))):
        digest.update(part)
        left -= len(part)
    file.seek(start + _DIGITS)
    while part := file.read(_READ_AT_ONCE):
        digest.update(part)
    return digest.hexdigest().encode()
