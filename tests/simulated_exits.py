"""Jumps and confidences drawn at random, and exits from them, simulated sample by sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from onejump.exits.confidences import Confidences
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.shortcut import Shortcut


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


def some_shortcuts(kind: str, hidden: int, levels: int) -> list[Shortcut]:
    """Random jumps of a kind, one for each level."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def one() -> Shortcut:
        if kind == "identity":
            return Identity()
        if kind == "jtc":
            return JTC(torch.eye(hidden) + 0.1 * normal(hidden, hidden))
        if kind == "n-njtc":
            return NNJTC(
                normal(hidden, 3),
                normal(3, hidden),
                normal(hidden),
                normal(hidden),
                normal(hidden),
                normal(hidden).square() + 0.1,
            )
        return Distilled(normal(hidden, 3), normal(3), normal(3, hidden), normal(hidden), "rms", 1e-5)

    return [one() for _ in range(levels)]


def strictest_first(found: Confidences, target: float, from_level: int = 0) -> float:
    """The last of all thresholds, from the strictest on, before one misses the target."""
    p, chosen = found.probabilities, np.inf
    for threshold in sorted({*p[:, from_level:].ravel()}, reverse=True):
        agreement, *_ = simulate(found, lambda i, level: level >= from_level and p[i, level] >= threshold)  # noqa: B023
        if agreement < target:
            break
        chosen = threshold
    return chosen


def table_of(hits: np.ndarray, method: str = "m", **columns: np.ndarray) -> pd.DataFrame:
    """A table of confidences from hits (n, L); columns are matrices (n, L), or (n,) alike at all levels."""
    samples, levels = hits.shape
    given = {
        "document": np.arange(samples),
        "position": np.zeros(samples, np.int32),
        "token": np.where(hits, 1, 2),
        **dict.fromkeys(("probability", "margin", "entropy"), np.full(hits.shape, 0.5)),
    } | columns
    spread = {
        name: np.broadcast_to(values if values.ndim == 2 else values[:, None], hits.shape).T.ravel()
        for name, values in given.items()
    }
    return pd.DataFrame(
        {
            "method": method,
            "sample": np.tile(np.arange(samples), levels),
            "level": np.repeat(np.arange(levels), samples),
            **spread,
            "hit": hits.T.ravel(),
        }
    )
