"""The FLOPs of an early exit: of the jump, and of the exit head behind it (see `onejump.models.flops`)."""

from __future__ import annotations

from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.shortlist import ShortlistAt
from onejump.shortcuts.shortcut import LowRank, Shortcut
from onejump.shortcuts.shortlist_head import ShortlistHead


def jump_flops(shortcut: Shortcut) -> int:
    """Count the FLOPs of a shortcut for one state.

    Of a low-rank shortcut, those of z alone: B is part of its exit head. Of a shortlist, those of the z of
    its first jump, and of the correction of the state.

    Parameters
    ----------
    shortcut : Shortcut
        For the states of one level (`Shortcut.at`).
    """
    if isinstance(shortcut, ShortlistAt):
        second = shortcut.second
        corrected = 0 if second is None else second.down.numel() + second.up.numel()
        return jump_flops(shortcut.first) + 2 * corrected
    left_out = "up" if isinstance(shortcut, LowRank) else None
    multiplications: int = sum(
        tensor.numel()
        for name, tensor in shortcut.state_dict().items()
        if tensor.dim() == 2 and name != left_out
    )
    return 2 * multiplications


def exit_head_flops(exit_head: ExitHead) -> int:
    """Count the FLOPs of an exit head for one state."""
    return 2 * exit_head.multiplications()


def shortlist_head_flops(head: ShortlistHead, shortlist: ShortlistAt) -> int:
    """Count the FLOPs of a shortlist's head for one state."""
    return 2 * head.multiplications(shortlist)
