"""Checks the number of a level."""

from __future__ import annotations

from onejump.base.errors import OneJumpError


def check_level(level: int, levels: int | None, where: str) -> None:
    """Refuse a level that does not exist. Unchecked, level -1 would be the last one, as in a list.

    Parameters
    ----------
    level : int
    levels : int or None
        The number of levels, which begin with level 0; None if it is not known.
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
