"""Locks of a run that was killed, and jobs that outlive it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

RUN = """
import sys
from pathlib import Path
from onejump.base.run_lock import enter_run
print(enter_run(Path(".snakemake"), on_cluster=sys.argv[1] == "cluster"), flush=True)
locks = Path(".snakemake/locks")
if sys.argv[2] == "lock":
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text("a file")
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def running(executor: str = "local") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run that has locked the folder, and what it said."""
    command = [sys.executable, "-c", RUN, executor, "lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        said = run.stdout.readline().strip()
        while not Path(".snakemake/locks/0.output.lock").exists():
            assert run.poll() is None
        try:
            yield run, said
        finally:
            run.kill()


def begin() -> str:
    """What a run says that begins now."""
    command = [sys.executable, "-c", RUN, "local", "no lock"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def locked() -> bool:
    return Path(".snakemake/locks/0.output.lock").exists()


def test_the_lock_of_a_dead_run_is_taken_away_with_a_word() -> None:
    with running() as (run, said):
        assert said == "None"
        run.send_signal(signal.SIGKILL)
    assert locked()
    assert "killed" in begin()
    assert not locked()
    assert begin() == "None"
    assert [path.name for path in Path(".snakemake/onejump/runs").iterdir()] == [".guard"]


def test_the_lock_of_a_live_run_stays() -> None:
    with running():
        assert begin() == "None"
        assert locked()


def test_a_live_run_beside_a_dead_one_keeps_all_locks() -> None:
    with running() as (dead, _), running():
        dead.kill()
        dead.wait()
        assert begin() == "None"
        assert locked()


def test_a_run_on_another_host_is_out_of_sight() -> None:
    with running():
        pass
    (own,) = Path(".snakemake/onejump/runs").glob("*.local")
    own.rename(own.with_name(own.name.replace(socket.gethostname(), "far.away")))
    assert "far.away" in begin()
    assert locked()


def test_jobs_of_a_dead_run_may_go_on_in_a_cluster() -> None:
    with running("cluster"):
        pass
    assert "snakemake --unlock" in begin()
    assert locked()


def test_locks_of_nobody_known_stay() -> None:
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.output.lock").write_text("a file", encoding="utf-8")
    assert begin() == "None"
    assert locked()


JOB = """
import time
from onejump.base.parent import end_with_parent
end_with_parent()
print("started", flush=True)
time.sleep(20)
print("survived")
"""

# As Snakemake does: a shell between the run and its job.
PARENT = f"""
import subprocess, sys
from onejump.base.parent import name_parent
name_parent()
subprocess.run(["bash", "-c", '"$0" -c "$1"; true', sys.executable, {JOB!r}])
"""


def test_a_job_ends_with_the_run_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert run.stdout.readline() == "started\n"
        run.kill()
        run.wait()
        # The job holds the pipe's other end: it is read to its end once the job is gone.
        assert run.stdout.read() == ""
