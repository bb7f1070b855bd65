"""The figure "sub-words": exits by the piece of a word that is predicted, and gates that know its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from onejump.figures.frame import about, framed, samples_of
from onejump.figures.inputs import Inputs
from onejump.figures.looks import GREY, QUIET, method_label, methods_of

_KINDS = {
    "word-initial": ("#0072B2", "o"),
    "continuation": ("#D55E00", "s"),
    "other": (GREY, "D"),
    "whole word": ("#000000", "^"),
}
# A word has one part of speech, whichever of its pieces is predicted.
_ALL = {"all": ("#000000", "o")}
_GATES = {
    "drafted": ("#009E73", "P", "the drafted token's kind"),
    "current": ("#CC79A7", "X", "that of the token read last"),
    "both": ("#882255", "v", "both"),
}
# A mean of fewer samples says nothing.
_FEW = 20


def draw(inputs: Inputs) -> Figure:
    """Draw mean stable levels by kind and by group, and what gates save that know the kind.

    Parameters
    ----------
    inputs : Inputs
        levels and gates.
    """
    levels, gates = inputs.table("levels"), inputs.table("gates")
    stable = levels[(levels["exit"] == "stable") & (levels["n"] >= _FEW)]
    methods = methods_of(levels)
    target = float(gates["target"].max())
    subtitle = [
        about(levels),
        samples_of(gates),
        f"tokenizer: {levels['family'].iloc[0]}",
        f"groups of fewer than {_FEW} samples are left out",
        "bars: ±1 standard error",
    ]
    groups = {
        "position": "position in the sentence",
        "frequency": "predicted token in the training text,\nper million tokens",
        "part of speech": "part of speech of the word",
    }
    shown = {by: name for by, name in groups.items() if (stable["by"] == by).any()}
    size = 6.6 + 4.2 * len(shown), max(3.8, 0.42 * len(methods) + 1.6)
    figure = framed("Exits by pieces of words", subtitle, *size)
    by_kind, *by_group, of_gates = figure.subplots(1, 2 + len(shown))
    _rows(by_kind, stable[stable["by"].isin(["kind", "word"])], methods)
    for ax, (by, name) in zip(by_group, shown.items(), strict=True):
        of_group = stable[(stable["by"] == by) & (stable["method"] == methods[0])]
        _groups(ax, of_group, _ALL if by == "part of speech" else _KINDS)
        ax.set(xlabel=name, ylabel="mean stable level", title=f"{method_label(methods[0])}, by {by}")
    _gates(of_gates, gates[(gates["target"] == target)], methods)
    of_gates.set_title(f"at {target:.0%} agreement on these samples")
    kinds = [(kind, *look) for kind, look in _KINDS.items() if (stable["kind"] == kind).any()]
    known = [(f"gate that knows {what}", colour, marker) for colour, marker, what in _GATES.values()]
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=label)
        for label, colour, marker in (*kinds, *known)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _rows(ax: Axes, table: pd.DataFrame, methods: Sequence[str]) -> None:
    """Draw a row for each method, a mark for each kind."""
    for row, method in enumerate(methods):
        of_method = table[table["method"] == method]
        for number, (kind, (colour, marker)) in enumerate(_KINDS.items()):
            rows = of_method[of_method["kind"] == kind]
            if rows.empty:
                continue
            # Whole words of all lengths together.
            level = float((rows["level"] * rows["n"]).sum() / rows["n"].sum())
            error = float(rows["level_stderr"].iloc[0]) if len(rows) == 1 else 0.0
            _mark(ax, level, row + 0.16 * (number - 1.5), error, colour, marker)
    _name_rows(ax, methods)
    ax.set(xlabel="mean stable level", title="by kind of the predicted piece")


def _groups(ax: Axes, table: pd.DataFrame, kinds: dict[str, tuple[str, str]]) -> None:
    """Draw a line for each kind over the groups of one method."""
    names = table.drop_duplicates("order").sort_values("order").set_index("order")["group"]
    places = {order: place for place, order in enumerate(names.index)}
    for kind, (colour, marker) in kinds.items():
        rows = table[table["kind"] == kind].sort_values("order")
        at = [places[order] for order in rows["order"]]
        errors = rows["level_stderr"].fillna(0.0)
        ax.errorbar(at, rows["level"], yerr=errors, color=colour, marker=marker, markersize=4)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=7.5)


def _gates(ax: Axes, table: pd.DataFrame, methods: Sequence[str]) -> None:
    """Draw what gates save more than the plain one: a row for each method."""
    for row, method in enumerate(methods):
        of_method = table[table["method"] == method].set_index("gate")
        for number, (gate, (colour, marker, _)) in enumerate(_GATES.items()):
            one: Any = of_method.loc[gate]
            error = one["equal_difference_stderr"]
            _mark(ax, one["equal_difference"], row + 0.2 * (number - 1), error, colour, marker)
    _name_rows(ax, methods)
    ax.axvline(0, color=QUIET, linewidth=0.8, linestyle=":")
    ax.set_xlabel("blocks saved more than by the plain gate")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(PercentFormatter(1))


def _mark(ax: Axes, x: float, y: float, error: float, colour: str, marker: str) -> None:
    # With a single document there is no standard error.
    known = 0.0 if error != error else error
    ax.errorbar(x, y, xerr=known, color=colour, marker=marker, markersize=5, linestyle="none")


def _name_rows(ax: Axes, methods: Sequence[str]) -> None:
    for row in range(1, len(methods)):
        ax.axhline(row - 0.5, color=QUIET, linewidth=0.4, alpha=0.4)
    ax.set_yticks(range(len(methods)), [method_label(method) for method in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
