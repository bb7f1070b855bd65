"""The stage "figures": the papers' figures, each as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from matplotlib.transforms import Bbox

from onejump.errors import OneJumpError
from onejump.experiment_figures import EXPERIMENTS
from onejump.figure_parts import (
    ARBITRARY,
    GREY,
    LIMIT,
    LOOKS,
    QUIET,
    Curve,
    Floats,
    Inputs,
    about,
    curve_of,
    evaluated_labels,
    framed,
    level_figure,
    measured_metrics,
    plain_numbers,
    share_label,
    whole_numbers,
)
from onejump.files import replacing

_ARBITRARY_LINES: tuple[Any, ...] = ("--", ":", "-.", "-", (0, (8, 2)), (0, (1, 3)))

_SCORE_LABELS = {
    "signed-squared-cosine": "signed squared cosine sgn(C) C², mean over samples",
    "cosine": "cosine C, mean over samples",
    "mse": "mean squared error (less is better)",
}


def draw(figure: str, outputs: Sequence[Path], *, options: dict[str, Any], **inputs: Path) -> None:
    """The stage: draw one figure into all outputs, or into none.

    Parameters
    ----------
    figure : str
        One of the study's figures.
    outputs : sequence of Path
        Files to write, the format chosen by the suffix (.svg, .png).
    options : dict
        The study's options of the figure.
    **inputs : Path
        What it is drawn from, by name:

        - evaluation: table of `onejump.evaluation.collect`, for methods, selected, prediction, alternatives,
          limit, pareto and sub-modules;
        - scores: table of `onejump.selection.score_jumps`, for scores;
        - parameters: table of `onejump.evaluation.count_parameters`, for parameters and pareto;
        - selection: of `onejump.selection.select_jump`, for selected, alternatives and scores; where methods,
          limit, pareto and parameters get it too, they name the chosen level;
        - analysis: table of `onejump.analysis.analyse`, for spaces and ranks;
        - level_pairs, sub_modules, transfer, criteria, rank_sweep: table of the stage of that name, for the
          figure of that name;
        - curves, savings: tables of `onejump.early_exit.compare_exits`, for early-exit.

    Raises
    ------
    OneJumpError
        If the figure is unknown, an input is missing, or a metric or method was not evaluated.
    """
    if figure not in _FIGURES:
        raise OneJumpError(f"figure {figure!r} given, accepted is one of {', '.join(_FIGURES)}")
    style = files("onejump") / "onejump.mplstyle"
    # After a reset, so that a reader's own matplotlibrc does not change the figures.
    with as_file(style) as style_file, matplotlib.style.context(style_file, after_reset=True):
        drawn = _FIGURES[figure](Inputs(figure, inputs), options)
        with ExitStack() as stack:
            for fresh in [stack.enter_context(replacing(output)) for output in outputs]:
                undated = {"Date": None} if fresh.suffix == ".svg" else None
                drawn.savefig(fresh, metadata=undated)


def _draw_methods(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """Every method by exit level."""
    table = inputs.table("evaluation")
    panels = {
        metric: [
            curve_of(table, metric, method, label)
            for method, label in evaluated_labels(inputs, table).items()
        ]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("Shortcuts by exit level", table, panels)


def _draw_prediction(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """JTC Fig. 3 and 4, N-NJTC Fig. 3: quality of prediction of some methods."""
    table = inputs.table("evaluation")
    labels = {m: label for m, label in evaluated_labels(inputs, table).items() if m in options["methods"]}
    panels = {
        metric: [curve_of(table, metric, method, label) for method, label in labels.items()]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("Quality of prediction", table, panels)


def _draw_limit(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """What every method keeps of the precision of a full-rank affine map, by exit level."""
    table = inputs.table("evaluation")
    labels = evaluated_labels(inputs, table)
    if not labels.pop(LIMIT, None):
        raise OneJumpError(
            f"figure {inputs.figure}: {LIMIT}, the limit to compare with, is not among the evaluated "
            f"{', '.join(labels)}: the study needs shortcuts.{LIMIT}"
        )
    panels = {
        metric: [_share_of_limit(table, metric, method, label) for method, label in labels.items()]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("What is kept of the limit", table, panels, limit=LIMIT)


def _share_of_limit(table: pd.DataFrame, metric: str, method: str, label: str) -> Curve:
    """A method's precision over that of the limit; not a number where the limit's is zero."""
    curve, limit = curve_of(table, metric, method, label), curve_of(table, metric, LIMIT, "")
    assert curve.errors is not None
    assert limit.errors is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(limit.values > 0, curve.values / limit.values, np.nan)
        # As if the two were of different samples.
        errors = np.hypot(curve.errors, shares * limit.errors) / limit.values
    return curve._replace(values=shares, errors=errors)


def _draw_selected(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """OJFA Fig. 1: a jump for each level, the selected jump, identity."""
    table, chosen = inputs.table("evaluation"), inputs.selection()
    jump, source = chosen["jump"], chosen["computed_from"]
    count = source["levels"]
    labels = {
        source["method"]: f"{source['method']}, a jump per level ({count} jump{'s' if count > 1 else ''})",
        "ojfa": f"selected jump (OJFA), from level {jump}",
        "identity": "identity",
    }
    panels = {
        metric: [
            curve_of(table, metric, method, label)
            for method, label in labels.items()
            if (table["method"] == method).any()
        ]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("The selected jump in place of a jump per level", table, panels, mark=jump)


def _draw_alternatives(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """OJFA Fig. 2: the selected jump, the joint fit, and arbitrary choices."""
    table, chosen = inputs.table("evaluation"), inputs.selection()
    levels = chosen["computed_from"]["levels"]
    labels = {
        "ojfa": f"selected jump (OJFA), from level {chosen['jump']}",
        "joint": "joint (one n-njtc for all levels)",
    }
    present = list(dict.fromkeys(table["method"]))
    arbitrary = [method for method in present if method.startswith("arbitrary-")]
    panels = {}
    for metric in measured_metrics(table, inputs.figure, options):
        random = [method for method in arbitrary if method.startswith("arbitrary-random-")]
        named = [method for method in arbitrary if method not in random]
        curves = [
            curve_of(table, metric, method, label) for method, label in labels.items() if method in present
        ]
        for i, method in enumerate(named):
            line = _ARBITRARY_LINES[i % len(_ARBITRARY_LINES)]
            style = {"color": ARBITRARY, "linewidth": 1.0, "linestyle": line, "zorder": 2.2}
            curve = curve_of(table, metric, method, _arbitrary_label(method, levels))
            curves.append(curve._replace(name="arbitrary", errors=None, style=style))
        for i, method in enumerate(random):
            style = {"color": GREY, "linewidth": 0.6, "zorder": 2.1}
            curve = curve_of(table, metric, method, f"random jumps ({len(random)})" if i == 0 else "")
            curves.append(curve._replace(name="arbitrary", errors=None, style=style))
        panels[metric] = curves
    return level_figure("The selected jump and its alternatives", table, panels, envelope="arbitrary")


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


# What each method costs and gives


class _Kind(NamedTuple):
    """A method as a point."""

    label: str
    numbers: int
    """Kept at inference, of all its shortcuts."""
    value: float
    single: bool
    """Whether one shortcut serves all levels."""


def _draw_pareto(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """Numbers kept at inference against what is kept of the limit's precision, mean over levels."""
    table, counts = inputs.table("evaluation"), inputs.table("parameters")
    kept = dict(zip(counts["method"], counts["shortcuts"].astype(int), strict=True))
    numbers = dict(zip(counts["method"], counts["numbers"].astype(int), strict=True))
    labels = {method: label for method, label in evaluated_labels(inputs, table).items() if method in numbers}
    limited = LIMIT in labels
    curve = _share_of_limit if limited else curve_of
    panels: dict[str, dict[str, _Kind]] = {}
    for metric in measured_metrics(table, inputs.figure, options):
        panels[metric] = {}
        for method, label in labels.items():
            values = curve(table, metric, method, label).values
            known = values[np.isfinite(values)]
            if known.size:
                panels[metric][method] = _Kind(label, numbers[method], float(known.mean()), kept[method] == 1)
    subtitle = [
        about(table),
        f"mean over {table['level'].nunique()} exit levels",
        f"n = {int(table['n'].iloc[0]):,} validation samples",
        "filled: one shortcut for all levels; open: one for each",
        "line: Pareto front",
    ]
    figure = framed("Precision for the numbers kept", subtitle, 7.6 * len(panels), 4.8)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (metric, kinds) in zip(axes, panels.items(), strict=True):
        _pareto_axes(ax, kinds)
        ax.set_ylabel(f"{share_label(metric) if limited else metric}, mean over levels")
    figure.draw_without_rendering()  # gives the axes their places, by which names find theirs
    for ax, kinds in zip(axes, panels.values(), strict=True):
        _pareto_points(ax, kinds)
    return figure


