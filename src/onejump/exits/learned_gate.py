"""The gate "learned": a logistic classifier that also reads the coordinates of the jump.

At level l, with p the probability of the predicted token and z the r coordinates that the jump predicts from,
the confidence is g = 1 / (1 + exp(-(c_l + k_l ln(p / (1 - p)) + w_l z))): the probability that the predicted
token is the full model's. c, k and w are fitted on held-out documents (`onejump.exits.gate_training`), 2 + r
numbers for each level that is checked. They are part of the gate.

Such a gate needs more than logits: `leaving` gives it what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from onejump.base.errors import GateError
from onejump.exits.gates import Gate, ThresholdGate, gate_from_dict
from onejump.models.most_likely import top_probability
from onejump.shortcuts.kinds.shortlist import ShortlistAt
from onejump.shortcuts.shortcut import LowRank, Shortcut

# As in `onejump.exits.calibration`: a float32 probability that rounds to one still has finite log odds.
_SMALLEST = 2.0**-24


class Learned(ThresholdGate):
    """Exits where the calibrated probability to agree reaches the threshold.

    Parameters
    ----------
    thresholds : mapping of level -> threshold
        As in `ThresholdGate`.
    weights : mapping of level -> sequence of 2 + r numbers
        c, k and w of each of these levels.

    Raises
    ------
    GateError
        If a level has no weights, or their numbers differ from level to level.
    """

    kind = "learned"

    def __init__(self, thresholds: Mapping[int, float], weights: Mapping[int, Sequence[float]]) -> None:
        super().__init__(thresholds)
        if set(weights) != set(self.levels):
            raise GateError(
                f"gate learned: weights for level {', '.join(map(str, sorted(weights))) or 'none'} given, "
                f"accepted are those of the levels that it checks: {', '.join(map(str, self.levels))}"
            )
        sizes = {len(of_level) for of_level in weights.values()}
        if len(sizes) > 1 or min(sizes, default=2) < 2:
            raise GateError(
                f"gate learned: {', '.join(map(str, sorted(sizes)))} weights for a level given, accepted are "
                "2 + r for each"
            )
        if not all(_is_number(weight) for of_level in weights.values() for weight in of_level):
            raise GateError("gate learned: accepted are weights that are finite numbers")
        self.weights: dict[int, tuple[float, ...]] = {
            level: tuple(map(float, weights[level])) for level in self.levels
        }
        """c, k and w of each level that is checked."""
        self._tensors: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def rank(self) -> int:
        """r, the coordinates that it reads."""
        return max(map(len, self.weights.values()), default=2) - 2

    def numbers(self) -> int:
        """Count the numbers that it keeps."""
        return sum(map(len, self.weights.values())) + len(self.thresholds)

    @property
    def flops(self) -> int:
        """Floating-point operations of one check, besides those of the logits; 2 a multiplication."""
        return 2 * (1 + self.rank)

    @staticmethod
    def confidence(logits: Tensor, earlier: Tensor) -> Tensor:
        """Refuse: logits alone do not tell."""
        raise GateError("gate learned: it needs the jump's coordinates, and only logits were given")

    def exits(self, level: int, logits: Tensor, earlier: Tensor, coordinates: Tensor | None = None) -> Tensor:
        """Tell which tokens exit at a level, as in `Gate.exits`.

        Parameters
        ----------
        level, logits, earlier
            As in `Gate.exits`.
        coordinates : Tensor of shape (n, r)
            z of the tokens' states.

        Raises
        ------
        GateError
            If the gate does not check that level, or the coordinates are missing or too many.
        """
        if coordinates is None:
            return self.confidence(logits, earlier)
        if level not in self.weights:
            raise GateError(
                f"gate learned: level {level} given, it checks {', '.join(map(str, self.levels)) or 'none'}"
            )
        if coordinates.shape[-1] != self.rank:
            raise GateError(
                f"gate learned: {coordinates.shape[-1]} coordinates given, it was fitted to {self.rank}"
            )
        return self.agreement(level, top_probability(logits), coordinates) >= self.thresholds[level]

    def agreement(self, level: int, probability: Tensor, coordinates: Tensor) -> Tensor:
        """Give g (n,) from probabilities (n,) of the predicted tokens and coordinates (n, r)."""
        key = level, coordinates.device
        if key not in self._tensors:
            self._tensors[key] = torch.tensor(self.weights[level], device=coordinates.device)
        constant, slope, *_ = weights = self._tensors[key]
        p = probability.float().clamp(_SMALLEST, 1 - _SMALLEST)
        return torch.sigmoid(
            constant + slope * (p.log() - torch.log1p(-p)) + coordinates.float() @ weights[2:]
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the kind, the levels, their thresholds and their weights, as plain values."""
        return super().to_dict() | {"weights": [list(self.weights[level]) for level in self.levels]}

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, Learned) and self.weights == other.weights

    def __hash__(self) -> int:
        return hash((super().__hash__(), tuple(self.weights.items())))


def coordinates_at(shortcut: Shortcut, states: Tensor) -> Tensor | None:
    """Give z (..., r) of states (..., H); None of a shortcut that is no low-rank map.

    Parameters
    ----------
    shortcut : Shortcut
        For the states of one level. Of a shortlist, z is that of its first jump.
    states : Tensor of shape (..., H)
    """
    jump = shortcut.first if isinstance(shortcut, ShortlistAt) else shortcut
    return jump.reduce(states) if isinstance(jump, LowRank) else None


def leaving(
    gate: Gate, level: int, logits: Tensor, earlier: Tensor, coordinates: Callable[[], Tensor | None]
) -> Tensor:
    """Tell which tokens exit at a level, by any gate.

    Parameters
    ----------
    gate, level, logits, earlier
        As in `Gate.exits`.
    coordinates : function that gives a Tensor of shape (n, r), or None
        z of the tokens' states; None of a shortcut that is no low-rank map. Called only where the gate reads
        them.

    Raises
    ------
    GateError
        If the gate needs coordinates, and there are none.
    """
    if isinstance(gate, Learned):
        return gate.exits(level, logits, earlier, coordinates())
    return gate.exits(level, logits, earlier)


def check_flops(gate: Gate) -> int:
    """Count the floating-point operations of a check by a gate, besides those of the logits."""
    return gate.flops if isinstance(gate, Learned) else 0


def any_gate_from_dict(content: Mapping[str, Any], blocks: int | None = None) -> ThresholdGate:
    """Make a gate of what `Gate.to_dict` gave, a learned one too: as `onejump.exits.gates.gate_from_dict`.

    Raises
    ------
    GateError
        If a key is missing or unknown, or a value is impossible.
    """
    if not isinstance(content, Mapping) or content.get("kind") != Learned.kind:
        return gate_from_dict(content, blocks)
    given = dict(content)
    weights = given.pop("weights", None)
    # Levels and thresholds are those of any gate with probabilities.
    plain = gate_from_dict(given | {"kind": "top-probability"}, blocks)
    if not isinstance(weights, Sequence) or len(weights) != len(plain.levels):
        raise GateError(
            f"gate learned: weights for {len(plain.levels)} levels are accepted, in a list for each level"
        )
    if not all(isinstance(of_level, Sequence) and not isinstance(of_level, str) for of_level in weights):
        raise GateError("gate learned: accepted are weights in a list for each level")
    return Learned(plain.thresholds, dict(zip(given["levels"], weights, strict=True)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
