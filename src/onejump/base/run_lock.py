"""Removes the locks that a killed run of Snakemake left, if it is certain that the run is dead.

Snakemake locks a folder while it runs. Killed (SIGKILL, power cut), it leaves its locks, and the next run is
refused until somebody says `snakemake --unlock`. Each run therefore registers itself in a file that it keeps
locked (flock): the kernel releases such a lock when its process ends, for whatever reason.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from onejump.base.errors import OneJumpError

_RUNS = "onejump/runs"
_held: list[IO[str]] = []


def enter_run(folder: Path, *, on_cluster: bool) -> str | None:
    """Register this process as a run of the workflow, and remove the locks of dead runs.

    Locks stay if any run may be alive. A run on another host cannot be looked up. The jobs that a dead run
    gave to a cluster go on. Locks also stay if no registered run is known to have died.

    Parameters
    ----------
    folder : path
        Snakemake's `.snakemake`.
    on_cluster : bool
        Whether the jobs of this run are given to a cluster.

    Returns
    -------
    str or None
        A message for the user; None if there is nothing to say.
    """
    runs = folder / _RUNS
    runs.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(runs):
        told = _clean_up(folder, runs)
        name = f"{socket.gethostname()}.{os.getpid()}.{'cluster' if on_cluster else 'local'}"
        _hold(runs / name)
    return told


def enter_cache(folder: Path) -> None:
    """Let no other run use a cache of results (`--cache`) until this process ends.

    If two runs stored the same folder in it at once, the second would put its folder inside the first one's.

    Parameters
    ----------
    folder : path
        `SNAKEMAKE_OUTPUT_CACHE`.

    Raises
    ------
    OneJumpError
        If another run uses it.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return  # Snakemake says what is wrong with the folder
    file = (folder / ".in-use").open("w", encoding="utf-8")
    _held.append(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OneJumpError(
            f"{folder}: another run is using this cache (--cache); wait until it has ended, or run without "
            "--cache"
        ) from None
    except OSError:
        pass  # a file system without locks


def _clean_up(folder: Path, runs: Path) -> str | None:
    locks = folder / "locks"
    others = [run for run in sorted(runs.iterdir()) if not run.name.startswith(".")]
    dead = [run for run in others if _host(run) == socket.gethostname() and _is_dead(run)]
    if not locks.is_dir() or not any(locks.iterdir()):
        for run in dead:
            run.unlink(missing_ok=True)
        return None
    away = sorted({_host(run) for run in others} - {socket.gethostname()})
    if away:
        return (
            f"A run on {', '.join(away)} may be using this folder. If none does, delete {runs}, and run "
            "snakemake --unlock."
        )
    if len(dead) < len(others) or not dead:
        return None  # Snakemake says that another run uses the folder
    if any(run.suffix == ".cluster" for run in dead):
        return (
            "An earlier run was killed, and its jobs may still be in the cluster's queue. Once they are done "
            "or cancelled, run snakemake --unlock, and start again."
        )
    shutil.rmtree(locks)
    for run in dead:
        run.unlink(missing_ok=True)
    return "An earlier run was killed and left this folder locked: the lock was removed."


def _host(run: Path) -> str:
    return run.name.rsplit(".", 2)[0]


def _hold(path: Path) -> None:
    file = path.open("w", encoding="utf-8")
    with suppress(OSError):  # on file systems without locks
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.append(file)  # until the process ends
    owner = os.getpid()

    def leave() -> None:
        if os.getpid() == owner:
            path.unlink(missing_ok=True)

    atexit.register(leave)


def _is_dead(run: Path) -> bool:
    try:
        with run.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # the lock is held, or this file system cannot tell
        return False
    return True


@contextmanager
def _one_at_a_time(runs: Path) -> Iterator[None]:
    with (runs / ".guard").open("w", encoding="utf-8") as guard:
        with suppress(OSError):
            fcntl.flock(guard, fcntl.LOCK_EX)
        yield
