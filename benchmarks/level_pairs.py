"""r2 of jtc from every level to every later one: all pairs together against a fit of scikit-learn for each.

The loop is what one would write: LinearRegression(fit_intercept=False) and r2_score, on states in memory. A
few pairs of it, spread over all, are timed, and count for all. It is given the states in float64, as ours
sums their moments. Ours reads them from a store, and that is timed too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measure import PAIR, at_least, at_most
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from onejump.data.shard_layout import Array
from onejump.data.shard_writer import ShardWriter
from onejump.data.store import ActivationStore
from onejump.experiments.level_pairs import level_pairs

LEVELS, HIDDEN, TRAINING, VALIDATION = 13, 768, 9000, 3000
TIMED = [(0, 1), (0, 12), (3, 8), (6, 7), (11, 12)]
REAL = [(0, 1), (12, 13), (12, 29), (20, 30), (29, 30)]

Pair = tuple[int, int]


def ill_conditioned(samples: int, generator: np.random.Generator, steps: Sequence[Array]) -> Array:
    """A residual stream (levels, samples, H): correlated, off centre, some coordinates 1e4 times larger."""
    first, *blocks = steps
    state = generator.standard_normal((samples, HIDDEN)) @ first + 1
    states = [state]
    for number, block in enumerate(blocks):
        state = state + np.tanh(state @ block) + 0.2 * generator.standard_normal(state.shape)
        if number == LEVELS // 3:
            state[:, [7, 100, 500]] *= 1e4
        states.append(state)
    return np.stack(states).astype(np.float32)


def write_store(path: Path, states: Array) -> ActivationStore:
    ids = np.zeros(states.shape[1], np.int32)
    with ShardWriter(path, levels=LEVELS, samples=len(ids), hidden=HIDDEN, top_k=1) as writer:
        writer.append(
            states,
            sentence=ids,
            position=ids,
            token=ids,
            top_tokens=ids[:, None],
            top_logits=ids[:, None],
            logsumexp=ids,
        )
    return ActivationStore([path])


def synthetic(folder: Path) -> tuple[ActivationStore, ActivationStore]:
    generator = np.random.default_rng(0)
    # Singular values from 1 to 1e-3: neighbouring coordinates say nearly the same.
    turns = [np.linalg.qr(generator.standard_normal((HIDDEN, HIDDEN)))[0] for _ in range(2)]
    mix = 4 * turns[0] * np.logspace(0, -3, HIDDEN) @ turns[1]
    blocks = [generator.standard_normal((HIDDEN, HIDDEN)) / HIDDEN**0.5 for _ in range(LEVELS - 1)]
    return (
        write_store(folder / "training.zarr", ill_conditioned(TRAINING, generator, [mix, *blocks])),
        write_store(folder / "validation.zarr", ill_conditioned(VALIDATION, generator, [mix, *blocks])),
    )


def loop(
    training: ActivationStore, validation: ActivationStore, pairs: Sequence[Pair]
) -> tuple[dict[Pair, float], float]:
    """r2 of each pair by scikit-learn, and the seconds that took without the reading."""
    found, taken = {}, 0.0
    for source, target in pairs:
        x, y, inputs, targets = (
            store.level(level).astype(np.float64)
            for store in (training, validation)
            for level in (source, target)
        )
        start = time.perf_counter()
        predicted = LinearRegression(fit_intercept=False).fit(x, y).predict(inputs)
        found[source, target] = float(r2_score(targets, predicted, multioutput="uniform_average"))
        taken += time.perf_counter() - start
    return found, taken


def largest_difference(table: pd.DataFrame, found: dict[Pair, float]) -> float:
    r2 = table.set_index(["source", "target"])["r2"]
    return max(abs(float(r2[pair]) - value) for pair, value in found.items())


def main() -> None:
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as scratch:
        training, validation = synthetic(Path(scratch))
        start = time.perf_counter()
        table = level_pairs(training, validation, ["jtc"], 1, cpu)
        ours = time.perf_counter() - start
        found, taken = loop(training, validation, TIMED)
    scaled = taken / len(TIMED) * len(table)
    note = (
        f"{ours:.1f} s; {taken:.1f} s for {len(TIMED)} of {len(table)} pairs, {scaled:.0f} s for all at that"
    )
    at_least("scikit-learn / all level pairs of jtc", scaled / ours, 4, note)
    difference = largest_difference(table, found)
    at_most("difference of r2 from scikit-learn's, ill-conditioned states", difference, 1e-4)
    real = [sorted((PAIR / "activations").glob(f"{split}-*.zarr")) for split in ("training", "validation")]
    if all(real):
        training, validation = map(ActivationStore, real)
        table = level_pairs(training, validation, ["jtc"], 1, cpu)
        difference = largest_difference(table, loop(training, validation, REAL)[0])
        at_most(f"difference of r2 from scikit-learn's, activations of a model, {REAL}", difference, 1e-4)


if __name__ == "__main__":
    main()
