"""The figure "translation": BLEU and chrF of texts whose tokens exit, all at one level or by gates."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from onejump.figures.frame import about, framed, legend_size, whole_numbers
from onejump.figures.inputs import Inputs, labels_of
from onejump.figures.looks import LOOKS, QUIET

_SCORES = {"bleu": "BLEU", "chrf": "chrF"}
_MODES = {"trusted": "-", "copied": ":"}


def draw(inputs: Inputs) -> Figure:
    """Draw a line over the levels for each method, in a panel for each score, and exits by gates in a third.

    Parameters
    ----------
    inputs : Inputs
        translation, translation_gates, and the selection.
    """
    table, gates = inputs.table("translation"), inputs.table("translation_gates")
    full = table[table["method"] == "full"].iloc[0]
    exits = table[table["method"] != "full"]
    labels, width = labels_of(inputs, exits), 8.0 if gates.empty else 11.0
    columns, below = legend_size(list(labels.values()), width)
    figure = framed(
        "Texts whose tokens exit",
        [about(table), f"{full['n']:,} validation texts, written greedily; dotted: the full model"],
        width,
        3.4 + below,
    )
    axes = figure.subplots(1, len(_SCORES) + (not gates.empty))
    for ax, (score, name) in zip(axes, _SCORES.items(), strict=False):
        for method, label in labels.items():
            rows = exits[exits["method"] == method].sort_values("level")
            ax.plot(rows["level"], rows[score], **LOOKS[method].style() | {"label": label})
        ax.axhline(full[score], color=QUIET, linestyle=":")
        ax.set(xlabel="level l", ylabel=name, title="all tokens exit at level l")
        ax.set_ylim(bottom=0)
        whole_numbers(ax.xaxis)
    if not gates.empty:
        _draw_gates(axes[-1], gates, labels, full)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


def _draw_gates(ax: Axes, gates: DataFrame, labels: dict[str, str], full: Any) -> None:
    """BLEU by the level that tokens exit at, mean: a line for each method and mode, a point for each gate."""
    for method in labels:
        for mode, line in _MODES.items():
            rows = gates[(gates["method"] == method) & (gates["mode"] == mode)].sort_values("level")
            ax.plot(rows["level"], rows["bleu"], **LOOKS[method].style() | {"linestyle": line})
    ax.axhline(full["bleu"], color=QUIET, linestyle=":")
    ax.set(xlabel="level of the exits, mean", ylabel="BLEU", title="by gates: solid trusted, dotted copied")
    ax.set_ylim(0, 1.08 * max(gates["bleu"].max(), full["bleu"]) or 1.0)
