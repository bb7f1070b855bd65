"""What every job of the workflow does around its stage: threads, arguments, a log, and one clear error."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from onejump.base.binding import arguments_for
from onejump.base.errors import OneJumpError
from onejump.base.parent import end_with_parent


class _Stopped(KeyboardInterrupt):
    """A signal asks this process to end. It is caught like Ctrl-C, and not by `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def use_threads(count: int) -> None:
    """Set the number of threads for libraries (torch, numpy) that are imported after this call."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)


@contextmanager
def job(snakemake: Any) -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Run a stage as a job of the workflow.

    A script of the workflow is no more than this::

        with job(snakemake) as run:
            from onejump.scoring.evaluation import evaluate_method

            run(evaluate_method)

    The stage is imported inside, as torch reads the number of threads when it is imported. `run` calls it
    with what the rule names (`onejump.base.binding.arguments_for`).

    Warnings go to the job's log. For an error that onejump raises on purpose, the log gets one line; for any
    other error, also the traceback. The job then ends with status 1. A job that a signal asks to end (Ctrl-C,
    SIGTERM, a closed terminal) first removes what it had begun to write, and ends with status 128 + the
    signal's number.

    Parameters
    ----------
    snakemake : snakemake.script.Snakemake
        What Snakemake gives the script of a rule.

    Yields
    ------
    run : callable
        Calls a stage with its arguments.
    """

    def run(stage: Callable[..., Any]) -> None:
        stage(**arguments_for(stage, snakemake))

    use_threads(snakemake.threads)
    what = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
    os.environ["TQDM_DESC"] = what
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Warnings of onejump itself also go to the terminal, as few users open a log.
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter(f"{what}: %(message)s"))
    terminal.addFilter(
        lambda record: record.levelno == logging.WARNING and record.name.startswith("onejump.")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler, terminal], force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpcore", "matplotlib", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    warnings.simplefilter("default")
    logging.info("%s: started, threads: %s", what, snakemake.threads)
    try:
        with _stopping():
            end_with_parent()
            yield run
    except KeyboardInterrupt as error:
        # Ctrl-C reaches every process of the run. It is no error, so it needs no traceback.
        number = error.number if isinstance(error, _Stopped) else signal.SIGINT
        by = "the user" if number == signal.SIGINT else signal.Signals(number).name
        _fail(what, f"stopped by {by}", status=128 + number)
    except Exception as error:
        if (lack := _lack_of_memory(error)) is not None:
            _fail(what, lack)
        if isinstance(error, OneJumpError):
            _fail(what, str(error))
        logging.error(traceback.format_exc())
        _fail(what, f"{type(error).__name__}: {error}")
    logging.info("%s: done", what)


def _lack_of_memory(error: BaseException | None) -> str | None:
    """The message for an error of any library that a lack of memory caused; None for another error."""
    while error is not None:
        if type(error).__name__ == "OutOfMemoryError":
            return f"not enough GPU memory: lower compute.batch_tokens ({error})"
        # torch raises a RuntimeError, others an OSError, each with the system's message in its text.
        if isinstance(error, MemoryError) or "annot allocate memory" in str(error):
            detail = " ".join(str(error).split())[:200]
            return "not enough memory: lower compute.batch_tokens or activations.shard_sentences" + (
                f" ({detail})" if detail else ""
            )
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _stopping() -> Iterator[None]:
    """Raise an exception in the block when a signal asks this process to end."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    asked: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        asked.append(number)
        for other in numbers:  # a second signal must not interrupt the clean-up
            signal.signal(other, signal.SIG_IGN)
        raise _Stopped(number)

    # nohup starts a process that ignores SIGHUP: it goes on to ignore it.
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield
        # An exception that is raised in a callback of the interpreter (weakref, __del__) is ignored there.
        if asked:
            raise _Stopped(asked[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _fail(what: str, reason: str, status: int = 1) -> None:
    # Snakemake prints the log of a failed job, so nothing is printed here.
    logging.error("%s: %s", what, reason)
    logging.shutdown()
    sys.exit(status)