def _place_of_zero(kinds: Mapping[str, _Kind]) -> float:
    """Where no numbers are: a log axis has no such place."""
    return min([kind.numbers for kind in kinds.values() if kind.numbers], default=1) / 8


def _pareto_axes(ax: Axes, kinds: Mapping[str, _Kind]) -> None:
    """A log axis of numbers, with a zero behind a break for what keeps none, and an axis of values."""
    numbers = [kind.numbers for kind in kinds.values()]
    zero, most = _place_of_zero(kinds), max([1, *numbers])
    ticks = [float(tick) for tick in 10.0 ** np.arange(np.ceil(np.log10(4 * zero)), np.log10(2 * most))]
    names = [EngFormatter(sep="")(tick) for tick in ticks]
    left = 3 * zero
    if 0 in numbers:
        ticks, names, left = [zero, *ticks], ["0", *names], zero / 2
        for at in (2.35 * zero, 2.65 * zero):
            ax.plot(
                at,
                0,
                transform=ax.get_xaxis_transform(),
                marker=[(-0.5, -1), (0.5, 1)],
                markersize=11,
                color=ax.spines["bottom"].get_edgecolor(),
                clip_on=False,
            )
    ax.set_xscale("log")
    ax.set_xlim(left, 2 * most)
    ax.set_xticks(ticks, names)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("numbers kept at inference (log scale)")
    ax.set_ylim(0, 1.08 * max([kind.value for kind in kinds.values()], default=0) or 1)


