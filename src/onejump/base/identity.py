"""Tells which model a file belongs to, and makes sure that files used together belong to one model."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onejump.base.errors import DamagedFileError, MissingFileError, OneJumpError
from onejump.base.format import MODEL_DIGEST, TABLE_METADATA

_LARGEST_HEADER = 100_000_000  # bytes; safetensors takes no larger one


def model_digest_in(path: str | Path) -> str | None:
    """Read from a file which model it belongs to. Nothing else in the file is read or checked.

    Parameters
    ----------
    path : path
        A JSON file, a table, a head or shortcut, a folder of shortcuts, or a shard of activations.

    Returns
    -------
    str or None
        The digest of the model's files; None if the file does not state it.

    Raises
    ------
    DamagedFileError
        If the file cannot be read as a file of its suffix.
    MissingFileError
        If there is no such file.
    """
    path = Path(path)
    try:
        digest = _stated(path).get(MODEL_DIGEST)
    except FileNotFoundError as error:
        raise MissingFileError(path) from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError, struct.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{path}: not readable, so its model is not known ({reason})") from error
    return None if digest is None else str(digest)


def _stated(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        return _parsed(path.read_bytes())
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return _parsed((pq.read_metadata(path).metadata or {}).get(TABLE_METADATA, b"{}"))
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            metadata = _parsed(file.read(min(length, _LARGEST_HEADER))).get("__metadata__", {})
        return _parsed(next(iter(metadata.values()), "{}"))
    if (path / "zarr.json").is_file():
        attributes: dict[str, Any] = _parsed((path / "zarr.json").read_bytes())["attributes"]
        return attributes
    return _stated(min(path.glob("*.safetensors"), default=path / "*.safetensors"))


def _parsed(text: str | bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(text)
    return content


def one_model(*paths: str | Path | None) -> str | None:
    """Make sure that files which are used together belong to one model.

    Parameters
    ----------
    *paths : path or None
        As in `model_digest_in`. None is left out, and so is a file that does not state its model.

    Returns
    -------
    str or None
        The digest of the model's files; None if no file states it.

    Raises
    ------
    OneJumpError
        If two files belong to different models, naming both.
    """
    return same_model((path, model_digest_in(path)) for path in paths if path is not None)


def same_model(stated: Iterable[tuple[object, str | None]]) -> str | None:
    """As `one_model`, for pairs: what the message calls the file, and the digest of its model or None."""
    first: tuple[object, str] | None = None
    for name, digest in stated:
        if digest is None:
            continue
        first = first or (name, digest)
        if digest != first[1]:
            raise OneJumpError(
                f"{first[0]} and {name} belong to different models ({_short(first[1])} and "
                f"{_short(digest)}), files of one model were expected: was one of them copied from another "
                "study?"
            )
    return None if first is None else first[1]


def _short(digest: str) -> str:
    return digest[: digest.find(":") + 13]
