"""Figures with the exit level on the x axis: a panel for each metric, the selected jump, the legend."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from onejump.figures.curves import Curve
from onejump.figures.frame import (
    Floats,
    about,
    framed,
    legend_size,
    metric_label,
    samples_of,
    whole_numbers,
)
from onejump.figures.looks import ARBITRARY, LOOKS, QUIET, method_label
from onejump.figures.scales import set_scale, set_share_scale

# More marks than these on one edge of a panel would be a bar.
_MOST_MARKS = 24


def level_figure(
    title: str,
    table: pd.DataFrame,
    panels: Mapping[str, list[Curve]],
    *,
    mark: int | None = None,
    envelope: str | None = None,
    limit: str | None = None,
    predicts: str = "token",
) -> Figure:
    """Draw curves by exit level, a panel for each metric.

    Parameters
    ----------
    title : str
    table : DataFrame
        Where the curves are from: it names the model, the corpus and the number of samples.
    panels : mapping
        The curves, by metric.
    mark : int, optional
        The level of the selected jump.
    envelope : str, optional
        Name of the curves to put a band around.
    limit : str, optional
        The method that the curves are shares of.
    predicts : str
        What the model predicts.
    """
    # A distilled kind has no r2.
    panels = {metric: [curve for curve in curves if curve.levels.size] for metric, curves in panels.items()}
    columns = len(panels) if len(panels) <= 2 else 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // columns)
    width = max(6.6, 4.7 * columns)
    subtitle = [
        about(table),
        samples_of(table),
        "shaded: ±1 standard error",
    ]
    handles = _legend_entries(max(panels.values(), key=len), envelope)
    beside, below = legend_size(list(handles), width)
    figure = framed(title, subtitle, width, 3.6 * rows + below + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for spare in axes.flat[len(panels) :]:
        spare.remove()
    for ax, (metric, curves) in zip(axes.flat, panels.items(), strict=False):
        panel(ax, metric, curves, envelope=envelope, limit=limit, predicts=predicts)
        if mark is not None:
            mark_selected(ax, mark, curves)
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
    ax: Axes,
    metric: str,
    curves: list[Curve],
    *,
    envelope: str | None = None,
    limit: str | None = None,
    predicts: str = "token",
) -> None:
    """Draw curves by exit level into one panel; mark values beyond the axis and tell them below it.

    Parameters
    ----------
    ax : Axes
    metric : str
    curves : list of Curve
    envelope : str, optional
        Name of the curves to put a band around.
    limit : str, optional
        The method that the curves are shares of.
    predicts : str
        What the model predicts.
    """
    low, high = set_scale(ax, metric, curves) if limit is None else set_share_scale(ax, curves)
    ax.set_xlabel("exit level l")
    ax.set_ylabel(metric_label(metric, predicts) if limit is None else f"share of {limit}'s {metric}")
    whole_numbers(ax.xaxis)
    levels = np.concatenate([curve.levels for curve in curves])
    pad = max(0.25, 0.02 * float(np.ptp(levels)))
    ax.set_xlim(levels.min() - pad, levels.max() + pad)
    if limit is not None:
        look = LOOKS[limit]
        ax.axhline(1, color=look.colour, linestyle=look.line, zorder=1.8)
        ax.annotate(
            method_label(limit),
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
            lower, upper = curve.bounds(metric if limit is None else "share")
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


def _within(values: Floats, low: float, high: float) -> Floats:
    """Hold values near the axis: those far beyond it get a mark and a note (`_beyond`)."""
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
            marked = curve.levels[out][:: -(-int(out.sum()) // _MOST_MARKS)]
            ax.plot(
                marked,
                np.full(len(marked), 1.0 if sign > 0 else 0.0),
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
    return f"{arrow} the axis: " + ", ".join(
        f"{method_label(name)} {'up' if sign > 0 else 'down'} to {_short(far)}"
        for name, far in farthest.items()
    )


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "−")


def mark_selected(ax: Axes, level: int, curves: Sequence[Curve] = (), *, label: bool = True) -> None:
    """Draw a line at the level of the selected jump, and a star where it crosses that jump's own curve.

    Parameters
    ----------
    ax : Axes
    level : int
    curves : sequence of Curve
        What the panel shows.
    label : bool
        Write the level above the panel.
    """
    colour = LOOKS["ojfa"].colour
    ax.axvline(level, color=colour, linewidth=0.9, linestyle=":", zorder=1.8)
    ax.annotate(
        f"selected: level {level}" if label else "",
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
