"""Takes data files out of Python wheels. The wheels are never installed or imported."""

from __future__ import annotations

import difflib
import hashlib
import lzma
import re
import shutil
import subprocess
import sys
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
