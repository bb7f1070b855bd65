"""What an exit predicts: the logits of a state at an early level."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.exits.learned_gate import coordinates_at
from onejump.models.flops import head_flops
from onejump.models.head import Head
from onejump.shortcuts.exit_flops import exit_head_flops, jump_flops, shortlist_head_flops
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.shortlist import Shortlist, ShortlistAt
from onejump.shortcuts.methods import ShortcutAt
from onejump.shortcuts.shortcut import LowRank, Shortcut
from onejump.shortcuts.shortlist_head import ShortlistHead


@runtime_checkable
class ExitPredictor(Protocol):
    """Predicts a token from a state at an early-exit level.

    One that reads the last level's state of the token before, too, says so in an attribute
    `reads_previous = True`. It gets states (..., 2H), with that state behind the state of the level, and has
    a method `approximated`, which gives from the same states an approximation (..., H) of the last level's
    state of the token itself: the next token of a chain of drafts is predicted from it.
    """

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that it predicts from, rising."""

    def logits(self, level: int, states: Tensor) -> Tensor:
        """Give the logits (..., V) of states (..., H) of a level, in float32."""

    def flops(self, level: int) -> int:
        """Count the floating-point operations of the logits of one state, 2 a multiplication."""


def reads_previous(predictor: ExitPredictor | Shortcut | None) -> bool:
    """Tell whether a predictor, or a shortcut, reads the last level's state of the token before, too."""
    return bool(getattr(predictor, "reads_previous", False))


def approximated_by(predictor: ExitPredictor, level: int, states: Tensor) -> Tensor:
    """Give what a predictor that reads the state before takes for the last level's state of the token itself.

    Parameters
    ----------
    predictor : ExitPredictor
        One with `reads_previous = True`.
    level : int
    states : Tensor of shape (..., 2H)

    Returns
    -------
    Tensor of shape (..., H)
    """
    approximated: Tensor = predictor.approximated(level, states)  # type: ignore[attr-defined]
    return approximated


def coordinates_by(predictor: ExitPredictor, level: int, states: Tensor) -> Tensor | None:
    """Give the coordinates z (n, r) that a predictor predicts from; None where it has none."""
    found = getattr(predictor, "coordinates", None)
    return None if found is None else found(level, states)


def predictor_of(shortcut: Shortcut, head: Head, levels: int) -> ExitPredictor:
    """Make the predictor of a shortcut that serves all levels.

    Parameters
    ----------
    shortcut : Shortcut
        One map for all levels, or a shortlist. A low-rank map gets an exit head.
    head : Head
        The model's.
    levels : int
        L. It predicts from the levels 0 to L - 1.

    Raises
    ------
    OneJumpError
        If the shortcut belongs to another model, or was trained for another number of levels.
    """
    # A copy: the user's own shortcut stays where it is.
    shortcut = copy.deepcopy(shortcut)
    if isinstance(shortcut, OneJump | Shortlist):
        own = shortcut.first if isinstance(shortcut, Shortlist) else shortcut
        if len(own.offset) != levels:
            raise OneJumpError(
                f"a jump for {len(own.offset)} levels was given, the model has {levels} of them"
            )
    return predictor_at(shortcut.to(head.unembedding.device).at, head, range(levels))


def predictor_at(shortcut_at: ShortcutAt, head: Head, levels: Sequence[int]) -> ExitPredictor:
    """Make the predictor of a method of a study, which may have a shortcut for each level.

    Parameters
    ----------
    shortcut_at : function of a level that gives its shortcut
        All of one kind. Low-rank maps get exit heads; those that share B and b share one.
    head : Head
        The model's.
    levels : sequence of int
        Levels that it predicts from, rising: at least one.
    """
    device = head.unembedding.device
    jumps = {level: shortcut_at(level).to(device) for level in levels}
    if shortlists := {level: jump for level, jump in jumps.items() if isinstance(jump, ShortlistAt)}:
        return _ShortlistExits(head, shortlists)
    if low_rank := {level: jump for level, jump in jumps.items() if isinstance(jump, LowRank)}:
        return _LowRankExits(head, low_rank)
    return _FullExits(head, jumps)


class _LowRankExits:
    """Exits by exit heads: V r multiplications."""

    def __init__(self, head: Head, jumps: Mapping[int, LowRank]) -> None:
        self.levels, self._jumps = tuple(jumps), jumps
        self.reads_previous = any(jump.reads_previous for jump in jumps.values())
        # One B (and b) for all levels has one exit head for all levels.
        of_maps: dict[tuple[int, ...], ExitHead] = {}
        self._heads: dict[int, ExitHead] = {}
        for level, jump in jumps.items():
            key = tuple(tensor.data_ptr() for tensor in (jump.up, jump.bias) if tensor is not None)
            if key not in of_maps:
                of_maps[key] = ExitHead.of(head, jump)
            self._heads[level] = of_maps[key]

    def logits(self, level: int, states: Tensor) -> Tensor:
        return self._heads[level].logits(self._jumps[level].reduce(states))

    def coordinates(self, level: int, states: Tensor) -> Tensor | None:
        return coordinates_at(self._jumps[level], states)

    def approximated(self, level: int, states: Tensor) -> Tensor:
        approximated: Tensor = self._jumps[level](states)
        return approximated

    def flops(self, level: int) -> int:
        return jump_flops(self._jumps[level]) + exit_head_flops(self._heads[level])


class _ShortlistExits:
    """Exits by a shortlist, one for all levels: V r + k H multiplications."""

    def __init__(self, head: Head, jumps: Mapping[int, ShortlistAt]) -> None:
        self.levels, self._jumps = tuple(jumps), jumps
        self._head = ShortlistHead(head, jumps[self.levels[0]])

    def logits(self, level: int, states: Tensor) -> Tensor:
        return self._head.logits(self._jumps[level], states)

    def coordinates(self, level: int, states: Tensor) -> Tensor | None:
        return coordinates_at(self._jumps[level], states)

    def flops(self, level: int) -> int:
        return jump_flops(self._jumps[level]) + shortlist_head_flops(self._head, self._jumps[level])


class _FullExits:
    """Exits by the model's own head: V H multiplications."""

    def __init__(self, head: Head, jumps: Mapping[int, Shortcut]) -> None:
        self.levels, self._jumps, self._head = tuple(jumps), jumps, head

    def logits(self, level: int, states: Tensor) -> Tensor:
        return self._head.logits(self._jumps[level](states))

    def flops(self, level: int) -> int:
        return jump_flops(self._jumps[level]) + head_flops(self._head)
