"""The figure "ranks": what each further rank of a jump is worth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from onejump.figures.frame import Floats, about, framed, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.looks import LOOKS, methods_of


def draw(inputs: Inputs) -> Figure:
    """Draw what each further rank holds of the last level's variance, and what it is worth to the head.

    Parameters
    ----------
    inputs : Inputs
        analysis.
    """
    table = inputs.table("analysis")
    methods = methods_of(table)
    subtitle = [
        about(table),
        "training samples",
        f"line: mean over the jumps of {table['level'].nunique()} levels",
        "shaded: from the lowest jump to the highest",
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
            every = max(1, len(ranks) // 8)
            ax.plot(ranks, curves.mean(0), label=method, markevery=every, **look.style())
    variance.set(ylabel="share of the last level's variance", ylim=(0, 1.03))
    loss.set(ylabel="cross-entropy with the full\nmodel's prediction (nats)")
    for ax in (variance, loss):
        ax.set_xlabel("directions kept, those of most variance first (0: the mean only)")
        whole_numbers(ax.xaxis)
    figure.legend(*variance.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    return figure


def _by_rank(table: pd.DataFrame, method: str, quantity: str) -> Floats:
    """Give a quantity, levels x ranks."""
    rows = table[(table["method"] == method) & (table["quantity"] == quantity)]
    return rows.pivot(index="level", columns="index", values="value").to_numpy(np.float64)
