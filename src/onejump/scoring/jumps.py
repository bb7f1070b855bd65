"""The low-rank jumps of a kind, one for each level: what is scored, selected and analysed."""

from __future__ import annotations

from pathlib import Path

import torch

from onejump.base.errors import OneJumpError
from onejump.shortcuts.files import ShortcutFolder
from onejump.shortcuts.shortcut import LowRank


def jumps_of_levels(folder: Path, levels: int, device: torch.device | str = "cpu") -> list[LowRank]:
    """Load the low-rank jumps of a kind.

    Parameters
    ----------
    folder : Path
        Of the kind.
    levels : int
        L.
    device : torch.device

    Returns
    -------
    list of L LowRank
        In the order of the levels that they were fitted at.

    Raises
    ------
    OneJumpError
        If the folder does not hold a low-rank jump for each level.
    """
    jumps = ShortcutFolder(folder, device).low_rank()
    if len(jumps) != levels:
        raise OneJumpError(
            f"{folder}: a low-rank jump for each of {levels} levels was expected, {len(jumps)} were found"
        )
    return jumps
