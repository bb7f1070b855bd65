"""What all figures are made of: a look for each method, a frame, curves by exit level.

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
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)
from numpy.typing import NDArray

from onejump.errors import OneJumpError
from onejump.files import read_json, read_table

Floats = NDArray[np.float64]


class Look(NamedTuple):
    """How a method looks in every figure."""

    colour: str
    line: Any
    marker: str


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
_HEAVY_TAILED = ("surprisal", "kl")
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

    def _path(self, name: str) -> Path:
        if name not in self.paths:
            raise OneJumpError(f"figure {self.figure}: the input {name!r} is needed and was not given")
        return self.paths[name]


# Figures by exit level


class Curve(NamedTuple):
    """A metric by exit level."""

    label: str
    """In the legend; empty for none."""
    name: str
    """In the note on values beyond the axis."""
    levels: NDArray[np.int64]
    values: Floats
    errors: Floats | None
    """Standard errors to shade, if any."""
    style: dict[str, Any]


def evaluated_labels(inputs: Inputs, table: pd.DataFrame) -> dict[str, str]:
    """Methods of a table that have a look, with their labels."""
    present = set(table["method"])
    labels = {method: method for method in LOOKS if method in present}
    if "ojfa" in labels and inputs.has("selection"):
        labels["ojfa"] = f"ojfa (from level {inputs.selection()['jump']})"
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


def curve_of(table: pd.DataFrame, metric: str, method: str, label: str) -> Curve:
    rows = table[(table["method"] == method) & (table["metric"] == metric)].sort_values("level")
    style: dict[str, Any] = {}
    if method in LOOKS:
        look = LOOKS[method]
        style = {"color": look.colour, "linestyle": look.line, "marker": look.marker}
        # Later methods lie on top: what they hide is drawn with a longer stroke.
        style["zorder"] = 2.5 + 0.01 * list(LOOKS).index(method)
        step = max(1, len(rows) // 8)
        style["markevery"] = (list(LOOKS).index(method) * step // len(LOOKS), step)
    return Curve(
        label,
        method,
        rows["level"].to_numpy(np.int64),
        rows["value"].to_numpy(np.float64),
        rows["stderr"].to_numpy(np.float64),
        style,
    )


def level_figure(
    title: str,
    table: pd.DataFrame,
    panels: Mapping[str, list[Curve]],
    *,
    mark: int | None = None,
    envelope: str | None = None,
    limit: str | None = None,
) -> Figure:
    """A panel for each metric.

    ``mark`` is a level to mark on ojfa, ``envelope`` the name of the curves to put a band around, ``limit``
    the method that the curves are shares of.
    """
    # A distilled kind has no r2.
    panels = {metric: [curve for curve in curves if curve.levels.size] for metric, curves in panels.items()}
    columns = len(panels) if len(panels) <= 2 else 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // columns)
    width = max(6.6, 4.7 * columns)
    subtitle = [
        about(table),
        f"n = {int(table['n'].iloc[0]):,} validation samples",
        "shaded: ±1 standard error",
    ]
    handles = _legend_entries(max(panels.values(), key=len), envelope)
    beside = max(1, min(len(handles), int(width / (0.75 + 0.075 * max(map(len, handles))))))
    figure = framed(title, subtitle, width, 3.6 * rows + 0.2 * -(-len(handles) // beside) + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for spare in axes.flat[len(panels) :]:
        spare.remove()
    for ax, (metric, curves) in zip(axes.flat, panels.items(), strict=False):
        panel(ax, metric, curves, envelope=envelope, limit=limit)
        if mark is not None:
            _mark_level(ax, curves, mark)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=beside,
        handler_map={tuple: HandlerTuple(ndivide=1)},
    )
    return figure


def _legend_entries(curves: list[Curve], envelope: str | None) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for curve in curves:
        if curve.label:
            style = {key: value for key, value in curve.style.items() if key not in ("markevery", "zorder")}
            line = Line2D([], [], **style)
            handles[curve.label] = (
                line if curve.errors is None else (Patch(color=style["color"], alpha=0.18, linewidth=0), line)
            )
    count = sum(curve.name == envelope for curve in curves)
    if count:
        handles[f"arbitrary jumps, from worst to best ({count})"] = Patch(
            color=ARBITRARY, alpha=0.2, linewidth=0
        )
    return handles


def panel(
    ax: Axes, metric: str, curves: list[Curve], *, envelope: str | None = None, limit: str | None = None
) -> None:
    """Curves of a metric by exit level; what leaves the axis is marked and told."""
    values = np.concatenate([curve.values for curve in curves])
    low, high = _scale(ax, metric, values) if limit is None else _share_scale(ax, values)
    ax.set_xlabel("exit level l")
    ax.set_ylabel(AXIS_LABELS.get(metric, metric) if limit is None else share_label(metric))
    whole_numbers(ax.xaxis)
    levels = np.concatenate([curve.levels for curve in curves])
    pad = max(0.25, 0.02 * float(np.ptp(levels)))
    ax.set_xlim(levels.min() - pad, levels.max() + pad)
    if limit is not None:
        look = LOOKS[limit]
        ax.axhline(1, color=look.colour, linestyle=look.line, zorder=1.8)
        ax.annotate(
            limit,
            (1, 1),
            xytext=(0, 3),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            color=look.colour,
        )
    if metric == "r2" and low < 0:
        ax.axhline(0, color=QUIET, linewidth=0.8, zorder=1.5)
    if band := [curve for curve in curves if curve.name == envelope]:
        together = np.stack([_within(curve.values, low, high) for curve in band])
        ax.fill_between(
            band[0].levels,
            together.min(0),
            together.max(0),
            color=ARBITRARY,
            alpha=0.2,
            linewidth=0,
            zorder=1.9,
        )
    for curve in curves:
        ax.plot(curve.levels, _within(curve.values, low, high), **curve.style)
        if curve.errors is not None:
            with np.errstate(invalid="ignore"):  # infinite values have no error
                lower, upper = curve.values - curve.errors, curve.values + curve.errors
            ax.fill_between(
                curve.levels,
                _within(lower, low, high),
                _within(upper, low, high),
                color=curve.style["color"],
                alpha=0.18,
                linewidth=0,
                zorder=2,
            )
    notes = [_beyond(ax, curves, 1, high), _beyond(ax, curves, -1, low)]
    if note := "\n".join(textwrap.fill(note, 66) for note in notes if note):
        ax.annotate(
            note,
            (0, 0),
            xytext=(0, -32),
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            fontsize=7.5,
            color=QUIET,
        )


def _scale(ax: Axes, metric: str, values: Floats) -> tuple[float, float]:
    """Set the y axis so that the bulk of the curves can be read, whatever a few outliers do."""
    values = values[np.isfinite(values)]
    if metric == "r2":
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        low, high = max(-1.0, min(low, 0.0)), min(1.0, max(high, 0.1))
        pad = 0.04 * (high - low)
        # A limit that cuts is drawn as what it is; elsewhere there is a little room.
        low, high = low - pad if low > -1 else -1.0, high + pad
    elif metric in _HEAVY_TAILED and (values > 0).any():
        positive = values[values > 0]
        low = max(float(positive.min()), float(np.median(positive)) / 300)
        few, most = np.quantile(positive, (0.2, 0.8))
        high = min(float(positive.max()), float(most * max(1.5, (most / few) ** 1.5)))
        if high > 4 * low:
            # A log axis has room for more of what leaves the bulk.
            high = min(float(positive.max()), max(high, float(3 * most)))
            low, high = low / 1.15, high * 1.15
            _log_axis(ax, low, high)
        else:
            pad = max(0.06 * (high - low), 0.03 * high)
            low, high = max(0.0, low - pad), high + pad
    else:
        low, high = 0.0, max(0.01, 1.06 * float(values.max(initial=0.0)))
        high = min(high, 1.03)
    ax.set_ylim(low, high)
    return low, high


def _share_scale(ax: Axes, values: Floats) -> tuple[float, float]:
    """Set the y axis of shares: from nothing to all and, where methods reach beyond it, some more."""
    most = float(values[np.isfinite(values)].max(initial=1.0))
    limits = 0.0, 1.06 * min(most, 1.5)
    ax.set_ylim(limits)
    return limits


def share_label(metric: str) -> str:
    return f"share of {LIMIT}'s {metric}"


def _log_axis(ax: Axes, low: float, high: float) -> None:
    ax.set_yscale("log")
    decades = np.log10(high / low)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=20))
    ax.yaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=99))
    ax.yaxis.set_major_formatter(plain_numbers())
    ax.yaxis.set_minor_formatter(NullFormatter())


def whole_numbers(*axes: Axis) -> None:
    """Ticks of levels, jumps and ranks, even where there is a single one."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_numbers() -> FuncFormatter:
    """Ticks of a log axis as 0.1, 1, 10: matplotlib's own would be formulas, which the style turns off."""
    return FuncFormatter(lambda value, _: f"{value:g}".replace("e+0", "e"))