def _pareto_points(ax: Axes, kinds: Mapping[str, _Kind]) -> None:
    """The points with their names, and their front as stairs."""
    zero, right = _place_of_zero(kinds), ax.get_xlim()[1]
    places = {method: (kind.numbers or zero, kind.value) for method, kind in kinds.items()}
    front = np.array([places[method] for method in _pareto_front(kinds)]).reshape(-1, 2)
    stairs = np.column_stack([np.append(front[:, 0], right).repeat(2)[1:-1], front[:, 1].repeat(2)])
    ax.plot(*stairs.T, color=GREY, linewidth=1.4, zorder=1.8)
    ax.fill_between(*stairs.T, color=GREY, alpha=0.08, linewidth=0, zorder=0.5)
    for method, place in places.items():
        colour = LOOKS[method].colour
        ax.plot(
            *place,
            marker=LOOKS[method].marker,
            markersize=9,
            markeredgewidth=1.6,
            color=colour,
            markerfacecolor=colour if kinds[method].single else "white",
        )
    _name_points(ax, {kinds[method].label: place for method, place in places.items()}, stairs)


def _pareto_front(kinds: Mapping[str, _Kind]) -> list[str]:
    """Methods that are better than all others that keep as few numbers, by numbers."""
    front: list[str] = []
    for method in sorted(kinds, key=lambda method: (kinds[method].numbers, -kinds[method].value)):
        if not front or kinds[method].value > kinds[front[-1]].value:
            front.append(method)
    return front


# A name's shift from its point, in points of print, and which of its sides is there; best first. Those far
# away need a line to the point.
_BESIDE = (
    (10, 0, "left", "center"),
    (-10, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (6, 4, "left", "bottom"),
    (6, -4, "left", "top"),
    (-6, 4, "right", "bottom"),
    (-6, -4, "right", "top"),
    (0, 22, "center", "bottom"),
    (0, -22, "center", "top"),
    (18, 14, "left", "bottom"),
    (18, -14, "left", "top"),
    (-18, 14, "right", "bottom"),
    (-18, -14, "right", "top"),
)


def _name_points(ax: Axes, places: Mapping[str, tuple[float, float]], line: Floats) -> None:
    """A name beside each point, on the side where it covers least of points, names and a line (n, 2)."""
    inside = ax.get_window_extent()
    drawn = [Bbox([start, stop]).padded(5) for start, stop in pairwise(ax.transData.transform(line))]
    drawn += [Bbox([point, point]).padded(10) for point in map(ax.transData.transform, places.values())]
    boxes: dict[str, list[Bbox]] = {}
    for name, place in places.items():
        tried = [_name(ax, name, place, at) for at in _BESIDE]
        boxes[name] = [text.get_window_extent() for text in tried]
        for text in tried:
            text.remove()
    chosen: dict[str, int] = {}
    for _ in range(3):  # names that came first make room for those that came later
        for name in places:
            others = [boxes[other][at] for other, at in chosen.items() if other != name]
            chosen[name] = int(np.argmin([_covered(box, [*drawn, *others], inside) for box in boxes[name]]))
    for name, at in chosen.items():
        line_to = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 5}
        far = abs(_BESIDE[at][1]) > 10
        _name(ax, name, places[name], _BESIDE[at], line_to if far else None)


