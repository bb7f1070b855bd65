"""The figure "alternatives": OJFA Fig. 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from onejump.figures.curves import Curve, curve_of
from onejump.figures.inputs import Inputs, measured
from onejump.figures.level_panels import level_figure
from onejump.figures.looks import ARBITRARY, ARBITRARY_PREFIX, GREY, is_arbitrary, method_label

_LINES: tuple[Any, ...] = ("--", ":", "-.", "-", (0, (8, 2)), (0, (1, 3)))
_ARBITRARY = "arbitrary jumps"
_RANDOM = f"{ARBITRARY_PREFIX}random-"
_LEVEL_AT: dict[str, Callable[[int], int]] = {
    "first": lambda levels: 0,
    "middle": lambda levels: levels // 2,
    "last": lambda levels: levels - 1,
}


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw the selected jump, the joint fit and arbitrary jumps, by exit level.

    Parameters
    ----------
    inputs : Inputs
        evaluation and selection.
    metrics : sequence of str
        A panel each.
    """
    table, chosen = inputs.table("evaluation"), inputs.selection()
    panels = {metric: _curves(table, metric, chosen) for metric in measured(inputs, table, metrics)}
    return level_figure(
        "The selected jump and its alternatives",
        table,
        panels,
        envelope=_ARBITRARY,
        mark=chosen["jump"],
        predicts=inputs.predicts,
    )


def _curves(table: pd.DataFrame, metric: str, chosen: dict[str, Any]) -> list[Curve]:
    labels = {
        "ojfa": f"{method_label('ojfa')}, fitted at level {chosen['jump']}",
        "joint": "joint (one n-njtc for all levels)",
    }
    levels = chosen["computed_from"]["levels"]
    present = list(dict.fromkeys(table["method"]))
    random = [method for method in present if method.startswith(_RANDOM)]
    others = [method for method in present if is_arbitrary(method) and method not in random]
    named = sorted(others, key=lambda method: _level(method, levels))
    curves = [curve_of(table, metric, method, label) for method, label in labels.items() if method in present]
    for i, method in enumerate(named):
        line = _LINES[i % len(_LINES)]
        style = {"color": ARBITRARY, "linewidth": 1.0, "linestyle": line, "zorder": 2.2}
        label = _label(method, levels)
        curve = curve_of(table, metric, method, label, style)
        curves.append(curve._replace(name=_ARBITRARY, errors=None))
    for i, method in enumerate(random):
        style = {"color": GREY, "linewidth": 0.6, "zorder": 2.1}
        label = f"random jumps ({len(random)})" if i == 0 else ""
        curve = curve_of(table, metric, method, label, style)
        curves.append(curve._replace(name=_ARBITRARY, errors=None))
    return curves


def _level(method: str, levels: int) -> int:
    place = method.removeprefix(ARBITRARY_PREFIX)
    return _LEVEL_AT[place](levels) if place in _LEVEL_AT else int(place)


def _label(method: str, levels: int) -> str:
    place = method.removeprefix(ARBITRARY_PREFIX)
    if place in _LEVEL_AT:
        return f"{place} jump (level {_level(method, levels)})"
    return f"jump from level {place}"
