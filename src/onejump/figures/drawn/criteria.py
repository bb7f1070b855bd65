"""The figure "criteria": the jump that each selection criterion chooses."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from onejump.base.errors import OneJumpError
from onejump.figures.frame import about, framed, metric_label, samples_of, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.level_panels import mark_selected
from onejump.figures.looks import GREY, QUIET

_CRITERIA = {
    "signed-squared-cosine": ("#D55E00", "P", "signed squared cosine"),
    "cosine": ("#009E73", "s", "cosine"),
    "mse": ("#0072B2", "D", "mean squared error"),
    "surprisal": ("#332288", "^", "surprisal on held-out samples"),
    "oracle precision": ("#000000", "*", "oracle by precision"),
    "oracle surprisal": ("#000000", "X", "oracle by surprisal"),
}


def draw(inputs: Inputs) -> Figure:
    """Draw every jump used at all levels, and which of them each criterion chooses.

    Parameters
    ----------
    inputs : Inputs
        criteria, and selection to mark the selected jump.
    """
    table = inputs.table("criteria")
    metrics = [table["metric"].iloc[0], "surprisal"]
    subtitle = [
        about(table),
        f"{samples_of(table)}, mean over all levels",
        "an oracle chooses on these samples, the other criteria choose on training samples",
    ]
    present = _criteria_of(table)
    figure = framed("What each selection criterion chooses", subtitle, 9.4, 3.5 + 0.2 * (len(present) + 1))
    for ax, metric in zip(figure.subplots(1, 2), metrics, strict=True):
        of_metric = table[table["metric"] == metric]
        jumps = of_metric[of_metric["criterion"] == "jump"]
        ax.plot(jumps["jump"], jumps["value"], color=GREY, linewidth=1.0, marker=".", markersize=4)
        random = float(of_metric.loc[of_metric["criterion"] == "random", "value"].iloc[0])
        ax.axhline(random, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.0, zorder=1.8)
        for number, criterion in enumerate(present):
            chosen = of_metric[of_metric["criterion"] == criterion]
            # Criteria that agree lie on one point: rings around each other, oracles inside.
            size = 7 if _is_oracle(criterion) else 17 - 3.5 * number
            style = _mark(criterion) | {"markersize": size}
            ax.plot(chosen["jump"], chosen["value"], zorder=3 + number, **style)
        ax.set(
            xlabel="jump m (fitted at level m), used at all levels",
            ylabel=metric_label(metric, inputs.predicts),
        )
        whole_numbers(ax.xaxis)
        if (selected := inputs.selected()) is not None:
            mark_selected(ax, selected)
        if metric == "surprisal" and jumps["value"].max() > 4 * jumps["value"].min():
            ax.set_yscale("log")
    handles = [
        Line2D([], [], **_mark(criterion), label=_choice_of(table, criterion, _CRITERIA[criterion][2]))
        for criterion in present
    ]
    dashed = Line2D([], [], color=QUIET, linestyle=(0, (4, 2)), label=_choice_of(table, "random", "random"))
    figure.legend(handles=[*handles, dashed], loc="outside lower center", ncols=1)
    return figure


def _criteria_of(table: pd.DataFrame) -> list[str]:
    """Give what chooses a jump, in the order of the legend."""
    present = set(table["criterion"]) - {"jump", "random"}
    if unknown := sorted(present - set(_CRITERIA)):
        raise OneJumpError(
            f"criterion {unknown[0]!r} has no look in figures: give it a line in _CRITERIA of "
            "onejump.figures.drawn.criteria"
        )
    return sorted(present, key=list(_CRITERIA).index)


def _is_oracle(criterion: str) -> bool:
    return criterion.startswith("oracle")


def _mark(criterion: str) -> dict[str, Any]:
    """Give the mark of a criterion as keywords of `Axes.plot`: oracles are filled, the others open."""
    colour, marker, _ = _CRITERIA[criterion]
    inside = {"markerfacecolor": colour} if _is_oracle(criterion) else {"markerfacecolor": "none"}
    return {"linestyle": "none", "marker": marker, "color": colour, "markeredgewidth": 1.6, **inside}


def _choice_of(table: pd.DataFrame, criterion: str, name: str) -> str:
    rows = table[table["criterion"] == criterion].set_index("metric")
    jump = rows["jump"].iloc[0]
    which = "mean over all jumps" if pd.isna(jump) else f"jump {int(jump)}"
    values = [f"{metric} {rows['value'][metric]:.3f}" for metric in (rows.index[0], "surprisal")]
    return f"{name}: {which}, {', '.join(values)}"
