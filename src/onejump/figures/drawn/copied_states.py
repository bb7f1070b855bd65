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
from onejump.figures.looks import QUIET, method_label, methods_of

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
_PREFIX, _TARGET = "level ", "agreement "


def draw(inputs: Inputs) -> Figure:
    """Draw a column for each method, and two rows for each thing that makes tokens exit: shares, surprisal.

    Parameters
    ----------
    inputs : Inputs
        copied_states.
    """
    table = inputs.table("copied_states")
    plain, exiting = table[table["mode"] == "none"], table[table["mode"] != "none"]
    methods, conditions = methods_of(exiting), list(dict.fromkeys(exiting["exits"]))
    texts = int(table["documents"].max())
    subtitle = [
        about(table),
        f"texts of {texts} document{'s' if texts > 1 else ''}",
        "shaded: ±1 standard error over texts",
    ]
    width, height = max(7.6, 3.4 * len(methods) + 0.8), 4.7 * len(conditions) + 1.6
    figure = framed("Exits with copied keys and values", subtitle, width, height)
    axes = figure.subplots(
        2 * len(conditions),
        len(methods),
        sharex=True,
        sharey="row",
        squeeze=False,
        height_ratios=[3, 2] * len(conditions),
    )
    for row, name in enumerate(conditions):
        for shares, surprisal, method in zip(axes[2 * row], axes[2 * row + 1], methods, strict=True):
            rows = exiting[(exiting["exits"] == name) & (exiting["method"] == method)]
            _panel(shares, rows, _SHARES)
            _panel(surprisal, pd.concat([rows, plain]), _SURPRISAL)
            shares.set_title(f"{method_label(method)}, {_condition(name)}\n{_said(rows)}", fontsize=9)
            shares.set_ylim(-0.02, 1.02)
            shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            if name.startswith(_TARGET):
                target = float(name.removeprefix(_TARGET).rstrip("%")) / 100
                shares.axhline(target, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            surprisal.set_ylim(0, None)
        axes[2 * row, 0].set_ylabel("share of tokens")
        axes[2 * row + 1, 0].set_ylabel("surprisal of the text\nfor the full model (nats)")
    for ax in axes[-1]:
        ax.set(xlabel="distance from the prompt (tokens)")
    # Where nothing exits, nothing agrees: the legend names the curves of all panels.
    handles = {
        label: handle
        for ax in axes[::2].flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    ordered = [label for _, _, label, *_ in _SHARES if label in handles]
    figure.legend(
        [handles[label] for label in ordered],
        ordered,
        loc="outside lower center",
        ncols=2 if len(methods) < 3 else 3,
    )
    axes[1, 0].legend(loc="best", fontsize=7.5)
    return figure


def _condition(name: str) -> str:
    """Say where tokens exit."""
    if name.startswith(_PREFIX):
        return f"exit at {name}"
    if name.startswith(_TARGET):
        return f"gate for {name.removeprefix(_TARGET)} {_TARGET.strip()}"
    return f"exit at {name} or more"


def _said(rows: pd.DataFrame) -> str:
    """Say how many tokens exit, and how deep they are on average; or why none does."""
    if note := rows["note"].iloc[0]:
        return f"no exits: {note.split(':')[0]}"
    whole = rows[(rows["mode"] == "copied") & rows["whole"]].set_index("metric")["value"]
    return f"{whole['exits']:.0%} of tokens exit, {whole['depth']:.0%} of the blocks are run"


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
