"""Fitting n-njtc at all levels: the exact solver against a loop of per-level Adam fits.

The loop is what one would write: torch.nn.BatchNorm1d and two matrices, minibatches of a level in memory, and
the best step size of a few, found beforehand and not timed. It stops at the first epoch whose training error,
by batch statistics of all samples, is within 1% of the exact solver's; the checks are not timed either.
"""

from __future__ import annotations

import sys
import time

import torch
from measure import PAIR, at_least
from torch import Tensor, nn

from onejump.base.rank import PAPERS_RANK, rank_for
from onejump.data.store import ActivationStore
from onejump.fitting.solvers import exact as exact_solver

LEVELS, BATCH, EPOCHS, SEARCHED_LEVEL = 30, 128, 100, 15
STEP_SIZES = (0.003, 0.01, 0.03, 0.1)


def error(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return float((model(inputs) - targets).square().mean())


def adam_seconds(inputs: Tensor, targets: Tensor, step: float, goal: float) -> tuple[float, bool]:
    """Seconds of training until the goal, and whether it was reached."""
    torch.manual_seed(0)
    hidden = inputs.shape[1]
    scale = targets.square().mean().sqrt()
    model = nn.Sequential(
        nn.BatchNorm1d(hidden),
        nn.Linear(hidden, rank_for(hidden, PAPERS_RANK), bias=False),
        nn.Linear(rank_for(hidden, PAPERS_RANK), hidden, bias=False),
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=step)
    taken = 0.0
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for rows in torch.split(torch.randperm(len(inputs)), BATCH):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(inputs[rows]), targets[rows] / scale).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        taken += time.perf_counter() - start
        if error(model, inputs, targets / scale) * float(scale) ** 2 <= goal:
            return taken, True
    return taken, False


def main() -> None:
    store = ActivationStore(sorted((PAIR / "activations").glob("training-*.zarr")))
    targets = torch.from_numpy(store.level(store.levels - 1))
    start = time.perf_counter()
    jumps = list(exact_solver.fit(store, "n-njtc", rank_for(store.hidden, PAPERS_RANK)))
    exact = time.perf_counter() - start

    def fit(level: int, step: float) -> tuple[float, bool]:
        inputs = torch.from_numpy(store.level(level))
        return adam_seconds(inputs, targets, step, 1.01 * error(jumps[level], inputs, targets))

    tried = {step: fit(SEARCHED_LEVEL, step) for step in STEP_SIZES}
    step = min(tried, key=lambda step: (not tried[step][1], tried[step][0]))
    print(f"step sizes at level {SEARCHED_LEVEL}: {tried}; best {step}", file=sys.stderr)
    fits = [fit(level, step) for level in range(LEVELS)]
    late = sum(not reached for _, reached in fits)
    loop = sum(taken for taken, _ in fits)
    note = f"{exact:.1f} s exact, {loop:.0f} s Adam at step size {step}"
    if late:
        note += f", {late} levels of which had not come within 1% after {EPOCHS} epochs"
    at_least("per-level Adam / exact, n-njtc at all levels", loop / exact, 10, note)


if __name__ == "__main__":
    main()
