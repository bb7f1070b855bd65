"""What a file states of itself: its kind, the version of its format, and the model that it belongs to.

Every file that a stage writes and another one reads states these, beside its checksum. A model is identified
by a digest of its files (or by its commit on the hub), so that neither its name nor a folder's place counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from onejump.base.checksum import DELETE
from onejump.base.errors import FormatError, OutdatedFileError

KIND, FORMAT, MODEL_DIGEST = "kind", "format", "model_digest"
"""Keys by which a file states these."""
TABLE_METADATA = b"onejump"
"""Key of a parquet table's metadata that holds what the table states of itself."""

T = TypeVar("T")


@dataclass(frozen=True)
class Format:
    """A kind of file, and the version of its format that this onejump writes and reads."""

    kind: str
    version: int
    keys: tuple[str, ...] = ()
    """The keys that a JSON file must have; empty if they differ from file to file."""

    def statement(self, model_digest: str | None = None) -> dict[str, Any]:
        """Give what a file of this format has to state.

        Parameters
        ----------
        model_digest : str, optional
            The identity of the model that the file belongs to.
        """
        stated = {KIND: self.kind, FORMAT: self.version}
        return stated if model_digest is None else {**stated, MODEL_DIGEST: model_digest}

    def check(self, path: str | Path, stated: Mapping[str, Any], remedy: str = DELETE) -> None:
        """Refuse a file of another format.

        Parameters
        ----------
        path : path
        stated : mapping
            What the file states.
        remedy : str
            What the message tells its reader to do.

        Raises
        ------
        OutdatedFileError
            If an older onejump wrote the file.
        FormatError
            If a newer onejump wrote it, or it is of another kind.
        """
        kind, version = stated.get(KIND), stated.get(FORMAT)
        if kind not in (None, self.kind):
            raise FormatError(f"{path}: a file of the kind {self.kind!r} was expected, its kind is {kind!r}")
        if version == self.version and kind == self.kind:
            return
        found = "no format" if version is None else f"format {version!r}"
        message = f"{found} of the kind {self.kind!r} found, this onejump reads format {self.version}"
        if isinstance(version, int) and version > self.version:
            raise FormatError(f"{path}: {message}: update onejump, or {remedy}")
        raise OutdatedFileError(path, f"{message}, so an older one wrote this file: {remedy}")


MODEL = Format("model", 3)
"""`model.json` of the model stage (`onejump.models.description`)."""
SELECTION = Format("selection", 1, ("jump", "score", "margin", "ranking", "by_metric", "computed_from"))
"""The JSON file of the selection stage."""
CALIBRATION = Format("calibration", 1)
"""The JSON file of the stage "calibration"."""
TABLE = Format("table", 1)
"""Parquet tables of all stages."""


def check_keys(
    path: str | Path, given: Collection[str], needed: Collection[str], optional: Collection[str] = ()
) -> None:
    """Refuse a file that lacks a key, or has one that this onejump does not know.

    Raises
    ------
    FormatError
        If it does; the message names the keys.
    """
    missing = [key for key in needed if key not in given]
    unknown = [key for key in given if key not in (*needed, *optional)]
    if missing or unknown:
        wrong = [f"missing: {', '.join(missing)}"] * bool(missing)
        wrong += [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        known = ", ".join([*needed, *optional]) or "none"
        raise FormatError(
            f"{path}: its keys are not those of its format ({'; '.join(wrong)}; known: {known})"
        )


def from_keys(kind: type[T], path: str | Path, content: Mapping[str, Any]) -> T:
    """Make a dataclass from a file's content. The keys of the content must be the fields of the dataclass.

    Raises
    ------
    FormatError
        If a key is missing or unknown.
    """
    check_keys(path, content, [field.name for field in fields(kind)])  # type: ignore[arg-type]
    return kind(**content)