def _within(values: Floats, low: float, high: float) -> Floats:
    """Values held near the axis: what lies far beyond is told by a mark and a note (`_beyond`)."""
    margin = low / 2 if low > 0 else low - (high - low)
    clipped: Floats = np.clip(values, margin, 2 * high - min(low, 0))
    return clipped


def _beyond(ax: Axes, curves: list[Curve], sign: int, limit: float) -> str:
    """Mark the levels where curves leave the axis, and say how far they go."""
    farthest: dict[str, float] = {}
    marker = "^" if sign > 0 else "v"
    for curve in curves:
        out = sign * curve.values > sign * limit
        if out.any():
            ax.plot(
                curve.levels[out],
                np.full(int(out.sum()), 1.0 if sign > 0 else 0.0),
                transform=ax.get_xaxis_transform(),
                linestyle="none",
                marker=marker,
                markersize=4.5,
                color=curve.style["color"],
                clip_on=False,
                zorder=3 + curve.style["zorder"],
            )
            far = float(sign * (sign * curve.values[out]).max())
            farthest[curve.name] = max(far, farthest.get(curve.name, far), key=lambda value: sign * value)
    if not farthest:
        return ""
    arrow = "▲ above" if sign > 0 else "▼ below"
    return f"{arrow} the axis: " + ", ".join(f"{name} (to {_short(far)})" for name, far in farthest.items())


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "−")


def _mark_level(ax: Axes, curves: list[Curve], level: int) -> None:
    """A line at the level that the selected jump comes from, and a star where it crosses the jump's curve."""
    colour = LOOKS["ojfa"].colour
    ax.axvline(level, color=colour, linewidth=0.8, linestyle=":", zorder=1.8)
    ax.annotate(
        f"level {level}",
        (level, 1),
        xytext=(0, 5),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
        color=colour,
    )
    for curve in curves:
        if curve.name == "ojfa":
            at = curve.levels == level
            ax.plot(
                curve.levels[at],
                curve.values[at],
                linestyle="none",
                marker="*",
                markersize=13,
                color=colour,
                markeredgecolor="white",
                zorder=4,
            )


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
