"""The figure "pareto": precision by numbers kept at inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter, NullLocator
from matplotlib.transforms import Bbox

from onejump.figures.curves import curve_of
from onejump.figures.frame import Floats, about, framed, samples_of
from onejump.figures.inputs import Inputs, labels_of, measured
from onejump.figures.looks import GREY, LOOKS


class _Point(NamedTuple):
    """A method as a point."""

    label: str
    numbers: int
    """Numbers kept at inference, summed over its shortcuts."""
    value: float
    single: bool
    """Whether one shortcut serves all levels."""


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw each method's precision, mean over levels, by the numbers that it keeps at inference.

    Parameters
    ----------
    inputs : Inputs
        evaluation and parameters, and selection to name the level of the selected jump.
    metrics : sequence of str
        Precisions, a panel each.
    """
    table, counts = inputs.table("evaluation"), inputs.table("parameters")
    kept = dict(zip(counts["method"], counts["shortcuts"].astype(int), strict=True))
    numbers = dict(zip(counts["method"], counts["numbers"].astype(int), strict=True))
    labels = {method: label for method, label in labels_of(inputs, table).items() if method in numbers}
    panels: dict[str, dict[str, _Point]] = {}
    for metric in measured(inputs, table, metrics):
        panels[metric] = {}
        for method, label in labels.items():
            values = curve_of(table, metric, method, label).values
            known = values[np.isfinite(values)]
            if known.size:
                panels[metric][method] = _Point(
                    label, numbers[method], float(known.mean()), kept[method] == 1
                )
    subtitle = [
        about(table),
        f"mean over levels {table['level'].min()} to {table['level'].max()}",
        samples_of(table),
        "filled mark: one shortcut for all levels; open mark: one for each level",
        "grey line: the best that this many numbers, or fewer, reach",
    ]
    source = inputs.selection()["computed_from"]["method"] if inputs.has("selection") else "low-rank"
    handles = [
        _mark(method, single=kept[method] == 1, label=f"{label}: {LOOKS[method].meaning.format(source)}")
        for method, label in labels.items()
    ]
    width = 8.6 * len(panels)
    title = "How well each kind predicts, for the numbers it keeps"
    figure = framed(title, subtitle, width, 4.4 + 0.19 * len(handles))
    figure.legend(handles=handles, loc="outside lower left", handlelength=1.2, labelspacing=0.4)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (metric, kinds) in zip(axes, panels.items(), strict=True):
        _axes(ax, kinds)
        ax.set_ylabel(_agreement(metric, inputs.predicts))
    figure.draw_without_rendering()  # gives the axes their places, by which names find theirs
    for ax, kinds in zip(axes, panels.values(), strict=True):
        _points(ax, kinds)
    return figure


def _agreement(metric: str, predicts: str) -> str:
    """Say in words what a precision measures."""
    k = metric.removeprefix("precision@")
    those = "the full model's own" if k == "1" else f"among the full model's {k} likeliest"
    return f"how often its {predicts} is {those} ({metric})"


def _place_of_zero(kinds: Mapping[str, _Point]) -> float:
    """Give the place of methods that keep no numbers: a log axis has no 0."""
    return min([kind.numbers for kind in kinds.values() if kind.numbers], default=1) / 8


def _axes(ax: Axes, kinds: Mapping[str, _Point]) -> None:
    """Set a log axis of numbers, with a break before the place of 0, and an axis of values."""
    numbers = [kind.numbers for kind in kinds.values()]
    zero, most = _place_of_zero(kinds), max([1, *numbers])
    powers = 10.0 ** np.arange(np.floor(np.log10(4 * zero)), np.ceil(np.log10(2 * most)) + 1)
    ticks = _between(4 * zero, 2 * most, powers)
    if len(ticks) < 3:
        ticks = _between(4 * zero, 2 * most, np.outer(powers, (1, 2, 5)).ravel())
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
    ax.set_xlabel("numbers kept in memory, all levels together (log scale)")
    ax.set_ylim(0, 1.08 * max([kind.value for kind in kinds.values()], default=0) or 1)


def _between(least: float, most: float, ticks: Floats) -> list[float]:
    return [float(tick) for tick in ticks if least <= tick < most]


def _points(ax: Axes, kinds: Mapping[str, _Point]) -> None:
    """Draw the points with their names, and a line of stairs through the best ones."""
    zero, right = _place_of_zero(kinds), ax.get_xlim()[1]
    places = {method: (kind.numbers or zero, kind.value) for method, kind in kinds.items()}
    front = np.array([places[method] for method in _front(kinds)]).reshape(-1, 2)
    stairs = np.column_stack([np.append(front[:, 0], right).repeat(2)[1:-1], front[:, 1].repeat(2)])
    ax.plot(*stairs.T, color=GREY, linewidth=1.4, zorder=1.8)
    ax.fill_between(*stairs.T, color=GREY, alpha=0.08, linewidth=0, zorder=0.5)
    for method, place in places.items():
        point = _mark(method, single=kinds[method].single)
        point.set_data([place[0]], [place[1]])
        ax.add_line(point)
    _name_points(ax, {kinds[method].label: place for method, place in places.items()}, stairs)


def _mark(method: str, *, single: bool, label: str = "") -> Line2D:
    """Make the mark of a method, filled if one shortcut serves all levels."""
    look = LOOKS[method]
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=look.marker,
        markersize=8,
        markeredgewidth=1.6,
        color=look.colour,
        markerfacecolor=look.colour if single else "white",
        label=label,
    )


def _front(kinds: Mapping[str, _Point]) -> list[str]:
    """Give the methods that are better than all others with as few numbers, by numbers."""
    front: list[str] = []
    for method in sorted(kinds, key=lambda method: (kinds[method].numbers, -kinds[method].value)):
        if not front or kinds[method].value > kinds[front[-1]].value:
            front.append(method)
    return front


# Places of a name beside its point, the best first: the shift in points of print, and which side of the name
# is there. The far ones get a line to the point.
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
    """Write a name beside each point, where it covers least of the points, other names and a line (n, 2)."""
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
    """Give the area of other boxes that a box covers; its area outside the axes counts ten times."""
    free = Bbox.intersection(box, inside)
    outside = box.width * box.height - (0 if free is None else free.width * free.height)
    both = [Bbox.intersection(box, other) for other in taken]
    return float(10 * outside + sum(part.width * part.height for part in both if part is not None))
