"""The stage "figures": the papers' figures, each as SVG and PNG.

One style file (`onejump.mplstyle`); one look for each method in every figure: an Okabe-Ito colour that the
colour-blind tell apart, with a line style and a marker of its own for those who print in grey.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from onejump.errors import OneJumpError
from onejump.files import read_json, read_table, replacing

Floats = NDArray[np.float64]


class Look(NamedTuple):
    """How a method looks in every figure."""

    colour: str
    line: Any
    marker: str


LOOKS = {
    "identity": Look("#000000", (0, (4, 1.5)), "o"),
    "jtc": Look("#E69F00", (0, (6, 1.5, 1, 1.5)), "s"),
    "njtc": Look("#56B4E9", (0, (3, 1, 1, 1, 1, 1)), "^"),
    "n-njtc": Look("#0072B2", "-", "D"),
    "joint": Look("#009E73", (0, (1, 1)), "v"),
    "ojfa": Look("#D55E00", (0, (5, 2)), "P"),
}
"""Look of each method, in the order of legends and tables."""

ARBITRARY = "#CC79A7"
"""Colour of arbitrary choices of the one jump; among themselves they differ by line style."""

_ARBITRARY_LINES: tuple[Any, ...] = ("--", ":", "-.", "-", (0, (8, 2)), (0, (1, 3)))
_GREY = "#8A8A8A"
_QUIET = "#555555"

_AXIS_LABELS = {
    "surprisal": "surprisal −ln p(w*) (nats)",
    "kl": "KL(p ‖ p̂) (nats)",
    "r2": "r² of the last level's states",
}
_HEAVY_TAILED = ("surprisal", "kl")

_SCORE_LABELS = {
    "signed-squared-cosine": "signed squared cosine sgn(C) C², mean over samples",
    "cosine": "cosine C, mean over samples",
    "mse": "mean squared error (less is better)",
}


@dataclass(frozen=True)
class _Inputs:
    """What a figure may read; asking for what was not given is an error that names it."""

    figure: str
    paths: Mapping[str, Path | None]

    def has(self, name: str) -> bool:
        return self.paths[name] is not None

    def table(self, name: str) -> pd.DataFrame:
        return read_table(self._path(name))

    def selection(self) -> dict[str, Any]:
        content: dict[str, Any] = read_json(self._path("selection"))
        return content

    def _path(self, name: str) -> Path:
        path = self.paths[name]
        if path is None:
            raise OneJumpError(f"figure {self.figure}: the input {name!r} is needed and was not given")
        return path


def draw(
    figure: str,
    outputs: Sequence[Path],
    *,
    evaluation: Path | None = None,
    scores: Path | None = None,
    parameters: Path | None = None,
    selection: Path | None = None,
    options: dict[str, Any],
) -> None:
    """The stage: draw one figure into all outputs, or into none.

    Parameters
    ----------
    figure : {"methods", "one-jump", "alternatives", "scores", "parameters"}
    outputs : sequence of Path
        Files to write, the format chosen by the suffix (.svg, .png).
    evaluation : Path
        Table of `onejump.evaluation.collect`: for methods, one-jump and alternatives.
    scores : Path
        Table of `onejump.selection.score_jumps`: for scores.
    parameters : Path
        Table of `onejump.evaluation.count_parameters`: for parameters.
    selection : Path
        Of `onejump.selection.select_jump`: for one-jump, alternatives and scores; where methods and
        parameters get it too, they name the chosen level.
    options : dict
        The study's options of the figure.

    Raises
    ------
    OneJumpError
        If the figure is unknown, an input is missing, or a metric was not evaluated.
    """
    if figure not in _FIGURES:
        raise OneJumpError(f"figure {figure!r} given, accepted is one of {', '.join(_FIGURES)}")
    paths = {"evaluation": evaluation, "scores": scores, "parameters": parameters, "selection": selection}
    style = files("onejump") / "onejump.mplstyle"
    # After a reset, so that a reader's own matplotlibrc does not change the figures.
    with as_file(style) as style_file, matplotlib.style.context(style_file, after_reset=True):
        drawn = _FIGURES[figure](_Inputs(figure, paths), options)
        with ExitStack() as stack:
            for fresh in [stack.enter_context(replacing(output)) for output in outputs]:
                undated = {"Date": None} if fresh.suffix == ".svg" else None
                drawn.savefig(fresh, metadata=undated)


# Figures by exit level


class _Curve(NamedTuple):
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


def _draw_methods(inputs: _Inputs, options: dict[str, Any]) -> Figure:
    """Every method by exit level."""
    table = inputs.table("evaluation")
    labels = {method: method for method in LOOKS}
    if inputs.has("selection"):
        labels["ojfa"] = f"ojfa (one jump, from level {inputs.selection()['jump']})"
    panels = {
        metric: [
            _curve(table, metric, method, labels[method])
            for method in LOOKS
            if (table["method"] == method).any()
        ]
        for metric in _metrics(table, inputs.figure, options)
    }
    return _level_figure("Shortcuts by exit level", table, panels)


def _draw_one_jump(inputs: _Inputs, options: dict[str, Any]) -> Figure:
    """OJFA Fig. 1: a jump for each level, the one jump, identity."""
    table, chosen = inputs.table("evaluation"), inputs.selection()
    jump, source = chosen["jump"], chosen["computed_from"]
    count = source["levels"]
    labels = {
        source["method"]: f"{source['method']}, a jump per level ({count} jump{'s' if count > 1 else ''})",
        "ojfa": f"one jump (OJFA), from level {jump}",
        "identity": "identity",
    }
    panels = {
        metric: [
            _curve(table, metric, method, label)
            for method, label in labels.items()
            if (table["method"] == method).any()
        ]
        for metric in _metrics(table, inputs.figure, options)
    }
    return _level_figure("One jump in place of a jump per level", table, panels, mark=jump)


def _draw_alternatives(inputs: _Inputs, options: dict[str, Any]) -> Figure:
    """OJFA Fig. 2: the one jump, the joint fit, and arbitrary choices."""
    table, chosen = inputs.table("evaluation"), inputs.selection()
    levels = chosen["computed_from"]["levels"]
    labels = {
        "ojfa": f"one jump (OJFA), from level {chosen['jump']}",
        "joint": "joint (one jump fitted to all levels)",
    }
    present = list(dict.fromkeys(table["method"]))
    arbitrary = [method for method in present if method.startswith("arbitrary-")]
    panels = {}
    for metric in _metrics(table, inputs.figure, options):
        random = [method for method in arbitrary if method.startswith("arbitrary-random-")]
        named = [method for method in arbitrary if method not in random]
        curves = [
            _curve(table, metric, method, label) for method, label in labels.items() if method in present
        ]
        for i, method in enumerate(named):
            line = _ARBITRARY_LINES[i % len(_ARBITRARY_LINES)]
            style = {"color": ARBITRARY, "linewidth": 1.0, "linestyle": line, "zorder": 2.2}
            curve = _curve(table, metric, method, _arbitrary_label(method, levels))
            curves.append(curve._replace(name="arbitrary", errors=None, style=style))
        for i, method in enumerate(random):
            style = {"color": _GREY, "linewidth": 0.6, "zorder": 2.1}
            curve = _curve(table, metric, method, f"random jumps ({len(random)})" if i == 0 else "")
            curves.append(curve._replace(name="arbitrary", errors=None, style=style))
        panels[metric] = curves
    return _level_figure("The one jump and its alternatives", table, panels, envelope="arbitrary")


_FIRST_TO_LAST: dict[str, Callable[[int], int]] = {
    "first": lambda levels: 0,
    "middle": lambda levels: levels // 2,
    "last": lambda levels: levels - 1,
}


def _arbitrary_label(method: str, levels: int) -> str:
    place = method.removeprefix("arbitrary-")
    if place in _FIRST_TO_LAST:
        return f"{place} jump (level {_FIRST_TO_LAST[place](levels)})"
    return f"jump from level {place}"


def _metrics(table: pd.DataFrame, figure: str, options: dict[str, Any]) -> list[str]:
    known = list(dict.fromkeys(table["metric"]))
    for metric in options["metrics"]:
        if metric not in known:
            raise OneJumpError(
                f"figures.{figure}.metrics: {metric!r} given, but the evaluation holds {', '.join(known)} "
                "(evaluation.precision_at says which precisions are measured)"
            )
    return list(dict.fromkeys(options["metrics"]))


def _curve(table: pd.DataFrame, metric: str, method: str, label: str) -> _Curve:
    rows = table[(table["method"] == method) & (table["metric"] == metric)].sort_values("level")
    style: dict[str, Any] = {}
    if method in LOOKS:
        look = LOOKS[method]
        style = {"color": look.colour, "linestyle": look.line, "marker": look.marker}
        # Later methods lie on top: what they hide is drawn with a longer stroke.
        style["zorder"] = 2.5 + 0.01 * list(LOOKS).index(method)
        step = max(1, len(rows) // 8)
        style["markevery"] = (list(LOOKS).index(method) * step // len(LOOKS), step)
    return _Curve(
        label,
        method,
        rows["level"].to_numpy(np.int64),
        rows["value"].to_numpy(np.float64),
        rows["stderr"].to_numpy(np.float64),
        style,
    )


def _level_figure(
    title: str,
    table: pd.DataFrame,
    panels: Mapping[str, list[_Curve]],
    *,
    mark: int | None = None,
    envelope: str | None = None,
) -> Figure:
    """A panel for each metric.

    ``mark`` is a level to mark on ojfa, ``envelope`` the name of the curves to put a band around.
    """
    columns = len(panels) if len(panels) <= 2 else 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // columns)
    width = max(6.6, 4.7 * columns)
    subtitle = [
        _about(table),
        f"n = {int(table['n'].iloc[0]):,} validation samples",
        "shaded: ±1 standard error",
    ]
    entries = [curve.label for curve in next(iter(panels.values()))]
    figure = _framed(title, subtitle, width, 3.4 * rows + 0.2 * len(entries) / columns + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for spare in axes.flat[len(panels) :]:
        spare.remove()
    for ax, (metric, curves) in zip(axes.flat, panels.items(), strict=False):
        _panel(ax, metric, curves, envelope=envelope)
        if mark is not None:
            _mark_level(ax, curves, mark)
    handles = _legend_entries(next(iter(panels.values())), envelope)
    longest = max(len(label) for label in handles)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(width / (0.75 + 0.075 * longest)))),
        handler_map={tuple: HandlerTuple(ndivide=1)},
    )
    return figure


def _legend_entries(curves: list[_Curve], envelope: str | None) -> dict[str, Any]:
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


def _panel(ax: Axes, metric: str, curves: list[_Curve], *, envelope: str | None) -> None:
    low, high = _scale(ax, metric, np.concatenate([curve.values for curve in curves]))
    ax.set_xlabel("exit level l")
    ax.set_ylabel(_AXIS_LABELS.get(metric, metric))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    levels = np.concatenate([curve.levels for curve in curves])
    pad = max(0.25, 0.02 * float(np.ptp(levels)))
    ax.set_xlim(levels.min() - pad, levels.max() + pad)
    if metric == "r2" and low < 0:
        ax.axhline(0, color=_QUIET, linewidth=0.8, zorder=1.5)
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
            color=_QUIET,
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


def _log_axis(ax: Axes, low: float, high: float) -> None:
    ax.set_yscale("log")
    decades = np.log10(high / low)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=20))
    ax.yaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=99))
    ax.yaxis.set_major_formatter(_plain_numbers())
    ax.yaxis.set_minor_formatter(NullFormatter())


def _plain_numbers() -> FuncFormatter:
    """Ticks of a log axis as 0.1, 1, 10: matplotlib's own would be formulas, which the style turns off."""
    return FuncFormatter(lambda value, _: f"{value:g}".replace("e+0", "e"))


