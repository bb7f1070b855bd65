"""What an exit predicts: the logits of a state at an early level."""

from __future__ import annotations

import copy
from typing import Any, Protocol

from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.models.flops import head_flops
from onejump.models.head import Head
from onejump.shortcuts.exit_flops import exit_head_flops, jump_flops, shortlist_head_flops
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.shortlist import Shortlist
from onejump.shortcuts.shortcut import LowRank, Shortcut
from onejump.shortcuts.shortlist_head import ShortlistHead


class ExitPredictor(Protocol):
    """Predicts a token from a state at an early-exit level."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that it predicts from, rising."""

    def logits(self, level: int, states: Tensor) -> Tensor:
        """Give the logits (..., V) of states (..., H) of a level, in float32."""

    def flops(self, level: int) -> int:
        """Count the floating-point operations of the logits of one state, 2 a multiplication."""


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
    at = tuple(range(levels))
    # A copy: the user's own shortcut stays where it is.
    shortcut = copy.deepcopy(shortcut).to(head.unembedding.device)
    if isinstance(shortcut, OneJump | Shortlist):
        own = shortcut.first if isinstance(shortcut, Shortlist) else shortcut
        if len(own.offset) != levels:
            raise OneJumpError(
                f"a jump for {len(own.offset)} levels was given, the model has {levels} of them"
            )
        if isinstance(shortcut, Shortlist):
            return _ShortlistExits(head, shortcut)
        return _LowRankExits(head, {level: shortcut.at(level) for level in at})
    if isinstance(shortcut, LowRank):
        return _LowRankExits(head, dict.fromkeys(at, shortcut))
    return _FullExits(head, dict.fromkeys(at, shortcut))


class _LowRankExits:
    """Exits by an exit head: V r multiplications."""

    def __init__(self, head: Head, jumps: dict[int, LowRank]) -> None:
        self.levels, self._jumps = tuple(sorted(jumps)), jumps
        # One matrix B for all levels, so one exit head.
        self._exit_head = ExitHead.of(head, next(iter(jumps.values())))

    def logits(self, level: int, states: Tensor) -> Tensor:
        return self._exit_head.logits(self._jumps[level].reduce(states))

    def flops(self, level: int) -> int:
        return jump_flops(self._jumps[level]) + exit_head_flops(self._exit_head)


class _ShortlistExits:
    """Exits by a shortlist: V r + k H multiplications."""

    def __init__(self, head: Head, shortlist: Shortlist) -> None:
        self.levels = tuple(range(len(shortlist.weights)))
        self._at = [shortlist.at(level) for level in self.levels]
        self._head = ShortlistHead(head, shortlist)

    def logits(self, level: int, states: Tensor) -> Tensor:
        return self._head.logits(self._at[level], states)

    def flops(self, level: int) -> int:
        return jump_flops(self._at[level]) + shortlist_head_flops(self._head, self._at[level])


class _FullExits:
    """Exits by the model's own head: V H multiplications."""

    def __init__(self, head: Head, jumps: dict[int, Any]) -> None:
        self.levels, self._jumps, self._head = tuple(sorted(jumps)), jumps, head

    def logits(self, level: int, states: Tensor) -> Tensor:
        return self._head.logits(self._jumps[level](states))

    def flops(self, level: int) -> int:
        return jump_flops(self._jumps[level]) + head_flops(self._head)
