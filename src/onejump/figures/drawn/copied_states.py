"""The figure "copied-states": what copied keys and values cost, by distance from the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from onejump.figures.frame import about, framed, plain_numbers
from onejump.figures.inputs import Inputs

# Metric, mode, label, colour, line, marker.
_SHARES = (
    ("cache", "copied", "full model on copies", "#332288", "-", "D"),
    ("agreement", "copied", "exits agree, copied", "#CC3311", (0, (5, 2)), "o"),
    ("agreement", "trusted", "exits agree, trusted", "#0077BB", (0, (3, 1)), "s"),
    ("same", "copied", "still the full model's text, copied", "#EE7733", (0, (1, 1)), "^"),
    ("same", "trusted", "still the full model's text, trusted", "#33BBEE", (0, (6, 1.5, 1, 1.5)), "v"),
)
_SURPRISAL = (
    ("surprisal", "copied", "copied", "#CC3311", (0, (5, 2)), "o"),
    ("surprisal", "trusted", "trusted", "#0077BB", (0, (3, 1)), "s"),
    ("surprisal", "none", "the full model's own", "#707070", "-", "D"),
)


def draw(inputs: Inputs) -> Figure:
    """Draw two panels for each thing that makes tokens exit: shares, and surprisal.

    Parameters
    ----------
    inputs : Inputs
        copied_states.
    """
    table = inputs.table("copied_states")
    plain = table[table["mode"] == "none"]
    conditions = [name for name in dict.fromkeys(table["exits"]) if name != "none"]
    texts = int(table["documents"].max())
    subtitle = [
        about(table),
        f"texts of {texts} document{'s' if texts > 1 else ''}",
        "shaded: ±1 standard error over texts",
        *(_said(table[table["exits"] == name], name) for name in conditions),
    ]
    width = max(7.6, 3.7 * len(conditions) + 0.6)
    figure = framed("Exits with copied keys and values", subtitle, width, 6.0)
    axes = figure.subplots(2, len(conditions), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 2])
    for (shares, surprisal), name in zip(axes.T, conditions, strict=True):
        rows = table[table["exits"] == name]
        _panel(shares, rows, _SHARES)
        _panel(surprisal, pd.concat([rows, plain]), _SURPRISAL)
        shares.set(title=f"exit at {name}" if name.startswith("level") else f"exit at {name} or more")
        shares.set_ylim(-0.02, 1.02)
        shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        surprisal.set(xlabel="distance from the prompt (tokens)")
        surprisal.set_ylim(0, None)
    axes[0, 0].set_ylabel("share of tokens")
    axes[1, 0].set_ylabel("surprisal of the text\nfor the full model (nats)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(conditions) < 3 else 3)
    axes[1, 0].legend(loc="best", fontsize=7.5)
    return figure


def _said(rows: pd.DataFrame, name: str) -> str:
    """Say how many tokens exit, and how deep they are on average."""
    whole = rows[(rows["mode"] == "copied") & rows["whole"]].set_index("metric")["value"]
    return f"{name}: {whole['exits']:.0%} of tokens exit, {whole['depth']:.0%} of the blocks are run"


def _panel(ax: Axes, rows: pd.DataFrame, curves: tuple[tuple[Any, ...], ...]) -> None:
    for metric, mode, label, colour, line, marker in curves:
        of_curve = rows[(rows["metric"] == metric) & (rows["mode"] == mode) & ~rows["whole"]].sort_values(
            "to"
        )
        if of_curve.empty:
            continue
        at = np.sqrt(of_curve["from"] * of_curve["to"]).to_numpy(np.float64)
        value, error = (of_curve[column].to_numpy(np.float64) for column in ("value", "stderr"))
        ax.plot(at, value, color=colour, linestyle=line, marker=marker, label=label)
        low, high = (value - error).clip(0), value + error
        ax.fill_between(
            at, low, high if metric == "surprisal" else high.clip(max=1), color=colour, alpha=0.15
        )
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(plain_numbers())
