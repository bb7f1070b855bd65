"""The progress of a run: a line for each job, with about how long the rest will take."""

from __future__ import annotations

import csv
import logging
import statistics
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

# What Snakemake says around its jobs is the same in every run. Its log file keeps everything.
_HIDDEN_EVENTS = ("workflow_started", "resources_info", "job_started", "job_finished", "progress", "shellcmd")
_HIDDEN_STARTS = (
    "Assuming unrestricted shared filesystem usage",
    "Building DAG of jobs",
    "Conda environments: ignored",
    "Select jobs to execute",
    "Using shell: ",
)
# An estimate from fewer finished jobs is not worth showing.
_FEWEST_JOBS = 3


class Estimate:
    """Estimate how long the remaining jobs take from the jobs that are done.

    Parameters
    ----------
    history : mapping
        Rule -> seconds that one of its jobs took in earlier runs.
    clock : callable
        Gives the time in seconds.
    """

    def __init__(
        self, history: Mapping[str, float] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._history = history or {}
        self._clock = clock
        self._start = clock()
        self._left: Counter[str] = Counter()
        self._begun: dict[int, tuple[str, float]] = {}
        self._took: dict[str, list[float]] = defaultdict(list)

    def planned(self, jobs: Mapping[str, int]) -> None:
        """Note how many jobs of each rule the run has."""
        self._start = self._clock()
        self._left = Counter(jobs)

    def begun(self, job: int, rule: str) -> None:
        """Note that a job has begun."""
        self._begun[job] = rule, self._clock()

    def done(self, job: int) -> None:
        """Note that a job is done."""
        if job in self._begun:
            rule, since = self._begun.pop(job)
            self._took[rule].append(self._clock() - since)
            self._left[rule] -= 1

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the run is done; None while fewer than three jobs are done.

        The estimate assumes that a remaining job takes as long as jobs of its rule took in this run; if there
        were none, as long as in earlier runs; or else as long as an average job. It also assumes that as many
        jobs run at a time as before.
        """
        took = [seconds for each in self._took.values() for seconds in each]
        if len(took) < _FEWEST_JOBS:
            return None
        average = statistics.fmean(took)
        now = self._clock()
        work = sum(max(count, 0) * self._expected(rule, average) for rule, count in self._left.items()) - sum(
            min(now - since, self._expected(rule, average)) for rule, since in self._begun.values()
        )
        at_a_time = (sum(took) + sum(now - since for _, since in self._begun.values())) / (now - self._start)
        return max(work, 0.0) / max(at_a_time, 1.0)

    def _expected(self, rule: str, average: float) -> float:
        return statistics.fmean(self._took[rule]) if rule in self._took else self._history.get(rule, average)


class ProgressFormatter(logging.Formatter):
    """Format Snakemake's log records: one line for each job that begins; errors keep Snakemake's words.

    Parameters
    ----------
    handler : logging.Handler
        The handler that prints. Its own formatter formats all other records.
    history : mapping
        Rule -> seconds that one of its jobs took in earlier runs.
    results : callable
        Gives the lines to print after a run that had nothing to do.
    clock : callable
        Gives the time in seconds.
    """

    def __init__(
        self,
        handler: Any,
        history: Mapping[str, float] | None = None,
        results: Callable[[], Iterable[str]] = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._handler, self._inner = handler, handler.formatter
        self._results = results
        self._estimate = Estimate(history, clock)
        self._total = 0
        self._begun: set[int] = set()

    def format(self, record: logging.LogRecord) -> str:
        """Give a record's text, which is empty for a record that is not printed."""
        # Snakemake's handler prints an empty line before a job, unless it printed a job just before.
        self._handler.last_msg_was_job_info = True
        event, words = str(getattr(record, "event", "")), str(record.msg or "")
        if event == "run_info":
            return self._planned(record)
        if event == "job_info":
            return self._begins(record)
        if event == "job_finished":
            self._estimate.done(record.__dict__["job_id"])
        if event in _HIDDEN_EVENTS or words.startswith(_HIDDEN_STARTS):
            return ""
        text: str = self._inner.format(record)
        if words.startswith("Nothing to be done"):
            text = "\n".join([text, *self._results()])
        return text

    def _planned(self, record: logging.LogRecord) -> str:
        jobs = {rule: count for rule, count in record.__dict__["stats"].items() if rule != "total"}
        self._total = sum(jobs.values())
        self._estimate.planned(jobs)
        rules = ", ".join(rule if count == 1 else f"{count} {rule}" for rule, count in jobs.items())
        return textwrap.fill(f"{self._total} jobs: {rules}", width=110)

    def _begins(self, record: logging.LogRecord) -> str:
        job, rule = record.__dict__["jobid"], record.__dict__["rule_name"]
        self._begun.add(job)
        seconds = self._estimate.seconds_left()
        self._estimate.begun(job, rule)
        left = "" if seconds is None or rule == "all" else f", about {spelt(seconds)} left"
        what = record.__dict__["rule_msg"] or rule
        return f"Job {len(self._begun)} of {self._total}{left}: {what}"


def spelt(seconds: float) -> str:
    """Spell a length of time in rounded words.

    >>> spelt(7), spelt(200), spelt(9000)
    ('10 s', '3 min', '2.5 h')
    """
    if seconds < 60:
        return f"{max(10, 10 * round(seconds / 10))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def times_of(benchmarks: Iterable[Path]) -> float | None:
    """Average the seconds of jobs over Snakemake's benchmark files; None if there are none."""
    seconds = []
    for path in benchmarks:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                seconds += [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a file that was cut off must not stop the run
    return statistics.fmean(seconds) if seconds else None
