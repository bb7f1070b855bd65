"""Ends a job when its run has ended. Otherwise the job and a new run could write the same file."""

from __future__ import annotations

import os
import signal
import threading
import time

_RUN = "ONEJUMP_RUN"  # environment variable
_SECONDS = 0.5


def name_parent() -> None:
    """Let the jobs that this process starts know its process number."""
    os.environ[_RUN] = str(os.getpid())


def end_with_parent() -> None:
    """Ask this process to end (SIGTERM) once the run that started it has ended.

    Does nothing if that run is unknown or cannot be seen from here, as from inside a container.
    """
    parent = os.environ.get(_RUN, "")
    if parent.isdigit() and int(parent) in _ancestors():
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _ancestors() -> set[int]:
    """The processes above this one, as far as they can be seen."""
    found: set[int] = set()
    process = os.getppid()
    while process > 1 and process not in found:
        found.add(process)
        process = _parent_of(process)
    return found


def _parent_of(process: int) -> int:
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            # The name, in parentheses, may hold anything; behind it come the state and the parent.
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _watch(parent: int) -> None:
    while parent in _ancestors():
        time.sleep(_SECONDS)
    # A signal, as it lets the job remove unfinished files first.
    os.kill(os.getpid(), signal.SIGTERM)
