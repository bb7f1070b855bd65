"""Scratch folders: a file is written in one before it gets its own name.

The name of a scratch folder says which process owns it, so that another process can find out whether the
owner is dead, and then remove the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

# Seconds without a change, after which an owner on another machine, or in another container, counts as dead.
_ABANDONED = 24 * 3600

_OWNER = re.compile(r"\.(?P<place>[0-9a-f]{8})-(?P<process>\d{1,9})-(?P<started>\d+)-[0-9a-f]{8}\.part$")


def scratch_path(path: Path) -> Path:
    """A fresh name beside ``path``: ``.<name>.<place>-<process>-<started>-<random>.part``."""
    process = os.getpid()
    owner = f"{_place()}-{process}-{_started(process) or 0}-{uuid.uuid4().hex[:8]}"
    return path.parent / f".{path.name}.{owner}.part"


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes began to write in a folder.

    Whether a process of this machine, boot and process namespace is dead can be looked up. What another
    process began is removed if nothing in it has changed for a day.
    """
    for scratch in folder.glob(".*.part"):
        owner = _OWNER.search(scratch.name)
        with suppress(OSError):  # another process may remove it at this moment
            if owner and owner["place"] == _place():
                left = not _runs(int(owner["process"]), int(owner["started"]))
            else:
                entries = (scratch, *scratch.rglob("*"))
                changed = max(entry.lstat().st_mtime for entry in entries)
                left = changed < time.time() - _ABANDONED
            if left:
                shutil.rmtree(scratch)


@cache
def _place() -> str:
    """Digest of all that gives a process number its meaning: machine, boot and process namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def _runs(process: int, started: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return _started(process) in (started, None)


def _started(process: int) -> int | None:
    """When a process started, in clock ticks since boot; 0 if it ended; None if the system does not tell."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold spaces and parentheses itself.
    state, *others = status.rpartition(")")[2].split()
    return 0 if state in "ZX" else int(others[18])
