"""Which files a corpus is read from.

Nothing here reads a text, and nothing heavy is imported: the workflow asks while it plans.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from onejump.base.errors import CorpusError

SUFFIXES = (".txt", ".py", ".jsonl", ".json", ".parquet")
"""Of files that documents are read from."""


def named(name: object) -> str:
    """A file's name, or any text, as one that can be written: bytes that are no UTF-8 become escapes."""
    return str(name).encode(errors="backslashreplace").decode()


def regular_files(path: str | Path) -> dict[str, Path]:
    """The files of a corpus: one, or those of a folder and its subfolders, links followed once.

    Returns
    -------
    dict of str -> Path
        By their names relative to the folder, sorted. Hidden files are left out.

    Raises
    ------
    CorpusError
        If there is none, or a folder or link cannot be followed, or the path is a pipe or a device, which
        would never end or could not be read again.
    """
    path = Path(path)
    accepted = ", ".join(SUFFIXES)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CorpusError(
            f"{named(path)}: {'no such file or folder' if missing else error.strerror}"
        ) from error
    if stat.S_ISDIR(mode):
        files = {file.relative_to(path).as_posix(): file for file in _below(path)}
        if not files:
            raise CorpusError(f"{named(path)}: no readable file in this folder; accepted are {accepted}")
        return dict(sorted(files.items()))
    if not stat.S_ISREG(mode):
        raise CorpusError(f"{named(path)}: a pipe, socket or device, no regular file and no folder")
    if path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"{named(path)}: suffix {path.suffix!r} given; accepted are {accepted}")
    return {path.name: path}


def _below(folder: Path) -> Iterator[Path]:
    """Regular files with an accepted suffix, each folder once: links between folders may go in circles."""

    def refuse(error: OSError) -> None:
        raise CorpusError(f"{named(error.filename)}: {error.strerror}") from error

    entered: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        found = os.stat(here)
        if (found.st_dev, found.st_ino) in entered:
            folders.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        # The order decides by which of several links a folder is entered.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            file = Path(here, name)
            if not name.startswith(".") and file.suffix.lower() in SUFFIXES:
                try:
                    regular = stat.S_ISREG(file.stat().st_mode)
                except OSError as error:
                    raise CorpusError(f"{named(file)}: a link that leads nowhere") from error
                if regular:
                    yield file


def standard_library_files(library: Path) -> Iterator[Path]:
    """Modules of a standard library, sorted, without tests and installed packages."""
    others = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for file in sorted(library.rglob("*.py")):
        if not others.intersection(file.relative_to(library).parts):
            yield file


def standard_library_state() -> str:
    """The version of the Python that runs, and a digest of its library's files by name and size."""
    library = Path(sysconfig.get_path("stdlib"))
    digest = hashlib.sha256()
    for file in standard_library_files(library):
        digest.update(f"{file.relative_to(library)} {file.stat().st_size}\n".encode())
    return f"Python {sys.version.split()[0]}, files {digest.hexdigest()[:16]}"
