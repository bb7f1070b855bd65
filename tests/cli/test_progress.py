"""How far a run is, and about how long it will take, from the records of Snakemake's own logger."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from onejump.cli.progress import Estimate, ProgressFormatter, spelt, times_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_left_takes_what_its_rule_took() -> None:
    clock = Clock()
    estimate = Estimate({"figure": 2.0}, clock)
    estimate.planned({"fit": 5, "figure": 10, "evaluate": 2})
    for job in range(3):
        assert estimate.seconds_left() is None
        estimate.begun(job, "fit")
        clock.now += 10
        estimate.done(job)
    # One at a time: two more fits as before, figures as in earlier runs, the others as the average.
    assert estimate.seconds_left() == pytest.approx(2 * 10 + 10 * 2 + 2 * 10)


def test_jobs_at_a_time_share_what_is_left() -> None:
    clock = Clock()
    estimate = Estimate(clock=clock)
    estimate.planned({"fit": 8})
    for first in (0, 2):
        for job in (first, first + 1):
            estimate.begun(job, "fit")
        clock.now += 10
        for job in (first, first + 1):
            estimate.done(job)
    assert estimate.seconds_left() == pytest.approx(20)
    for job in (4, 5):
        estimate.begun(job, "fit")
    clock.now += 5
    assert estimate.seconds_left() == pytest.approx(15)
    # A job that takes longer than all before it is never owed time.
    clock.now += 1000
    assert estimate.seconds_left() == pytest.approx(10)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "10 s"), (44, "40 s"), (59, "60 s"), (100, "2 min"), (3000, "50 min"), (9000, "2.5 h")],
)
def test_times_are_rounded(seconds: float, words: str) -> None:
    assert spelt(seconds) == words


def test_earlier_times_are_those_of_benchmark_files(tmp_path: Path) -> None:
    for name, content in (
        ("a", "s\th:m:s\n3.5\t0:00:03\n"),
        ("b", "s\n4.5\n"),
        ("cut", "s\tx\n"),
        ("odd", "\0"),
    ):
        (tmp_path / f"{name}.tsv").write_text(content, encoding="utf-8")
    assert times_of(sorted(tmp_path.iterdir())) == 4.0
    assert times_of([tmp_path / "absent"]) is None


@pytest.fixture
def said() -> Any:
    """said(event, message, **fields): what is printed of a record, by Snakemake's own handler."""
    stream = io.StringIO()
    clock = Clock()
    handler = ColorizingTextHandler(nocolor=True, stream=stream, formatter=DefaultFormatter())
    handler.setFormatter(ProgressFormatter(handler, results=lambda: ["the results"], clock=clock))

    def say(event: LogEvent | None, message: str | None = None, **fields: Any) -> str:
        stream.seek(0)
        stream.truncate()
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, message, None, None)
        record.__dict__.update(fields | ({"event": event} if event else {}))
        handler.handle(record)
        clock.now += 1
        return stream.getvalue()

    return say


def test_a_job_is_one_line(said: Any) -> None:
    assert said(None, "Building DAG of jobs...") == ""
    stats = {"corpus": 1, "fit": 4, "all": 1, "total": 6}
    assert said(LogEvent.RUN_INFO, "Job stats: ...", stats=stats) == "6 jobs: corpus, 4 fit, all\n"
    assert said(None, "Select jobs to execute...") == ""

    def run(job: int, rule: str, message: str | None) -> str:
        printed = said(LogEvent.JOB_STARTED, "Execute 1 jobs...", jobs=[job])
        printed += said(LogEvent.JOB_INFO, rule, jobid=job, rule_name=rule, rule_msg=message)
        printed += said(LogEvent.JOB_FINISHED, "Finished", job_id=job)
        return printed + said(LogEvent.PROGRESS, done=1, total=6)

    assert run(9, "corpus", "Sentences of stories") == "Job 1 of 6: Sentences of stories\n"
    assert run(8, "fit", "Fitting jtc") == "Job 2 of 6: Fitting jtc\n"
    assert run(7, "fit", "Fitting njtc") == "Job 3 of 6: Fitting njtc\n"
    assert run(6, "fit", "Fitting joint") == "Job 4 of 6, about 10 s left: Fitting joint\n"
    assert run(6, "fit", "Fitting joint") == "Job 4 of 6, about 10 s left: Fitting joint\n", "tried again"
    assert run(0, "all", None) == "Job 5 of 6: all\n"


def test_other_words_are_snakemakes_own(said: Any) -> None:
    assert said(None, "Pulling something") == "Pulling something\n"
    assert said(LogEvent.ERROR, "WorkflowError: no", exception="WorkflowError") == "WorkflowError: no\n"
    nothing = "Nothing to be done (all requested files are present and up to date)."
    assert said(None, nothing) == f"{nothing}\nthe results\n"
