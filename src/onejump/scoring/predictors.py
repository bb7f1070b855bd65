"""Shortcuts with the head behind them: logits, and predicted states, from states of a level."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.shortlist import ShortlistAt
from onejump.shortcuts.methods import ShortcutAt
from onejump.shortcuts.shortcut import LowRank, Shortcut
from onejump.shortcuts.shortlist_head import ShortlistHead


class Predictor:
    """A shortcut with the head behind it.

    Parameters
    ----------
    shortcut : Shortcut
    head : Head
    exit_head : ExitHead or ShortlistHead, optional
        Of a low-rank shortcut, or of a shortlist. Its logits cost V r instead of V H numbers.
    """

    def __init__(
        self, shortcut: Shortcut, head: Head, exit_head: ExitHead | ShortlistHead | None = None
    ) -> None:
        self._shortcut, self._head, self._exit_head = shortcut, head, exit_head

    def logits(self, states: Tensor) -> Tensor:
        """Predicted logits (n, V) from states (n, H)."""
        if self._exit_head is None:
            return self._head.logits(self._shortcut(states))
        if isinstance(self._exit_head, ShortlistHead):
            assert isinstance(self._shortcut, ShortlistAt)
            return self._exit_head.logits(self._shortcut, states)
        assert isinstance(self._shortcut, LowRank)
        return self._exit_head.logits(self._shortcut.reduce(states))

    def logits_and_states(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predicted logits (n, V) and predicted last-level states (n, H), from states (n, H).

        There are no predicted states (None) where the shortcut predicts none (`Shortcut.predicts_state`).
        """
        if self._exit_head is None:
            predicted = self._shortcut(states)
            return self._head.logits(predicted), predicted if self._shortcut.predicts_state else None
        if isinstance(self._exit_head, ShortlistHead):
            return self.logits(states), None
        shortcut = self._shortcut
        assert isinstance(shortcut, LowRank)
        reduced = shortcut.reduce(states)
        logits = self._exit_head.logits(reduced)
        if not shortcut.predicts_state:
            return logits, None
        predicted = reduced @ shortcut.up
        return logits, predicted if shortcut.bias is None else predicted + shortcut.bias


def read_by(methods: Mapping[str, ShortcutAt], store: ActivationStore) -> ActivationStore:
    """Give a store whose states are those that methods read (`Shortcut.reads_previous`).

    Raises
    ------
    OneJumpError
        If one method reads the last level's state of the position before, and another one does not, or the
        store does not keep these states.
    """
    reading = [name for name, method in methods.items() if method(0).reads_previous]
    if not reading:
        return store
    if others := sorted(set(methods) - set(reading)):
        raise OneJumpError(
            f"methods {', '.join(reading)} and {', '.join(others)} given, but {reading[0]} reads the last "
            f"level's state of the position before, and {others[0]} does not: measure them one by one"
        )
    return store.with_previous()


class Predictors:
    """The predictors of several methods at all levels.

    Low-rank shortcuts are small and are kept; a shortcut of H x H numbers is read each time it is asked for.

    Parameters
    ----------
    head : Head
        On the device.
    methods : mapping of name -> function of a level that gives its shortcut
    device : torch.device
    """

    def __init__(self, head: Head, methods: Mapping[str, ShortcutAt], device: torch.device | str) -> None:
        self._head, self._methods, self._device = head, methods, device
        self._kept: dict[tuple[str, int], Predictor] = {}
        self._exit_heads: dict[tuple[int, ...], ExitHead | ShortlistHead] = {}

    def at(self, method: str, level: int) -> Predictor:
        """The predictor of a method for states of a level."""
        if (method, level) in self._kept:
            return self._kept[method, level]
        shortcut = self._methods[method](level).to(self._device)
        if not isinstance(shortcut, LowRank | ShortlistAt):
            return Predictor(shortcut, self._head)
        predictor = Predictor(shortcut, self._head, self._exit_head(shortcut))
        self._kept[method, level] = predictor
        return predictor

    def _exit_head(self, shortcut: LowRank | ShortlistAt) -> ExitHead | ShortlistHead:
        # One B (and b) for all levels has one exit head for all levels.
        jump = shortcut.first if isinstance(shortcut, ShortlistAt) else shortcut
        key = tuple(tensor.data_ptr() for tensor in (jump.up, jump.bias) if tensor is not None)
        if key not in self._exit_heads:
            self._exit_heads[key] = (
                ShortlistHead(self._head, shortcut)
                if isinstance(shortcut, ShortlistAt)
                else ExitHead.of(self._head, shortcut)
            )
        return self._exit_heads[key]
