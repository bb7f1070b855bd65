"""Which study a results folder belongs to: a copy of a study with the same name must not overwrite it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onejump.base.errors import MissingFileError, OneJumpError, OutdatedFileError, StudyError
from onejump.base.files import read_json, write_json
from onejump.base.format import Format
from onejump.study.reading import load_study

# The file in results/<study>/ that names the study files that the results belong to.
_OWNER = "study.json"
_FORMAT = Format("owner", 1, ("study_files",))


def check_owner(results: Path, files: Sequence[str]) -> None:
    """Make sure that a results folder does not belong to another study file.

    A study file that was moved or renamed takes its results along: the folder belongs to another one only
    while that file still exists and still has the name of these results. What a study asks for may change
    freely.

    Parameters
    ----------
    results : path
        `results/<study>`.
    files : sequence of str
        The study files of this run, relative to the folder that it runs in.

    Raises
    ------
    StudyError
        Naming both study files, and what to do.
    """
    owner = results / _OWNER
    others = _owners(results)
    if others is None or others == list(files) or not _still_there(others, results.name):
        return
    raise StudyError(
        f"study: {results.name!r} given in {' and '.join(files)}, but {results} holds the results of "
        f"{' and '.join(others)}, which has the same name: give this study another name, or, if these "
        f"results are to be replaced, delete {owner}"
    )


def write_owner(results: Path, files: Sequence[str]) -> None:
    """Write down that a results folder belongs to these study files."""
    if _owners(results) != list(files):
        write_json(results / _OWNER, {"study_files": list(files)}, _FORMAT)


def _owners(results: Path) -> list[str] | None:
    """The study files of a results folder; None if it does not say, or an older onejump wrote them down."""
    try:
        owners: list[str] = read_json(results / _OWNER, _FORMAT)["study_files"]
    except (MissingFileError, OutdatedFileError):
        return None
    return owners


def _still_there(files: Sequence[str], name: str) -> bool:
    if not all(Path(file).is_file() for file in files):
        return False
    try:
        return load_study(*files).study == name
    except OneJumpError:
        return True  # at the moment nobody can tell
