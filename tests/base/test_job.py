"""What a job does around its stage."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from projects import ROOT
from snakemake.iocontainers import Namedlist

from onejump.base.errors import OneJumpError
from onejump.base.job import job


@pytest.fixture
def snakemake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What a script gets of Snakemake; logging and the environment are put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TQDM_DESC",
        "TRANSFORMERS_VERBOSITY",
    ):
        monkeypatch.setenv(name, "")
    with warnings.catch_warnings():
        yield SimpleNamespace(
            rule="corpus",
            input=Namedlist(),
            output=Namedlist(fromdict={"table": "stories.parquet"}),
            params=Namedlist(fromdict={"seed": 1}),
            wildcards=Namedlist(fromdict={"corpus": "stories"}),
            config={},
            threads=1,
            log=[tmp_path / "logs/corpus.log"],
        )
    logging.captureWarnings(False)
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_stage_runs_with_what_its_rule_names(snakemake: SimpleNamespace) -> None:
    given = []

    def build(table: Path, corpus: str, seed: int) -> None:
        given.append((table, corpus, seed))

    with job(snakemake) as run:
        run(build)
    assert given == [(Path("stories.parquet"), "stories", 1)]


def test_a_stage_that_does_not_fit_its_rule_never_starts(snakemake: SimpleNamespace) -> None:
    def build(table: Path, seed: str) -> None:
        raise AssertionError

    with pytest.raises(SystemExit) as ended, job(snakemake) as run:
        run(build)
    assert ended.value.code == 1
    log = snakemake.log[0].read_text(encoding="utf-8")
    assert "rule corpus does not fit test_job" in log
    assert "seed: 1 given, accepted is a valid string" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("error", "status", "said", "traced"),
    [
        (OneJumpError("no text"), 1, "corpus stories: no text", False),
        (KeyboardInterrupt(), 130, "corpus stories: stopped by the user", False),
        (MemoryError(), 1, "corpus stories: not enough memory", False),
        (ZeroDivisionError("oops"), 1, "corpus stories: ZeroDivisionError: oops", True),
    ],
    ids=["expected", "ctrl-c", "memory", "unexpected"],
)
def test_a_job_that_ends_early_says_why_in_its_log(
    snakemake: SimpleNamespace, error: BaseException, status: int, said: str, traced: bool
) -> None:
    with pytest.raises(SystemExit) as ended, job(snakemake):
        raise error
    assert ended.value.code == status
    log = snakemake.log[0].read_text(encoding="utf-8")
    assert f"ERROR {said}" in log
    assert ("Traceback" in log) == traced


@pytest.mark.parametrize(
    "allocate",
    [lambda: torch.empty(2**46, dtype=torch.uint8), lambda: np.empty(2**50, np.uint8)],
    ids=["torch", "numpy"],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_lack_of_memory_is_named_whichever_library_meets_it(
    snakemake: SimpleNamespace, allocate: Callable[[], object], wrapped: bool
) -> None:
    """Also where the library's own error was turned into one of onejump's on the way."""

    def load() -> None:
        try:
            allocate()
        except Exception as error:
            raise OneJumpError("the model could not be loaded") from error

    with pytest.raises(SystemExit), job(snakemake):
        load() if wrapped else allocate()
    log = snakemake.log[0].read_text(encoding="utf-8")
    assert "ERROR corpus stories: not enough memory: lower compute.batch_tokens" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_job_that_ends_at_a_random_moment_leaves_whole_files(
    number: signal.Signals, tmp_path: Path
) -> None:
    """What it had begun is removed: on SIGTERM by itself, on SIGKILL by the next writer."""
    program = [
        sys.executable,
        str(ROOT / "tests" / "killed_writers.py"),
        str(tmp_path),
        str(int(number)),
        "15",
    ]
    run = subprocess.run(program, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_ignored_ends_the_job_when_it_is_done(snakemake: SimpleNamespace) -> None:
    class Ignoring:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    done = []

    def work() -> None:
        with job(snakemake):
            Ignoring()
            done.append(True)

    with pytest.raises(SystemExit) as ended:
        work()
    assert done
    assert ended.value.code == 128 + signal.SIGTERM


def test_what_the_library_warns_of_is_said_on_the_terminal_too(
    snakemake: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(snakemake):
        logging.getLogger("onejump.data.corpus").warning("few documents")
        logging.getLogger("onejump.data.corpus").info("many words")
        logging.getLogger("another").warning("chatter")
    assert capsys.readouterr().err == "corpus stories: few documents\n"
    log = Path(snakemake.log[0]).read_text(encoding="utf-8")
    assert all(said in log for said in ("few documents", "many words", "chatter"))
