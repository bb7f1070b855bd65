"""Gates: what decides, from an early prediction, whether a token exits.

A gate checks some of the early-exit levels. At each of these it has a confidence, and a threshold that the
confidence has to reach. With p1 >= p2 the two largest probabilities, H the entropy in nats and V the size of
the vocabulary:

| kind | confidence |
|---|---|
| top-probability | p1 |
| margin | p1 - p2 |
| entropy | 1 - H / ln V: 1 if one token has all the probability, 0 if all tokens have the same |
| patience | how many levels in a row, this one and those checked before it, predict the same token |

Sources: CALM (arXiv 2207.07061) for top probability and margin, BranchyNet (arXiv 1709.01686) for the
entropy, PABEE (arXiv 2006.04152) for patience.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeGuard

import torch
from torch import Tensor

from onejump.base.errors import GateError
from onejump.models.most_likely import likeliest, top_probability


class Gate(Protocol):
    """What decides whether a token exits. A gate keeps no state.

    A gate that does not look at `earlier` says so in an attribute `looks_back = False`: then these tokens are
    not searched for, and `earlier` has no columns.
    """

    @property
    def levels(self) -> tuple[int, ...]:
        """Early-exit levels that are checked, rising. With none, nothing exits."""

    def exits(self, level: int, logits: Tensor, earlier: Tensor) -> Tensor:
        """Tell which tokens exit at a level.

        Parameters
        ----------
        level : int
            One of `levels`.
        logits : Tensor of shape (n, V)
            Of the exit head at the level. They are not changed.
        earlier : Tensor of shape (n, checks), int64
            Tokens that were predicted for the same places at the levels checked before, in the order of the
            levels.

        Returns
        -------
        Tensor of shape (n,), bool
        """

    def to_dict(self) -> dict[str, Any]:
        """Give what `gate_from_dict` makes the gate of, as plain values."""


class ThresholdGate(ABC):
    """A gate whose confidence has to reach a threshold, which belongs to the level.

    Parameters
    ----------
    thresholds : mapping of level -> threshold
        The levels that are checked, in any order. With none, nothing exits.

    Raises
    ------
    GateError
        If a level is no whole number from 0 on, or a threshold is none of this kind.
    """

    kind: ClassVar[str]
    """The name of the kind, in studies and files."""
    looks_back: ClassVar[bool] = False
    """Whether the tokens predicted at the levels before decide, too."""
    accepted: ClassVar[str] = "a number from 0 to 1"
    """Which thresholds the kind takes."""

    def __init__(self, thresholds: Mapping[int, float]) -> None:
        for level, threshold in thresholds.items():
            if not _is_whole(level) or level < 0:
                raise GateError(
                    f"gate {self.kind}: level {level!r} given, accepted is a whole number from 0 on"
                )
            if not self._takes(threshold):
                raise GateError(
                    f"gate {self.kind}: threshold {threshold!r} given for level {level}, accepted is "
                    f"{self.accepted}"
                )
        self.thresholds: dict[int, float] = {level: thresholds[level] for level in sorted(thresholds)}
        """The threshold of each level that is checked, by level, rising."""
        self.levels: tuple[int, ...] = tuple(self.thresholds)
        """Early-exit levels that are checked, rising."""

    @staticmethod
    @abstractmethod
    def confidence(logits: Tensor, earlier: Tensor) -> Tensor:
        """Give the confidence (n,) from logits (n, V) and earlier tokens (n, checks), as in `Gate.exits`."""

    def exits(self, level: int, logits: Tensor, earlier: Tensor) -> Tensor:
        """Tell which of n tokens exit at a level, as in `Gate.exits`.

        Raises
        ------
        GateError
            If the gate does not check that level.
        """
        if level not in self.thresholds:
            raise GateError(f"gate {self.kind}: level {level} given, it checks {_listed(self.levels)}")
        return self.confidence(logits, earlier) >= self.thresholds[level]

    def to_dict(self) -> dict[str, Any]:
        """Give the kind, the levels and their thresholds, as plain values."""
        return {"kind": self.kind, "levels": list(self.levels), "thresholds": list(self.thresholds.values())}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.thresholds == other.thresholds

    def __hash__(self) -> int:
        return hash((self.kind, tuple(self.thresholds.items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.thresholds})"

    @staticmethod
    def _takes(threshold: object) -> bool:
        return isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0 <= threshold <= 1


class TopProbability(ThresholdGate):
    """Exits where the probability of the predicted token reaches the threshold."""

    kind = "top-probability"

    @staticmethod
    def confidence(logits: Tensor, earlier: Tensor) -> Tensor:
        """Give the largest probability (n,)."""
        return top_probability(logits)


class Margin(ThresholdGate):
    """Exits where the two largest probabilities differ by the threshold."""

    kind = "margin"

    @staticmethod
    def confidence(logits: Tensor, earlier: Tensor) -> Tensor:
        """Give p1 - p2 (n,); p2 is 0 where there is only one token."""
        place = likeliest(logits)
        others = logits - logits.gather(-1, place)
        total = others.exp_().sum(-1)
        # Where two tokens share the largest logit, the other one of them is the second.
        second = others.scatter_(-1, place, 0.0).amax(-1)
        return (1 - second) / total


class Entropy(ThresholdGate):
    """Exits where the entropy is low: where 1 - H / ln V reaches the threshold.

    The entropy is divided by its largest value, ln V in nats, so that thresholds of models with different
    vocabularies can be compared.
    """

    kind = "entropy"

    @staticmethod
    def confidence(logits: Tensor, earlier: Tensor) -> Tensor:
        """Give 1 - H / ln V (n,); 1 where there is only one token."""
        below = logits - logits.amax(-1, keepdim=True)
        # A logit of -inf has the probability 0, and adds 0 to the entropy.
        below.clamp_min_(torch.finfo(below.dtype).min)
        weights = below.exp()
        total = weights.sum(-1)
        entropy = total.log() - torch.linalg.vecdot(weights, below) / total
        confidence: Tensor = 1 - entropy / math.log(max(logits.shape[-1], 2))
        return confidence


class Patience(ThresholdGate):
    """Exits where as many levels in a row as the threshold says predict the same token.

    The level itself is one of them, so that a threshold of 1 always exits. Only levels that are checked
    count.
    """

    kind = "patience"
    looks_back = True
    accepted = "a whole number from 1 on"

    @staticmethod
    def confidence(logits: Tensor, earlier: Tensor) -> Tensor:
        """Give how many levels in a row predict the same token (n,), int64."""
        same = earlier.flip(-1) == likeliest(logits)
        return 1 + same.long().cumprod(-1).sum(-1)

    @staticmethod
    def _takes(threshold: object) -> bool:
        return _is_whole(threshold) and threshold >= 1


def looks_back(gate: Gate) -> bool:
    """Whether a gate is told the tokens predicted at the levels before; one that does not say is told."""
    return bool(getattr(gate, "looks_back", True))


GATES: dict[str, type[ThresholdGate]] = {
    gate.kind: gate for gate in (TopProbability, Margin, Entropy, Patience)
}
"""The gates, by the name of their kind."""


def gate_from_dict(content: Mapping[str, Any], blocks: int | None = None) -> ThresholdGate:
    """Make a gate of what `Gate.to_dict` gave.

    Parameters
    ----------
    content : mapping
        With kind, levels and thresholds, each level with its threshold.
    blocks : int, optional
        L of the model. Levels have to lie below it.

    Raises
    ------
    GateError
        If a key is missing or unknown, there is no such kind, or a level or threshold is impossible.
    """
    if not isinstance(content, Mapping) or set(content) != {"kind", "levels", "thresholds"}:
        given = _listed(content) if isinstance(content, Mapping) else repr(content)
        raise GateError(f"gate: keys {given} given, accepted are kind, levels, thresholds")
    kind, levels, thresholds = content["kind"], content["levels"], content["thresholds"]
    if not isinstance(kind, str) or kind not in GATES:
        raise GateError(f"gate: kind {kind!r} given, accepted is {', '.join(GATES)}")
    for name, values in (("levels", levels), ("thresholds", thresholds)):
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise GateError(f"gate {kind}: {name} {values!r} given, accepted is a list")
    if len(levels) != len(thresholds):
        raise GateError(
            f"gate {kind}: {len(levels)} levels and {len(thresholds)} thresholds given, as many of each are "
            "accepted"
        )
    wrong = [level for level in levels if not _is_whole(level) or level < 0]
    wrong += [level for level in levels if not wrong and blocks is not None and level >= blocks]
    if wrong:
        most = "on" if blocks is None else f"to {blocks - 1}"
        raise GateError(f"gate {kind}: level {wrong[0]!r} given, accepted is a whole number from 0 {most}")
    if len(set(levels)) < len(levels):
        raise GateError(f"gate {kind}: levels {_listed(levels)} given, each one is accepted once")
    return GATES[kind](dict(zip(levels, thresholds, strict=True)))


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(values: object) -> str:
    assert isinstance(values, Sequence | Mapping)
    return ", ".join(map(str, values)) or "none"
