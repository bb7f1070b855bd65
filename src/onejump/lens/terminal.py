"""A trajectory as a compact table for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onejump.lens.trajectory import Trajectory

# Columns that a token gets: a mark, its text, and its probability in percent.
_TEXT, _PERCENT = 10, 4
_COLUMN = 1 + _TEXT + _PERCENT


def table_of(trajectory: Trajectory, shortcut: str, width: int, levels: Sequence[int]) -> str:
    """Write the most likely token of each level, and its probability in percent; the last level comes first.

    Parameters
    ----------
    trajectory : Trajectory
    shortcut : str
    width : int
        Characters in a line. The last tokens are shown, as many as it holds, and at least one.
    levels : sequence of int
    """
    margin = len(str(trajectory.levels[-1])) + 2
    shown = min(len(trajectory.tokens), max(1, (width - margin) // (_COLUMN + 2)))
    tokens, likely = trajectory.top_tokens(shortcut)[..., 0], trajectory.probabilities(shortcut)[..., 0]
    agrees = trajectory.agreement(shortcut)
    exits = trajectory.exit_level(shortcut=shortcut) if shortcut in trajectory.gates else None
    columns = range(len(trajectory.tokens) - shown, len(trajectory.tokens))
    head = " " * margin + "  ".join(" " + _fitted(trajectory.tokens[at], _TEXT + _PERCENT) for at in columns)
    lines = [head.rstrip()]
    for level in sorted(levels, reverse=True):
        cells = []
        for at in columns:
            mark = "=" if agrees[level, at] and level < trajectory.levels[-1] else " "
            if exits is not None and exits[at] == level < trajectory.levels[-1]:
                mark = ">"
            percent = f"{100 * likely[level, at]:.0f}"
            cells.append(mark + _fitted(tokens[level, at], _TEXT) + f"{percent:>{_PERCENT}}")
        lines.append(f"{level:>{margin - 2}}  " + "  ".join(cells).rstrip())
    left_out = len(trajectory.tokens) - shown
    if left_out:
        lines.append(f"The first {left_out} of {len(trajectory.tokens)} tokens are not shown.")
    return "\n".join(lines)


def _fitted(text: str, width: int) -> str:
    """Cut or fill a text to a number of terminal columns; a wide character takes two of them."""
    found, taken = "", 0
    for place, character in enumerate(text):
        wide = columns_of(character)
        rest = sum(map(columns_of, text[place:]))
        if taken + rest > width and taken + wide > width - 1:
            return found + "…" + " " * (width - taken - 1)
        found, taken = found + character, taken + wide
    return found + " " * (width - taken)


def columns_of(character: str) -> int:
    """Count the columns that a character takes in a terminal: 0, 1 or 2."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
