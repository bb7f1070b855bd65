"""What all figures are made of: a look and a label for each method, what is read, a frame.

One style file (`onejump.mplstyle`); one look for each method in every figure: a colour that the colour-blind
tell apart (those of Okabe and Ito for the papers' kinds), with a line style and a marker of its own for those
who print in grey.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from onejump.base.errors import OneJumpError
from onejump.base.files import read_json, read_table

Floats = NDArray[np.float64]


class Look(NamedTuple):
    """How a method looks in every figure."""

    colour: str
    line: Any
    marker: str

    def ink(self) -> float:
        """Which part of its line is drawn: 1 without gaps."""
        if self.line == "-":
            return 1.0
        strokes = self.line[1]
        return float(sum(strokes[::2]) / sum(strokes))

    def style(self) -> dict[str, Any]:
        """Of its line and marks. Lines with more gaps lie on top: of two equal curves both are seen."""
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "zorder": 3.0 - 0.5 * self.ink(),
        }


LOOKS = {
    "identity": Look("#000000", (0, (4, 1.5)), "o"),
    "jtc": Look("#E69F00", (0, (6, 1.5, 1, 1.5)), "s"),
    "affine": Look("#707070", (0, (12, 2)), "*"),
    "njtc": Look("#56B4E9", (0, (3, 1, 1, 1, 1, 1)), "^"),
    "n-njtc": Look("#0072B2", "-", "D"),
    "residual": Look("#5A5A00", (0, (3, 1)), "<"),
    "distilled": Look("#990066", (0, (8, 2)), "h"),
    "joint": Look("#009E73", (0, (1, 1)), "v"),
    "one-jump": Look("#332288", (0, (9, 1.5, 1, 1.5, 1, 1.5)), "X"),
    "ojfa": Look("#D55E00", (0, (5, 2)), "P"),
    "ojfa-normalised": Look("#F2A88C", (0, (5, 1.5, 1, 1.5)), "d"),
    "ojfa-distilled": Look("#F768C4", (0, (2, 1.5)), ">"),
    "ojfa-distilled-surprisal": Look("#661100", (0, (1, 2)), "p"),
}
"""Look of each method, in the order of legends and tables."""

ARBITRARY = "#CC79A7"
"""Colour of arbitrary choices in place of the selected jump; among themselves they differ by line style."""
GREY = "#8A8A8A"
QUIET = "#555555"

AXIS_LABELS = {
    "surprisal": "surprisal −ln p(w*) (nats)",
    "kl": "KL(p ‖ p̂) (nats)",
    "r2": "r² of the last level's states",
}
LIMIT = "affine"
"""The method that others are held against: of full rank, and trained for what is measured."""


@dataclass(frozen=True)
class Inputs:
    """What a figure may read; asking for what was not given is an error that names it."""

    figure: str
    paths: Mapping[str, Path]

    def has(self, name: str) -> bool:
        return name in self.paths

    def table(self, name: str) -> pd.DataFrame:
        return read_table(self._path(name))

    def selection(self) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self._path("selection"))
        return content

    def selected(self) -> int | None:
        """The level of the selected jump, if the selection was given."""
        return int(self.selection()["jump"]) if self.has("selection") else None

    def _path(self, name: str) -> Path:
        if name not in self.paths:
            raise OneJumpError(f"figure {self.figure}: the input {name!r} is needed and was not given")
        return self.paths[name]


def method_label(method: str) -> str:
    """A method's name in a figure: its own, but for the selected jump."""
    return "selected jump (OJFA)" if method == "ojfa" else method


def evaluated_labels(inputs: Inputs, table: pd.DataFrame) -> dict[str, str]:
    """Methods of a table that have a look, with their labels."""
    present = set(table["method"])
    labels = {method: method_label(method) for method in LOOKS if method in present}
    if "ojfa" in labels and inputs.has("selection"):
        labels["ojfa"] += f", level {inputs.selection()['jump']}"
    return labels


def measured_metrics(table: pd.DataFrame, figure: str, options: dict[str, Any]) -> list[str]:
    known = list(dict.fromkeys(table["metric"]))
    for metric in options["metrics"]:
        if metric not in known:
            raise OneJumpError(
                f"figures.{figure}.metrics: {metric!r} given, but the evaluation holds {', '.join(known)} "
                "(evaluation.precision_at says which precisions are measured)"
            )
    return list(dict.fromkeys(options["metrics"]))


def share_label(metric: str) -> str:
    return f"share of {LIMIT}'s {metric}"


def whole_numbers(*axes: Axis) -> None:
    """Ticks of levels, jumps and ranks, even where there is a single one."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_numbers() -> FuncFormatter:
    """Ticks of a log axis as 0.1, 1, 10: matplotlib's own would be formulas, which the style turns off."""
    return FuncFormatter(lambda value, _: f"{value:g}".replace("e+0", "e"))


# Title, subtitle and what is below


def about(table: pd.DataFrame) -> str:
    return f"{table['model'].iloc[0]} on {table['corpus'].iloc[0]}"


def framed(title: str, subtitle: Sequence[str], width: float, height: float) -> Figure:
    """A figure of ``height`` inches below a title and a small subtitle."""
    lines = _flow(subtitle, int((width - 0.4) / 0.0765))
    header = 0.42 + 0.17 * len(lines)
    figure = Figure(figsize=(width, height + header), layout="constrained")
    full = height + header
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, height / full), w_pad=0.08, h_pad=0.06)  # type: ignore[call-arg]
    figure.text(0.15 / width, 1 - 0.1 / full, title, va="top", fontsize=12, fontweight="bold")
    for i, line in enumerate(lines):
        y = 1 - (0.36 + 0.17 * i) / full
        figure.text(0.15 / width, y, line, va="top", fontsize=8.5, color=QUIET)
    return figure


def _flow(parts: Sequence[str], width: int) -> list[str]:
    """Put parts on as few lines as hold them; a part too long for a line is broken."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f" · {part}"
        else:
            lines += textwrap.wrap(part, width)
    return lines
