"""The figure "transfer": a corpus' shortcuts on the other corpora."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from onejump.figures.curves import Curve, curve_of
from onejump.figures.frame import about, framed, legend_size, samples_of
from onejump.figures.inputs import Inputs, measured
from onejump.figures.level_panels import mark_selected, panel
from onejump.figures.looks import LOOKS, method_label, methods_of


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw a corpus' shortcuts on every corpus, beside the shortcuts that were fitted there.

    Parameters
    ----------
    inputs : Inputs
        transfer.
    metrics : sequence of str
        A row of panels each.
    """
    table = inputs.table("transfer")
    corpus = table["corpus"].iloc[0]
    targets = list(dict.fromkeys(table["target"]))
    shown = measured(inputs, table, metrics)
    methods = methods_of(table)
    at_home = table[(table["target"] == corpus) & (table["fitted_on"] == corpus)]
    selected = int(at_home["jump"].iloc[0])
    subtitle = [
        about(table),
        f"lines with marks: shortcuts fitted to {corpus}",
        "thin lines: shortcuts fitted to the panel's corpus",
        f"dotted: level {selected}, that of the jump selected on {corpus}",
    ]
    handles = {method_label(method): _handle(method) for method in methods}
    width = max(6.6, 3.4 * len(targets))
    columns, below = legend_size(list(handles), width)
    figure = framed("Shortcuts on other corpora", subtitle, width, 3.5 * len(shown) + 0.4 + below)
    axes = figure.subplots(len(shown), len(targets), squeeze=False, sharex=True)
    for row, metric in zip(axes, shown, strict=True):
        for ax, target in zip(row, targets, strict=True):
            there = table[table["target"] == target]
            curves = [
                curve_of(there[there["fitted_on"] == corpus], metric, method, method) for method in methods
            ]
            own = [
                _thin(curve_of(there[there["fitted_on"] == target], metric, method, ""))
                for method in methods
                if target != corpus
            ]
            panel(ax, metric, [*curves, *own], predicts=inputs.predicts)
            mark_selected(ax, selected, curves, label=False)
            ax.set_title(
                f"on {target}{', where they were fitted' if target == corpus else ''}\n"
                f"{samples_of(there, '')}\n{_choice(there, corpus, target)}"
            )
            ax.label_outer()
        # Each panel has chosen limits for its own curves: one scale that holds all of them.
        limits = np.array([ax.get_ylim() for ax in row])
        for ax in row:
            ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return figure


def _thin(curve: Curve) -> Curve:
    style = {**curve.style, "linewidth": 0.8, "marker": "", "alpha": 0.8}
    return curve._replace(errors=None, style=style)


def _choice(there: pd.DataFrame, corpus: str, target: str) -> str:
    """Say which jump the target's training samples select: of the corpus' jumps, and of its own."""
    chosen = there.drop_duplicates("fitted_on").set_index("fitted_on")["jump"]
    if target == corpus:
        return f"{target} selects jump {chosen[corpus]}"
    return f"{target} selects jump {chosen[corpus]};\nof its own, jump {chosen[target]}"


def _handle(method: str) -> Line2D:
    look = LOOKS[method]
    return Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker)
