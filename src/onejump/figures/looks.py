"""The look of each method, the same in every figure.

Colours are those that the colour-blind tell apart (of Okabe and Ito for the papers' kinds). Every method has
a line style and a marker of its own too, for those who print in grey.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from onejump.base.errors import OneJumpError


class Look(NamedTuple):
    """How a method looks in every figure."""

    colour: str
    line: Any
    """A line style of matplotlib: "-", or an offset and the lengths of strokes and gaps."""
    marker: str
    meaning: str
    """What the method is, for a legend; {} stands for the kind that the selected jump is chosen from."""

    def ink(self) -> float:
        """Give the part of its line that is drawn: 1 without gaps."""
        if self.line == "-":
            return 1.0
        strokes = self.line[1]
        return float(sum(strokes[::2]) / sum(strokes))

    def style(self) -> dict[str, Any]:
        """Give its line and marks as keywords of `Axes.plot`.

        Lines with more gaps lie on top: of two equal curves both are seen.
        """
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "zorder": 3.0 - 0.5 * self.ink(),
        }


LOOKS = {
    "identity": Look("#000000", (0, (4, 1.5)), "o", "the hidden state as it is"),
    "jtc": Look("#E69F00", (0, (6, 1.5, 1, 1.5)), "s", "a full matrix for each level"),
    "affine": Look(
        "#707070", (0, (12, 2)), "*", "a full matrix for each level, trained on the model's predictions"
    ),
    "njtc": Look("#56B4E9", (0, (3, 1, 1, 1, 1, 1)), "^", "a low-rank jump for each level"),
    "n-njtc": Look("#0072B2", "-", "D", "a low-rank jump for each level, behind a normalisation"),
    "residual": Look("#5A5A00", (0, (3, 1)), "<", "the hidden state plus an n-njtc, for each level"),
    "distilled": Look(
        "#990066", (0, (8, 2)), "h", "a low-rank jump for each level, trained on the model's predictions"
    ),
    "joint": Look("#009E73", (0, (1, 1)), "v", "one n-njtc for all levels"),
    "one-jump": Look(
        "#332288",
        (0, (9, 1.5, 1, 1.5, 1, 1.5)),
        "X",
        "one low-rank jump for all levels, trained on the model's predictions",
    ),
    "shortlist": Look(
        "#117733", (0, (7, 1.5, 1, 1.5)), "8", "the best tokens of a one-jump, judged again by the state"
    ),
    "one-residual": Look(
        "#B22222", (0, (10, 1)), "1", "the same, judged by the state and one low-rank correction of it"
    ),
    "one-forward": Look(
        "#4C9A2A",
        (0, (2, 1, 6, 1)),
        "3",
        "as one-jump, of the state and the last level's state of the token before",
    ),
    "ojfa": Look("#D55E00", (0, (5, 2)), "P", "one of the {} jumps, used at all levels"),
    "ojfa-normalised": Look(
        "#F2A88C", (0, (5, 1.5, 1, 1.5)), "d", "the selected jump behind each level's own normalisation"
    ),
    "ojfa-distilled": Look("#F768C4", (0, (2, 1.5)), ">", "one of the distilled jumps, used at all levels"),
    "ojfa-distilled-surprisal": Look("#661100", (0, (1, 2)), "p", "another of them, selected by surprisal"),
}
"""Look of each method, in the order of legends and tables."""

ARBITRARY = "#CC79A7"
"""Colour of the arbitrary jumps; among themselves they differ by line style."""
GREY = "#8A8A8A"
"""Colour of what lies behind the methods: random jumps, the line of the best."""
QUIET = "#555555"
"""Colour of small text and of reference lines."""

ARBITRARY_PREFIX = "arbitrary-"


def is_arbitrary(method: str) -> bool:
    """Say whether a method is an arbitrary jump, which only the figure of alternatives draws."""
    return method.startswith(ARBITRARY_PREFIX)


def look_of(method: str) -> Look:
    """Give the look of a method.

    Raises
    ------
    OneJumpError
        If it has none. A look for all such methods would have two of them look alike.
    """
    if method not in LOOKS:
        raise OneJumpError(
            f"method {method!r} has no look in figures: give it a line in LOOKS of onejump.figures.looks"
        )
    return LOOKS[method]


def methods_of(table: pd.DataFrame) -> list[str]:
    """Give the methods of a table that figures draw.

    Parameters
    ----------
    table : DataFrame
        With a column "method".

    Returns
    -------
    list of str
        In the order of legends, without the arbitrary jumps.

    Raises
    ------
    OneJumpError
        If a method has no look.
    """
    present = [method for method in dict.fromkeys(table["method"]) if not is_arbitrary(method)]
    for method in present:
        look_of(method)
    return sorted(present, key=list(LOOKS).index)


def method_label(method: str) -> str:
    """Give a method's name in figures: its own, except for the selected jump."""
    return "selected jump (OJFA)" if method == "ojfa" else method
