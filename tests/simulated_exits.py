"""Confidences drawn at random, and exits from them, simulated sample by sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onejump.exits.confidences import Confidences


def simulate(
    found: Confidences, exits: Callable[[int, int], bool]
) -> tuple[float, float, list[bool], list[int]]:
    """Agreement, mean blocks, and both of each sample, where `exits(sample, level)` says whether to stop."""
    agreed, blocks = [], []
    samples, levels = found.hits.shape
    for sample in range(samples):
        level = 0
        while level < levels and not exits(sample, level):
            level += 1
        blocks.append(level)
        agreed.append(True if level == levels else bool(found.hits[sample, level]))
    return sum(agreed) / samples, sum(blocks) / samples, agreed, blocks


def some_confidences(seed: int, samples: int = 40, levels: int = 5, coarse: bool = False) -> Confidences:
    """Hits the likelier the surer, and at the last level surer than is right."""
    generator = np.random.default_rng(seed)
    p = generator.beta(1, 1.5, size=(samples, levels)).clip(1e-4, 1 - 1e-6)
    right = p.copy()
    right[:, -1] **= 3
    if coarse:  # ties
        p = (p * 8).round() / 8
    positions = generator.integers(0, 30, samples).astype(np.int32)
    return Confidences(p, generator.random(p.shape) < right, positions, np.arange(samples))


def strictest_first(found: Confidences, target: float, from_level: int = 0) -> float:
    """The last of all thresholds, from the strictest on, before one misses the target."""
    p, chosen = found.probabilities, np.inf
    for threshold in sorted({*p[:, from_level:].ravel()}, reverse=True):
        agreement, *_ = simulate(found, lambda i, level: level >= from_level and p[i, level] >= threshold)  # noqa: B023
        if agreement < target:
            break
        chosen = threshold
    return chosen
