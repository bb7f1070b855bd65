"""Finds the files that a corpus is read from.

The workflow uses this while it plans. So no text is read here, and nothing is imported that takes long.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from onejump.base.errors import CorpusError

SUFFIXES = (".txt", ".py", ".jsonl", ".json", ".parquet")
"""Suffixes of the files that documents are read from."""
PAIR_SUFFIXES = (".jsonl", ".json", ".parquet", ".po", ".tmx")
"""Suffixes of the files that pairs of texts are read from."""
LABEL_SUFFIXES = (".jsonl", ".json", ".parquet")
"""Suffixes of the files that texts with labels are read from."""


def named(name: object) -> str:
    """A name, or any text, in a form that can be printed: bytes that are not UTF-8 become escapes."""
    return str(name).encode(errors="backslashreplace").decode()


def regular_files(path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """Find the files of a corpus: one file, or those of a folder and its subfolders. Links are followed once.

    Parameters
    ----------
    path : path
    suffixes : sequence of str
        Suffixes of files that are accepted.

    Returns
    -------
    dict of str -> Path
        Files by their names relative to the folder, sorted. Hidden files are left out.

    Raises
    ------
    CorpusError
        If there is no such file, if a folder cannot be read or a link leads nowhere, or if the path is a
        pipe or a device: it might never end, and cannot be read twice.
    """
    path = Path(path)
    accepted = ", ".join(suffixes)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CorpusError(
            f"{named(path)}: {'no such file or folder' if missing else error.strerror}"
        ) from error
    if stat.S_ISDIR(mode):
        files = {file.relative_to(path).as_posix(): file for file in _below(path, suffixes)}
        if not files:
            raise CorpusError(f"{named(path)}: no readable file in this folder; accepted are {accepted}")
        return dict(sorted(files.items()))
    if not stat.S_ISREG(mode):
        raise CorpusError(f"{named(path)}: a pipe, socket or device; a regular file or a folder was expected")
    if path.suffix.lower() not in suffixes:
        raise CorpusError(f"{named(path)}: suffix {path.suffix!r} given; accepted are {accepted}")
    return {path.name: path}


def _below(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Regular files with an accepted suffix. Each folder is entered once, as links may lead in a circle."""

    def refuse(error: OSError) -> None:
        raise CorpusError(f"{named(error.filename)}: {error.strerror}") from error

    entered: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        found = os.stat(here)
        if (found.st_dev, found.st_ino) in entered:
            folders.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        # Sorted, so that a folder that several links lead to is always entered by the same one.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            file = Path(here, name)
            if not name.startswith(".") and file.suffix.lower() in suffixes:
                try:
                    regular = stat.S_ISREG(file.stat().st_mode)
                except OSError as error:
                    raise CorpusError(f"{named(file)}: a link that leads nowhere") from error
                if regular:
                    yield file


def standard_library_files(library: Path) -> Iterator[Path]:
    """The modules of a standard library, sorted, without tests and installed packages."""
    others = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for file in sorted(library.rglob("*.py")):
        if not others.intersection(file.relative_to(library).parts):
            yield file


def standard_library_state() -> str:
    """The version of the running Python, and a digest of the names and sizes of its library's files."""
    library = Path(sysconfig.get_path("stdlib"))
    digest = hashlib.sha256()
    for file in standard_library_files(library):
        digest.update(f"{file.relative_to(library)} {file.stat().st_size}\n".encode())
    return f"Python {sys.version.split()[0]}, files {digest.hexdigest()[:16]}"