def _within(values: Floats, low: float, high: float) -> Floats:
    """Values held near the axis: what lies far beyond is told by a mark and a note (`_beyond`)."""
    margin = low / 2 if low > 0 else low - (high - low)
    clipped: Floats = np.clip(values, margin, 2 * high - min(low, 0))
    return clipped


def _beyond(ax: Axes, curves: list[_Curve], sign: int, limit: float) -> str:
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


def _mark_level(ax: Axes, curves: list[_Curve], level: int) -> None:
    """A line at the level that the one jump comes from, and a star where it crosses the jump's curve."""
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


# The score matrix


def _draw_scores(inputs: _Inputs, options: dict[str, Any]) -> Figure:
    """The jump x level matrix of mean scores, and beside it D_m, its sum over levels."""
    colormap = matplotlib.colormaps[options["colormap"]]
    chosen = inputs.selection()
    table, metric, jump = inputs.table("scores"), chosen["computed_from"]["metric"], chosen["jump"]
    table = table[table["metric"] == metric]
    samples = int(table["n"].iloc[0])
    matrix = table.pivot(index="jump", columns="level", values="score") / samples
    means, levels = matrix.to_numpy(np.float64), len(matrix.columns)
    totals = means.sum(1)
    subtitle = [_about(table), f"n = {samples:,} training samples", _verdict(chosen, samples)]
    figure = _framed("Every jump on every level", subtitle, 8.6, 5.6)
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[5, 2])
    norm: Normalize
    if metric == "mse":
        # Less is better: reversed, so that the same end of the colours is the good one for all metrics.
        norm, colormap = _log_norm(means), colormap.reversed()
    else:
        norm = Normalize(means.min(), means.max())
    edges = np.arange(levels + 1) - 0.5
    mesh = heat.pcolormesh(edges, np.arange(len(means) + 1) - 0.5, means, cmap=colormap, norm=norm)
    heat.grid(False)
    heat.set(xlabel="exit level l", ylabel="jump m (fitted at level m)")
    gap = 0.004 * len(means)  # the outline lies around the row, however thin
    heat.add_patch(
        Rectangle(
            (-0.5, jump - 0.5 - gap),
            levels,
            1 + 2 * gap,
            fill=False,
            edgecolor=LOOKS["ojfa"].colour,
            linewidth=1.6,
            path_effects=[withStroke(linewidth=3.0, foreground="white")],
            clip_on=False,
            zorder=3,
        )
    )
    colorbar = figure.colorbar(
        mesh, ax=heat, location="bottom", label=_SCORE_LABELS.get(metric, metric), aspect=40, pad=0.02
    )
    if isinstance(norm, LogNorm):
        colorbar.ax.xaxis.set_major_formatter(_plain_numbers())
        colorbar.ax.xaxis.set_minor_formatter(NullFormatter())
    colours = [LOOKS["ojfa"].colour if m == jump else "#BBBBBB" for m in matrix.index]
    edge = ["black" if m == jump else "none" for m in matrix.index]
    bars.barh(matrix.index.to_numpy(), totals, height=0.8, color=colours, edgecolor=edge)
    bars.grid(False, axis="y")
    bars.tick_params(labelleft=False, left=False)
    if metric == "mse" and totals.min() > 0 and totals.max() > 10 * totals.min():
        bars.set_xscale("log")
        bars.xaxis.set_major_formatter(_plain_numbers())
        bars.xaxis.set_minor_formatter(NullFormatter())
        bars.set_xlim(totals.min() / 2, totals.max() * 1.3)
        bars.set_xlabel("D(m), sum over levels\n(log scale)")
    else:
        bars.xaxis.set_major_locator(MaxNLocator(4))
        bars.set_xlabel("D(m), sum over levels")
    bars.annotate(
        f"◀ jump {jump}",
        (1, jump),
        xytext=(2, 0),
        xycoords=bars.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        color=LOOKS["ojfa"].colour,
        fontweight="bold",
    )
    for axis in (heat.xaxis, heat.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    heat.set_ylim(-0.5, len(means) - 0.5)
    return figure


def _log_norm(means: Floats) -> Normalize:
    positive = means[means > 0]
    if not positive.size or positive.min() == positive.max():
        return Normalize(0, float(means.max()) or 1)
    return LogNorm(float(positive.min()), float(positive.max()), clip=True)


def _verdict(chosen: dict[str, Any], samples: int) -> str:
    ranking = [(entry["jump"], entry["score"] / samples) for entry in chosen["ranking"]]
    text = f"chosen: jump {ranking[0][0]}, D = {ranking[0][1]:.4g}"
    if len(ranking) > 1:
        text += f"; next: jump {ranking[1][0]}, D = {ranking[1][1]:.4g}"
    return text


# The table of parameters


def _draw_parameters(inputs: _Inputs, options: dict[str, Any]) -> Figure:
    """Numbers kept at inference, as a table with bars."""
    table = inputs.table("parameters")
    kept = dict(zip(table["method"], table["shortcuts"].astype(int), strict=True))
    numbers = dict(zip(table["method"], table["numbers"].astype(int), strict=True))
    reduction = dict(zip(table["method"], table["reduction"].astype(float), strict=True))
    methods = [method for method in LOOKS if method in numbers]
    labels = dict(zip(methods, methods, strict=True))
    # Reductions are relative to the set that the one jump was selected from: its own is 1.
    sets = [f"{method} set" for method in ("n-njtc", "njtc") if reduction.get(method) == 1]
    the_set = sets[0] if sets else "set of jumps"
    if inputs.has("selection"):
        labels["ojfa"] = f"ojfa (from level {inputs.selection()['jump']})"
    row, head, width = 0.32, 0.5, 8.8
    height = head + row * len(methods) + 0.5
    subtitle = [_about(table), f"reduction: how many times fewer numbers than the {the_set}"]
    figure = _framed("Numbers kept at inference", subtitle, width, height)
    figure.set_layout_engine("none")
    top = figure.get_figheight() - (height - 0.1)  # inches taken by the header
    full = figure.get_figheight()
    bottom = full - top - head - row * len(methods)
    cells = figure.add_axes((0.0, bottom / full, 1.0, row * len(methods) / full))
    cells.set(xlim=(0, width), ylim=(len(methods), 0))
    cells.axis("off")
    bars = figure.add_axes((6.35 / width, bottom / full, 2.25 / width, row * len(methods) / full))
    columns = {
        "method": (0.25, "left"),
        "shortcuts\nkept": (3.0, "right"),
        "numbers\nkept": (4.7, "right"),
        "reduction": (5.95, "right"),
    }
    for name, (x, side) in columns.items():
        cells.text(x, -0.15, name, ha=side, va="bottom", fontweight="bold")
    for i, method in enumerate(methods):
        if i % 2 == 0:
            cells.add_patch(Rectangle((0.15, i), width - 0.3, 1, color="#F4F4F4", linewidth=0))
        texts = (labels[method], f"{kept[method]:,}", f"{numbers[method]:,}", _reduction(reduction[method]))
        for text, (x, side) in zip(texts, columns.values(), strict=True):
            weight = "bold" if method == "ojfa" else "normal"
            cells.text(x, i + 0.5, text, ha=side, va="center", fontweight=weight)
    cells.plot([0.15, width - 0.15], [0, 0], color=_QUIET, linewidth=0.8, clip_on=False)
    _number_bars(bars, {method: numbers[method] for method in methods})
    return figure


def _number_bars(ax: Axes, numbers: Mapping[str, int]) -> None:
    positive = [number for number in numbers.values() if number > 0] or [1]
    low = 10.0 ** np.floor(np.log10(min(positive) / 2))
    high = 10.0 ** np.ceil(np.log10(max(positive) * 1.0001))
    ax.patch.set_visible(False)
    ax.set_xscale("log")
    ax.set(xlim=(low, high), ylim=(len(numbers), 0), yticks=[])
    for i, (method, number) in enumerate(numbers.items()):
        if number > 0:
            ax.barh(i + 0.5, number - low, left=low, height=0.55, color=LOOKS[method].colour)
    ax.xaxis.set_major_locator(LogLocator(numticks=6))
    ax.xaxis.set_minor_locator(LogLocator(subs=(), numticks=6))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("numbers kept (log scale)", fontsize=8)


def _reduction(factor: float) -> str:
    if not np.isfinite(factor):
        return "—"
    return f"×{factor:,.1f}" if factor >= 1 else f"×{factor:.2g}"


# What all figures share


def _about(table: pd.DataFrame) -> str:
    return f"{table['model'].iloc[0]} on {table['corpus'].iloc[0]}"


def _framed(title: str, subtitle: Sequence[str], width: float, height: float) -> Figure:
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
        figure.text(0.15 / width, y, line, va="top", fontsize=8.5, color=_QUIET)
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


_FIGURES: dict[str, Callable[[_Inputs, dict[str, Any]], Figure]] = {
    "methods": _draw_methods,
    "one-jump": _draw_one_jump,
    "alternatives": _draw_alternatives,
    "scores": _draw_scores,
    "parameters": _draw_parameters,
}
