"""The search for the levels and thresholds of a gate that save the most FLOPs at an agreement.

What is searched, and why, is said in `onejump.exits.gate_calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onejump.exits.choosing import LevelThresholds
from onejump.exits.confidences import Floats
from onejump.exits.gates import GATES, Patience, ThresholdGate
from onejump.exits.guarantee import last_guaranteed
from onejump.exits.observed import Observed
from onejump.exits.sweep import Sweep


class Flops(NamedTuple):
    """What parts of a token's way cost, in FLOPs."""

    below: Floats
    """All blocks up to each level, 0 to L: (L + 1,)."""
    check: float
    """A jump and its exit head."""
    head: float
    """The full model's head."""

    @property
    def blocks(self) -> int:
        """L."""
        return len(self.below) - 1

    @property
    def whole(self) -> float:
        """Of a token that does not exit and is not checked."""
        return float(self.below[-1]) + self.head

    def spent(self, levels: Sequence[int], place: NDArray[np.int64]) -> Floats:
        """Of tokens that exit at a place among the checked levels, or at none: its number is their count."""
        checks = np.minimum(place + 1, len(levels))
        at = np.append(self.below[list(levels)], self.whole)
        spent: Floats = at[place] + checks * self.check
        return spent


class Chosen(NamedTuple):
    """A gate, and what it gives on the samples that it was chosen on."""

    gate: ThresholdGate
    agreement: float
    saved: float
    """Share of the FLOPs."""


def exits_of(gate: ThresholdGate, found: Observed) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each sample agrees, and its place among the gate's levels: their count where it never exits."""
    levels = list(gate.levels)
    samples = len(found.hits)
    if not levels:
        return np.ones(samples, bool), np.zeros(samples, np.int64)
    scores = found.patience(levels) if gate.kind == "patience" else found.confidence[gate.kind][:, levels]
    exits = np.column_stack([scores >= list(gate.thresholds.values()), np.ones(samples, bool)])
    place = exits.argmax(1)
    hits = np.column_stack([found.hits[:, levels], np.ones(samples, bool)])
    return hits[np.arange(samples), place], place


Maker = Callable[[Mapping[int, float]], ThresholdGate]
"""Makes a gate of thresholds by level."""


def best_gate(
    kind: str, target: float, found: Observed, flops: Flops, make: Maker | None = None
) -> Chosen | None:
    """Choose levels and thresholds of a kind of gate that save the most FLOPs at an agreement.

    Parameters
    ----------
    kind : str
        Of a confidence of `found`, or patience.
    target : float
        The agreement.
    found : Observed
    flops : Flops
    make : function of thresholds by level that gives a gate, optional
        Unless given, the kind of `onejump.exits.gates`.

    Returns
    -------
    Chosen or None
        None if no gate of the kind saves FLOPs at the target.
    """
    if kind == Patience.kind:
        tried = [
            _judged(_by_patience(target, found, levels), found, flops) for levels in _steps(flops.blocks)
        ]
        return max((one for one in tried if one is not None), key=lambda one: one.saved, default=None)
    gate_of = _by_confidence(kind, found, flops, make)
    best: Chosen | None = None
    levels: list[int] = []
    while True:
        better: tuple[Chosen, int] | None = None
        for level in sorted(set(range(flops.blocks)) - set(levels)):
            chosen = _judged(gate_of(target, sorted([*levels, level])), found, flops)
            least = better[0] if better else best
            if chosen is not None and (least is None or chosen.saved > least.saved):
                better = chosen, level
        if better is None:
            return best
        best, level = better
        levels.append(level)


def _steps(blocks: int) -> Iterator[list[int]]:
    """Levels in even steps, from any level on: at least two of them."""
    for step in (1, 2, 3, 4, 6, 8, 12, 16):
        yield from (list(range(first, blocks, step)) for first in range(blocks - step))


def _judged(gate: ThresholdGate | None, found: Observed, flops: Flops) -> Chosen | None:
    """A gate with what it gives on the samples; None if it saves nothing."""
    if gate is None:
        return None
    agreed, place = exits_of(gate, found)
    saved = float(1 - flops.spent(gate.levels, place).mean() / flops.whole)
    return Chosen(gate, float(agreed.mean()), saved) if saved > 0 else None


def _by_confidence(
    kind: str, found: Observed, flops: Flops, make: Maker | None = None
) -> Callable[[float, list[int]], ThresholdGate | None]:
    """A function of target and levels that makes gates of one kind with calibrated thresholds."""
    by_level = LevelThresholds(found.confidence[kind].clip(0, 1), found.hits)

    def gate_of(target: float, levels: list[int]) -> ThresholdGate | None:
        saved = (flops.whole - flops.below[levels]) / flops.whole
        thresholds = by_level.reaching(target, levels, saved)
        return (make or GATES[kind])(thresholds) if thresholds else None

    return gate_of


def _by_patience(target: float, found: Observed, levels: list[int]) -> ThresholdGate | None:
    threshold = Sweep(found.patience(levels), found.hits[:, levels]).reaching(target)
    return Patience(dict.fromkeys(levels, int(threshold))) if math.isfinite(threshold) else None


def kept_gate(
    kind: str, target: float, first: Observed, second: Observed, flops: Flops, make: Maker | None = None
) -> Chosen | None:
    """A gate of a kind, with levels chosen on some samples and thresholds on others.

    Of many sets of levels, the best one on some samples is partly the luckiest one there: with its thresholds
    from the same samples, its agreement on others misses the target.
    """
    best = best_gate(kind, target, first, flops, make)
    if best is None:
        return None
    levels = list(best.gate.levels)
    if kind == Patience.kind:
        return _judged(_by_patience(target, second, levels), second, flops)
    return _judged(_by_confidence(kind, second, flops, make)(target, levels), second, flops)


def guaranteed_gate(
    kind: str,
    target: float,
    guarantee: float,
    learned: Observed,
    tested: Observed,
    flops: Flops,
    make: Maker | None = None,
) -> Chosen | None:
    """A gate of a kind whose agreement is guaranteed (`onejump.exits.guarantee`).

    What is saved is that of the gate that is best on the samples to learn from, without a guarantee: the kind
    to keep must not be chosen on the samples that are tested.
    """
    best = best_gate(kind, target, learned, flops, make)
    if best is None:
        return None
    levels = list(best.gate.levels)
    gates: Iterator[ThresholdGate]
    if kind == Patience.kind:
        gates = (Patience(dict.fromkeys(levels, count)) for count in range(len(levels), 0, -1))
    else:
        saved = (flops.whole - flops.below[levels]) / flops.whole
        by_level = LevelThresholds(learned.confidence[kind].clip(0, 1), learned.hits)
        gates = ((make or GATES[kind])(thresholds) for thresholds in by_level.stricter_first(levels, saved))
    gate = last_guaranteed(gates, lambda one: exits_of(one, tested)[0], tested.documents, target, guarantee)
    judged = _judged(gate, tested, flops)
    return None if judged is None else judged._replace(saved=best.saved)
