"""What the benchmarks share: interleaved timing, and one line for each measured ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onejump.runtime.bench import Run
    from onejump.runtime.cost_model import Policy

ROOT = Path(__file__).parent.parent
DEFAULT = ROOT / "results" / "default"
PAIR = DEFAULT / "smollm2-135m" / "wikipedia-en"


def seconds(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall times of each piece of work, by round.

    They take turns, and every other round in reverse, so that a machine that slows down or warms up treats
    all alike.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds):
        for name in list(work) if turn % 2 == 0 else list(work)[::-1]:
            start = time.perf_counter()
            work[name]()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the rounds' own ratios: what a round's neighbours suffer from the machine cancels."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def rates(runs: Sequence[Run], method: str, over: str) -> float:
    """Median of the rates of one way to decode, by those of another one on the same prompts."""
    by_prompt = {(run.batch, run.method): run.rate for run in runs}
    return statistics.median(
        by_prompt[run.batch, method] / by_prompt[run.batch, over] for run in runs if run.method == over
    )


def always(policy: Policy | None) -> Callable[[], Policy | None]:
    """Give what makes the same policy each time, as `onejump.runtime.bench.Bench` asks for it."""
    return lambda: policy


def at_most(what: str, measured: float, bar: float, note: str = "", unit: str = "") -> None:
    """Print a figure that has to stay below a bar."""
    _line(what, measured, f"at most {bar:g}{unit}", measured <= bar, note, unit)


def at_least(what: str, measured: float, bar: float, note: str = "", unit: str = "x") -> None:
    """Print a figure that has to reach a bar."""
    _line(what, measured, f"at least {bar:g}{unit}", measured >= bar, note, unit)


def _line(what: str, measured: float, bar: str, held: bool, note: str, unit: str) -> None:
    verdict = "ok    " if held else "MISSED"
    print(f"{verdict} {what}: {measured:.3g}{unit} ({bar}){'; ' + note if note else ''}", flush=True)
