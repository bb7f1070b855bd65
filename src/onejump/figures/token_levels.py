"""Heat maps of tokens by levels, with a text in each cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle

from onejump.base.statistics import LEVEL_COLOURS, MOST_OF_THEM, statistic_named
from onejump.figures.frame import Floats, plain_numbers
from onejump.figures.looks import LOOKS

COLUMN, ROW = 0.66, 0.155
"""Inches of a cell."""
_LETTERS = 10


@dataclass(frozen=True)
class TokenLevels:
    """What a panel shows."""

    tokens: Sequence[str]
    """The T tokens."""
    texts: Sequence[Sequence[str]]
    """The text of each cell: L + 1 rows of T."""
    values: Floats
    """What colours show, (L + 1, T)."""
    exits: Sequence[int] | None = None
    """The level at which each token exits, which gets a frame; L: none."""


def norm_of(statistic: str, values: Iterable[Floats]) -> Normalize:
    """Give the scale of a statistic, for all values that share it.

    Raises
    ------
    OneJumpError
        If there is no such statistic.
    """
    about = statistic_named(statistic)
    known = np.concatenate([of[np.isfinite(of)] for of in values])
    highest = float(np.quantile(known, MOST_OF_THEM)) if known.size else 1.0
    if about.logarithmic:
        return LogNorm(1, max(highest, 10), clip=True)
    return Normalize(0, about.highest or highest or 1.0, clip=True)


def draw_token_levels(ax: Axes, content: TokenLevels, norm: Normalize) -> ScalarMappable:
    """Draw a panel.

    Parameters
    ----------
    ax : Axes
    content : TokenLevels
    norm : matplotlib.colors.Normalize
        Of `norm_of`.
    """
    rows, columns = content.values.shape
    colours = LinearSegmentedColormap.from_list("levels", LEVEL_COLOURS)
    image = ax.imshow(
        np.ma.masked_invalid(content.values),
        cmap=colours,
        norm=norm,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    ax.grid(False)
    for level, row in enumerate(content.texts):
        for place, text in enumerate(row):
            ax.text(place, level, _cell(text), ha="center", va="center", fontsize=6, color="black")
    for place, level in enumerate(content.exits or ()):
        if level < rows - 1:
            frame: dict[str, Any] = {"fill": False, "edgecolor": LOOKS["ojfa"].colour, "linewidth": 1.6}
            ax.add_patch(Rectangle((place - 0.5, level - 0.5), 1, 1, clip_on=False, **frame))
    ax.set_xticks(range(columns), [_cell(token) for token in content.tokens], fontsize=7)
    every = max(1, math.ceil(rows / 40))
    ax.set_yticks(range(0, rows, every))
    ax.tick_params(length=0)
    ax.set(xlabel="token of the prompt", ylabel="level")
    return image


def explain_colours(figure: Figure, image: ScalarMappable, axes: Any, statistic: str) -> None:
    """Put the scale of the colours beside the panels."""
    about = statistic_named(statistic)
    ticks: dict[str, Any] = {"format": plain_numbers()} if about.logarithmic else {}
    figure.colorbar(image, ax=axes, location="right", label=about.label, aspect=40, pad=0.02, **ticks)


def _cell(text: str) -> str:
    text = drawable(text)
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"


def drawable(text: str) -> str:
    """Replace characters that no font of the style has by their numbers: matplotlib would draw boxes."""
    known = _characters()
    return "".join(
        character
        if ord(character) in known
        else f"\\u{ord(character):04x}"
        if ord(character) < 0x10000
        else f"\\U{ord(character):x}"
        for character in text
    )


def _characters() -> set[int]:
    known: set[int] = set()
    for family in matplotlib.rcParams["font.sans-serif"]:
        try:
            font = get_font(findfont(family, fallback_to_default=False))
        except ValueError:  # it is not installed
            continue
        known |= set(font.get_charmap())
    return known