def _name(
    ax: Axes,
    name: str,
    place: tuple[float, float],
    beside: tuple[int, int, Any, Any],
    line_to: dict[str, Any] | None = None,
) -> Annotation:
    x, y, side, height = beside
    text = ax.annotate(
        name, place, (x, y), textcoords="offset points", ha=side, va=height, arrowprops=line_to
    )
    text.set_in_layout(False)
    return text


def _covered(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """What a box covers of others; what lies outside counts more."""
    free = Bbox.intersection(box, inside)
    outside = box.width * box.height - (0 if free is None else free.width * free.height)
    both = [Bbox.intersection(box, other) for other in taken]
    return float(10 * outside + sum(part.width * part.height for part in both if part is not None))


# The score matrix


def _draw_scores(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """The jump x level matrix of mean scores, and beside it the score of each jump, mean over levels."""
    colormap = matplotlib.colormaps[options["colormap"]]
    chosen = inputs.selection()
    table, metric, jump = inputs.table("scores"), chosen["computed_from"]["metric"], chosen["jump"]
    table = table[table["metric"] == metric]
    samples = int(table["n"].iloc[0])
    matrix = table.pivot(index="jump", columns="level", values="score")
    means, levels = matrix.to_numpy(np.float64), len(matrix.columns)
    of_jumps = means.mean(1)
    subtitle = [about(table), f"n = {samples:,} training samples", _verdict(chosen)]
    figure = framed("Every jump on every level", subtitle, 8.6, 5.6)
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
        colorbar.ax.xaxis.set_major_formatter(plain_numbers())
        colorbar.ax.xaxis.set_minor_formatter(NullFormatter())
    colours = [LOOKS["ojfa"].colour if m == jump else "#BBBBBB" for m in matrix.index]
    edge = ["black" if m == jump else "none" for m in matrix.index]
    bars.barh(matrix.index.to_numpy(), of_jumps, height=0.8, color=colours, edgecolor=edge)
    bars.grid(False, axis="y")
    bars.tick_params(labelleft=False, left=False)
    if metric == "mse" and of_jumps.min() > 0 and of_jumps.max() > 10 * of_jumps.min():
        bars.set_xscale("log")
        bars.xaxis.set_major_formatter(plain_numbers())
        bars.xaxis.set_minor_formatter(NullFormatter())
        bars.set_xlim(of_jumps.min() / 2, of_jumps.max() * 1.3)
        bars.set_xlabel("score of jump m, mean over levels\n(log scale)")
    else:
        bars.xaxis.set_major_locator(MaxNLocator(4))
        bars.set_xlabel("score of jump m, mean over levels")
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
    whole_numbers(heat.xaxis, heat.yaxis)
    heat.set_ylim(-0.5, len(means) - 0.5)
    return figure


def _log_norm(means: Floats) -> Normalize:
    positive = means[means > 0]
    if not positive.size or positive.min() == positive.max():
        return Normalize(0, float(means.max()) or 1)
    return LogNorm(float(positive.min()), float(positive.max()), clip=True)


def _verdict(chosen: dict[str, Any]) -> str:
    ranking = [(entry["jump"], entry["score"]) for entry in chosen["ranking"]]
    text = f"selected: jump {ranking[0][0]}, score {ranking[0][1]:.4g}"
    if len(ranking) > 1:
        text += f"; next: jump {ranking[1][0]}, score {ranking[1][1]:.4g}"
    return text


# What jumps of different levels share, and what their ranks are spent on

_SPACES = {"shared-down": "read: columns of A", "shared-up": "written: rows of B"}


def _draw_spaces(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """How much of the spaces that jumps read and write those of two levels share."""
    table = inputs.table("analysis")
    methods = _analysed(table)
    chance = table[table["quantity"] == "by-chance"].set_index("method")["value"]
    subtitle = [
        about(table),
        "1: the same space",
        f"{' or '.join(f'{value:.2g}' for value in dict.fromkeys(chance[methods]))}: expected of random ones",
    ]
    figure = framed("Spaces that the jumps of two levels share", subtitle, 8.2, 3.5 * len(methods) + 0.2)
    axes = figure.subplots(len(methods), 2, squeeze=False, sharex=True, sharey=True)
    for row, method in zip(axes, methods, strict=True):
        for ax, (quantity, title) in zip(row, _SPACES.items(), strict=True):
            rows = table[(table["method"] == method) & (table["quantity"] == quantity)]
            matrix = rows.pivot(index="level", columns="other", values="value").to_numpy(np.float64)
            edges = np.arange(len(matrix) + 1) - 0.5
            mesh = ax.pcolormesh(edges, edges, matrix, cmap=options["colormap"], vmin=0, vmax=1)
            ax.set_title(f"{method}, {title}")
            ax.grid(False)
            ax.set_aspect("equal")
            ax.set(xlabel="level of one jump", ylabel="level of the other")
            ax.label_outer()
            whole_numbers(ax.xaxis, ax.yaxis)
    label = "squared cosine of the principal angles, mean"
    figure.colorbar(mesh, ax=axes, location="right", label=label, aspect=40, shrink=0.8)
    return figure


def _draw_ranks(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """What each further rank holds of the last level's variance, and what it is worth to the head."""
    table = inputs.table("analysis")
    methods = _analysed(table)
    subtitle = [
        about(table),
        "training samples",
        f"mean over the jumps of {table['level'].nunique()} levels, shaded: from the least to the most",
    ]
    figure = framed("What the ranks are spent on", subtitle, 9.4, 3.9)
    variance, loss = figure.subplots(1, 2)
    for method in methods:
        look = LOOKS[method]
        held, lost = (_by_rank(table, method, quantity) for quantity in ("error-share", "cross-entropy"))
        held = np.column_stack([np.zeros(len(held)), held.cumsum(1)])
        for ax, curves in ((variance, held), (loss, lost)):
            ranks = np.arange(curves.shape[1])
            ax.fill_between(ranks, curves.min(0), curves.max(0), color=look.colour, alpha=0.18, linewidth=0)
            style = {"color": look.colour, "linestyle": look.line, "marker": look.marker}
            ax.plot(ranks, curves.mean(0), label=method, markevery=max(1, len(ranks) // 8), **style)
    variance.set(ylabel="share of the last level's variance", ylim=(0, 1.03))
    loss.set(ylabel="cross-entropy to the teacher (nats)")
    for ax in (variance, loss):
        ax.set_xlabel("ranks kept, those that vary most first (0: mean only)")
        whole_numbers(ax.xaxis)
    figure.legend(*variance.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    return figure


def _analysed(table: pd.DataFrame) -> list[str]:
    return [method for method in LOOKS if (table["method"] == method).any()]


def _by_rank(table: pd.DataFrame, method: str, quantity: str) -> Floats:
    """Levels x ranks."""
    rows = table[(table["method"] == method) & (table["quantity"] == quantity)]
    return rows.pivot(index="level", columns="index", values="value").to_numpy(np.float64)


# The table of parameters


def _draw_parameters(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """Numbers kept at inference, as a table with bars."""
    table = inputs.table("parameters")
    kept = dict(zip(table["method"], table["shortcuts"].astype(int), strict=True))
    numbers = dict(zip(table["method"], table["numbers"].astype(int), strict=True))
    reduction = dict(zip(table["method"], table["reduction"].astype(float), strict=True))
    methods = [method for method in LOOKS if method in numbers]
    labels = dict(zip(methods, methods, strict=True))
    # Reductions are relative to the set that the selected jump comes from: its own is 1.
    sets = [f"{method} set" for method in ("n-njtc", "njtc") if reduction.get(method) == 1]
    the_set = sets[0] if sets else "set of jumps"
    if inputs.has("selection"):
        labels["ojfa"] = f"ojfa (from level {inputs.selection()['jump']})"
    row, head, width = 0.32, 0.5, 8.8
    height = head + row * len(methods) + 0.5
    subtitle = [about(table), f"reduction: how many times fewer numbers than the {the_set}"]
    figure = framed("Numbers kept at inference", subtitle, width, height)
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
    cells.plot([0.15, width - 0.15], [0, 0], color=QUIET, linewidth=0.8, clip_on=False)
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


_FIGURES: dict[str, Callable[[Inputs, dict[str, Any]], Figure]] = {
    "methods": _draw_methods,
    "selected": _draw_selected,
    "prediction": _draw_prediction,
    "alternatives": _draw_alternatives,
    "limit": _draw_limit,
    "pareto": _draw_pareto,
    "scores": _draw_scores,
    "parameters": _draw_parameters,
    "spaces": _draw_spaces,
    "ranks": _draw_ranks,
    **EXPERIMENTS,
}
