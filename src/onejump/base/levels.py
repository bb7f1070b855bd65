"""Levels that are asked for by number."""

from __future__ import annotations

from onejump.base.errors import OneJumpError


def check_level(level: int, levels: int | None, where: str) -> None:
    """Refuse a level that is not there: -1 would be the last one wherever Python counts from the end.

    Parameters
    ----------
    level : int
    levels : int or None
        How many there are, from 0 on; None if that is not known.
    where : str
        What holds them, for the message.

    Raises
    ------
    OneJumpError
        If there is no such level.
    """
    if level < 0 or (levels is not None and level >= levels):
        accepted = "0 or more" if levels is None else f"0 to {levels - 1}"
        raise OneJumpError(f"{where}: level {level} given, {accepted} accepted")
