"""The figure "sub-layers": what the head reads inside of blocks, and what exits between their parts save."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from onejump.figures.frame import about, framed, samples_of, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.looks import Look

_LOOKS = {
    "level": Look("#332288", "-", "o", "behind feed-forward (the level)"),
    "middle": Look("#0077BB", (0, (3, 1)), "s", "behind attention"),
    "attention": Look("#CC3311", (0, (5, 2)), "P", "attention alone"),
    "feed-forward": Look("#117733", (0, (1, 1)), "D", "feed-forward alone"),
    "both": Look("#AA4499", (0, (6, 1.5, 1, 1.5)), "^", "attention and feed-forward together, alone"),
}
_METRICS = {
    "agreement": "agreement with the full model",
    "overlap": "overlap with the full\nmodel's likeliest {predicts}s",
    "changes": "{predicts}s that change\nfrom block to block",
}
_ROW = 0.21


def draw(inputs: Inputs) -> Figure:
    """Draw a panel for each metric, and a table of what exits save.

    Parameters
    ----------
    inputs : Inputs
        states and exits.
    """
    table, exits = inputs.table("states"), inputs.table("exits")
    states = [state for state in _LOOKS if (table["state"] == state).any()]
    gates = list(exits.groupby(["gate", "target"], sort=False, dropna=False).groups)
    below = _ROW * (len(gates) + 2) + 0.1
    notes = [note for note in dict.fromkeys(exits["note"]) if note]
    alone = "both" in states and "middle" not in states
    subtitle = [
        about(table),
        samples_of(table),
        "shaded: ±1 standard error",
        "table: blocks saved, in brackets the agreement; thresholds are from held-out training documents",
        *(["attention and feed-forward run side by side: no state between them"] if alone else []),
        *notes,
    ]
    figure = framed("What the head reads inside of the blocks", subtitle, 11.4, 3.4 + below)
    grid = figure.add_gridspec(2, 1, height_ratios=[3.4, below])
    axes = grid[0].subgridspec(1, len(_METRICS)).subplots(squeeze=False)[0]
    for ax, metric in zip(axes, _METRICS, strict=True):
        _panel(ax, table[table["metric"] == metric], states)
        ax.set_ylabel(_METRICS[metric].format(predicts=inputs.predicts))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(states))
    _saved(figure.add_subplot(grid[1]), exits)
    return figure


def _panel(ax: Axes, table: pd.DataFrame, states: list[str]) -> None:
    for state in states:
        rows = table[table["state"] == state].sort_values("block")
        if rows.empty:
            continue
        at = rows["block"].to_numpy(np.float64) - (0.5 if state == "middle" else 0.0)
        look = _LOOKS[state]
        value, error = (rows[column].to_numpy(np.float64) for column in ("value", "stderr"))
        style = look.style() | {"markevery": max(1, len(rows) // 8), "label": look.meaning}
        ax.plot(at, value, **style)
        ax.fill_between(
            at, (value - error).clip(0), (value + error).clip(max=1), color=look.colour, alpha=0.18
        )
    ax.set(xlabel="block", ylim=(-0.02, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    whole_numbers(ax.xaxis)


def _saved(ax: Axes, exits: pd.DataFrame) -> None:
    """Write a line for each gate and target, and a column for each set of places."""
    ax.axis("off")
    between = list(dict.fromkeys(exits["exits"]))
    lines = list(exits.groupby(["gate", "target"], sort=False, dropna=False))
    ax.set(xlim=(0, 1), ylim=(len(lines) + 0.5, -1))
    places = [0.5 + 0.22 * number for number in range(len(between))]
    titles = {"blocks": "exits after blocks", "half-blocks": "and behind attention"}
    for place, name in zip(places, between, strict=True):
        ax.text(place, -0.4, titles[name], ha="right", va="center", fontsize=8, fontweight="bold")
    for line, ((gate, target), rows) in enumerate(lines):
        said = f"oracle, {gate}" if rows["target"].isna().all() else f"{gate} threshold, target {target:.0%}"
        ax.text(0.14, line + 0.5, said, va="center", fontsize=8)
        for place, name in zip(places, between, strict=True):
            one = rows[rows["exits"] == name].iloc[0]
            text = f"{one['saved']:.1%} ({one['agreement']:.3f})" if one["reached"] else "not reached"
            ax.text(place, line + 0.5, text, ha="right", va="center", fontsize=8)
