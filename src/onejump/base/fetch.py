"""Takes data files out of Python wheels. The wheels are never installed or imported."""

from __future__ import annotations

import difflib
import hashlib
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from onejump.base.errors import OneJumpError
from onejump.base.files import replacing

# A pinned wheel. Its name and version cannot hold a slash, so a folder that is named by it stays where it is
# made.
PINNED_WHEEL = r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*"
_CHUNK = 1 << 20
# In a wheel, text shrinks to a tenth, and weights hardly at all. A file that grows by more than this factor
# was made to fill the disk.
_MOST_GROWTH = 100
_SMALL = 100_000_000  # bytes that one file of any wheel may have
_NAMES_COMPARED = 2_000


def fetch_from_wheel(
    requirement: str, member: str, destination: str | Path, sha256: str | None = None
) -> None:
    """Download a wheel with pip and write one file of it at ``destination``, atomically.

    Parameters
    ----------
    requirement : str
        The wheel, pinned as ``name==version``. It is downloaded, without what it depends on, from wherever
        pip is configured to look.
    member : str
        Path of the file inside the wheel.
    destination : path
        Where to write it. Missing folders are made.
    sha256 : str, optional
        SHA-256 that the file must have.

    Raises
    ------
    OneJumpError
        If the requirement is not pinned, pip fails, the wheel has no such file or is damaged, the file is
        larger than the free disk space or than any data in a wheel of this size, or its checksum differs.
        ``destination`` is then left as it was.
    """
    if not re.fullmatch(PINNED_WHEEL, requirement):
        raise OneJumpError(f"{requirement!r} given, a pinned wheel, name==version, was expected")
    with replacing(destination) as fresh:
        wheel = _download(requirement, fresh.parent / "wheel")
        try:
            found = _extract(wheel, member, fresh)
        # Each method of compression raises its own kind of error where the data are damaged.
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
            raise OneJumpError(f"{wheel.name} is damaged: {error}") from error
        if sha256 is not None and found != sha256.lower():
            raise OneJumpError(f"{member} in {wheel.name} has the SHA-256 {found}, expected was {sha256}")


def is_pattern(file: str | None) -> bool:
    """Whether a path in a wheel stands for several files: * is any part of a name, ** any folders."""
    return "*" in (file or "")


def fetch_files_from_wheel(
    requirement: str, pattern: str, destination: str | Path, sha256: str | None = None
) -> None:
    """Download a wheel with pip and write the files that match a pattern below ``destination``, atomically.

    Parameters
    ----------
    requirement : str
        See `fetch_from_wheel`.
    pattern : str
        Paths inside the wheel: * is any part of a name, ** any folders.
    destination : path
        Folder to write. The files keep their paths.
    sha256 : str, optional
        SHA-256 of the lines "SHA-256, two spaces, path" of all files, in the order of their paths.

    Raises
    ------
    OneJumpError
        If no file matches, and as in `fetch_from_wheel`.
    """
    parts = (re.escape(part).replace(r"\*", "[^/]*") for part in re.split(r"(\*\*/)", pattern))
    matching = re.compile("".join("(?:[^/]+/)*" if part == r"[^/]*[^/]*/" else part for part in parts))
    with tempfile.TemporaryDirectory() as folder, replacing(destination) as fresh:
        wheel = _download(requirement, Path(folder))
        try:
            with zipfile.ZipFile(wheel) as archive:
                members = sorted(filter(matching.fullmatch, archive.namelist()))
            if not members:
                raise OneJumpError(f"no file {pattern} in {wheel.name}")
            lines = []
            for member in members:
                target = Path(fresh, *(step for step in member.split("/") if step not in ("", ".", "..")))
                target.parent.mkdir(parents=True, exist_ok=True)
                lines.append(f"{_extract(wheel, member, target)}  {member}\n")
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
            raise OneJumpError(f"{wheel.name} is damaged: {error}") from error
        found = hashlib.sha256("".join(lines).encode()).hexdigest()
        if sha256 is not None and found != sha256.lower():
            raise OneJumpError(f"{pattern} in {wheel.name} has the SHA-256 {found}, expected was {sha256}")


def _download(requirement: str, folder: Path) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "-q", "-d", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if pip.returncode != 0:
        reason = (pip.stderr.strip().splitlines() or [f"exit status {pip.returncode}"])[-1]
        raise OneJumpError(f"pip could not download {requirement}: {reason}")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, member: str, destination: Path) -> str:
    """Write ``member`` at ``destination`` and give back its SHA-256."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if member not in names:
            short = [name for name in names[:_NAMES_COMPARED] if len(name) <= 200]
            similar = difflib.get_close_matches(member, short, n=5, cutoff=0.3)
            hint = f"; similar: {', '.join(similar)}" if similar else ""
            raise OneJumpError(f"no file {member} in {wheel.name}{hint}")
        # zipfile never gives out more bytes than the wheel's index says.
        size = archive.getinfo(member).file_size
        most = _SMALL + _MOST_GROWTH * wheel.stat().st_size
        if size > most:
            raise OneJumpError(
                f"{member} in {wheel.name} would unpack to {size:,} bytes, accepted from a wheel of this "
                f"size is at most {most:,}"
            )
        free = shutil.disk_usage(destination.parent).free
        if size > free:
            raise OneJumpError(
                f"{member} in {wheel.name} has {size:,} bytes, the disk that holds {destination.parent} has "
                f"{free:,} left: free some space and run the same command again"
            )
        with archive.open(member) as source, destination.open("wb") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
    return digest.hexdigest()
