"""Curves by exit level: a panel for each metric, its scale, the selected jump, what lies beyond the axis."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from onejump.figures.parts import (
    ARBITRARY,
    AXIS_LABELS,
    LOOKS,
    QUIET,
    Floats,
    about,
    framed,
    method_label,
    plain_numbers,
    share_label,
    whole_numbers,
)

_HEAVY_TAILED = ("surprisal", "kl")
# More marks than these on one edge of a panel would be a bar.
_MOST_MARKS = 24


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

    def bounds(self, metric: str) -> tuple[Floats, Floats]:
        """Values less and plus their standard errors, within what the metric can be."""
        if self.errors is None:
            return self.values, self.values
        least, most = _range(metric)
        with np.errstate(invalid="ignore"):  # infinite values have no error
            return np.clip(self.values - self.errors, least, most), np.clip(
                self.values + self.errors, least, most
            )


def _range(metric: str) -> tuple[float, float]:
    """What a metric can be."""
    if metric.startswith("precision"):
        return 0.0, 1.0
    return (-np.inf, 1.0) if metric == "r2" else (0.0, np.inf)


def curve_of(table: pd.DataFrame, metric: str, method: str, label: str) -> Curve:
    rows = table[(table["method"] == method) & (table["metric"] == metric)].sort_values("level")
    style: dict[str, Any] = {}
    if method in LOOKS:
        style = LOOKS[method].style()
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

    ``mark`` is the level of the selected jump, ``envelope`` the name of the curves to put a band around,
    ``limit`` the method that the curves are shares of.
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
    ax: Axes, metric: str, curves: list[Curve], *, envelope: str | None = None, limit: str | None = None
) -> None:
    """Curves of a metric by exit level; what leaves the axis is marked and told."""
    low, high = _scale(ax, metric, curves) if limit is None else _share_scale(ax, curves)
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


def _scale(ax: Axes, metric: str, curves: Sequence[Curve]) -> tuple[float, float]:
    """Set the y axis so that the bulk of the curves and their bands can be read, whatever outliers do."""
    values, lower, upper = _finite(metric, curves)
    if metric == "r2":
        low, high = (float(lower.min()), float(upper.max())) if values.size else (0.0, 1.0)
        low, high = max(-1.0, min(low, 0.0)), min(1.0, max(high, 0.1))
        pad = 0.04 * (high - low)
        # A limit that cuts is drawn as what it is; elsewhere there is a little room.
        low, high = low - pad if low > -1 else -1.0, high + pad
    elif metric in _HEAVY_TAILED and (values > 0).any():
        shown = values > 0
        values, lower, upper = values[shown], lower[shown], upper[shown]
        low = max(float(values.min()), float(np.median(values)) / 300)
        few, most = np.quantile(values, (0.2, 0.8))
        high = min(float(values.max()), float(most * max(1.5, (most / few) ** 1.5)))
        if wide := high > 4 * low:
            # A log axis has room for more of what leaves the bulk.
            high = min(float(values.max()), max(high, float(3 * most)))
        inside = values <= high
        high = float(upper[inside].max())
        if wide:
            # A band that reaches down to zero has no end on a log axis.
            low = max(float(lower[values >= low].min()), low / 3)
            low, high = low / 1.15, high * 1.15
            _log_axis(ax, low, high)
        else:
            low = float(lower[inside].min())
            pad = max(0.06 * (high - low), 0.03 * high)
            low, high = max(0.0, low - pad), high + pad
    else:
        low, high = 0.0, max(0.01, 1.06 * float(upper.max(initial=0.0)))
        high = min(high, 1.03)
    ax.set_ylim(low, high)
    return low, high


def _share_scale(ax: Axes, curves: Sequence[Curve]) -> tuple[float, float]:
    """Set the y axis of shares: from nothing to all and, where methods reach beyond it, some more."""
    values, _, upper = _finite("share", curves)
    most = max(1.0, float(upper[values <= 1.5].max(initial=0.0)))
    limits = 0.0, 1.06 * min(most, 2.0)
    ax.set_ylim(limits)
    return limits


def _finite(metric: str, curves: Sequence[Curve]) -> tuple[Floats, Floats, Floats]:
    """Finite values of all curves, with the lower and upper ends of their bands."""
    bounds = [curve.bounds(metric) for curve in curves]
    values = np.concatenate([curve.values for curve in curves])
    lower, upper = (np.concatenate(ends) for ends in zip(*bounds, strict=True))
    known = np.isfinite(values)
    values, lower, upper = values[known], lower[known], upper[known]
    return values, np.where(np.isfinite(lower), lower, values), np.where(np.isfinite(upper), upper, values)


def _log_axis(ax: Axes, low: float, high: float) -> None:
    ax.set_yscale("log")
    decades = np.log10(high / low)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=20))
    ax.yaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=99))
    ax.yaxis.set_major_formatter(plain_numbers())
    ax.yaxis.set_minor_formatter(NullFormatter())


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
        f"{method_label(name)} to {_short(far)}" for name, far in farthest.items()
    )


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "−")


def mark_selected(ax: Axes, level: int, curves: Sequence[Curve] = (), *, label: bool = True) -> None:
    """A line at the level of the selected jump, and a star where it crosses that jump's own curve."""
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
