"""The figure "gates": what gates save, and how their exits lie beside the oracle's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from onejump.figures.frame import about, framed, samples_of
from onejump.figures.inputs import Inputs
from onejump.figures.looks import LOOKS, QUIET, method_label, methods_of

_OUTCOMES = {
    "wrong": ("#B2182B", "wrong: too early, another {predicts}"),
    "unsettled": ("#EF8A62", "unsettled: too early, the {predicts} changes again"),
    "exact": ("#1B7837", "exact: at the stable level"),
    "stayed": ("#A6DBA0", "stayed: no such level, no exit"),
    "late": ("#92C5DE", "late: after the stable level"),
    "missed": ("#2166AC", "missed: no exit, though there is such a level"),
}
_RULES = {"fixed": "one threshold", "per-level": "a threshold for each level"}


def draw(inputs: Inputs) -> Figure:
    """Draw a column for each kind of gate: curves of agreement, and shares of the outcomes.

    Parameters
    ----------
    inputs : Inputs
        curves and outcomes.
    """
    curves, outcomes = inputs.table("curves"), inputs.table("outcomes")
    gates, rules = (list(dict.fromkeys(curves[column])) for column in ("gate", "rule"))
    methods = methods_of(curves)
    guarantees = sorted(set(outcomes["guarantee"].dropna()))
    target = float(outcomes["target"].max())
    low = min(0.8, float(outcomes["target"].min()) - 0.1)
    subtitle = [
        about(curves),
        samples_of(outcomes),
        "stars: what an all-knowing gate would save (exits at the stable level); dashes: exits drawn by lot",
        "circles: thresholds chosen on held-out training documents"
        + (f"; squares: those that hold with probability {guarantees[0]:g}" if guarantees else ""),
        f"bars: exits with the thresholds for {target:.0%} agreement, chosen on held-out training documents"
        + (f"; upper bar {_RULES[rules[0]]}, lower bar {_RULES[rules[1]]}" if len(rules) > 1 else ""),
        *_notes(outcomes),
    ]
    bars = 0.2 * len(methods) * len(rules) + 0.6
    width = max(7.0, 3.3 * len(gates) + 1.0)
    figure = framed("Gates beside the oracle", subtitle, width, 2.7 * len(rules) + bars + 1.1)
    axes = figure.subplots(
        len(rules) + 1, len(gates), squeeze=False, height_ratios=[2.7] * len(rules) + [bars + 0.3]
    )
    for gate, column in zip(gates, axes.T, strict=True):
        for rule, ax in zip(rules, column, strict=False):
            swept, chosen = (
                table[(table["gate"] == gate) & (table["rule"] == rule)] for table in (curves, outcomes)
            )
            _curves(ax, swept, chosen, methods, low)
            ax.set_title(f"{gate}, {_RULES.get(rule, rule)}")
            if gate != gates[0]:
                ax.tick_params(labelleft=False)
                ax.set_ylabel("")
        plain = outcomes[outcomes["guarantee"].isna()]
        of_gate = plain[(plain["gate"] == gate) & (plain["target"] == target)]
        _bars(column[-1], of_gate, methods, rules)
        column[-1].set_xlabel(f"share of {inputs.samples}")
        if gate != gates[0]:
            column[-1].tick_params(labelleft=False)
    lines = [Line2D([], [], label=method_label(method), **_line(method)) for method in methods]
    patches = [
        Patch(color=colour, label=label.format(predicts=inputs.predicts))
        for colour, label in _OUTCOMES.values()
    ]
    figure.legend(handles=[*lines, *patches], loc="outside lower center", ncols=max(2, int(width / 3.2)))
    return figure


def _notes(outcomes: pd.DataFrame) -> list[str]:
    """Say what to know about the thresholds, and of which methods and gates."""
    methods, gates = methods_of(outcomes), set(outcomes["gate"])
    said = []
    for note, rows in outcomes[outcomes["note"] != ""].groupby("note", sort=False):
        concerned = methods_of(rows)
        named = "all" if concerned == methods else ", ".join(map(method_label, concerned))
        if set(rows["gate"]) != gates:
            named += f" by {', '.join(dict.fromkeys(rows['gate']))}"
        said.append(f"{named}: {note}")
    return said


def _line(method: str) -> dict[str, Any]:
    return LOOKS[method].style() | {"marker": "", "linewidth": 1.3}


def _curves(
    ax: Axes, curves: pd.DataFrame, outcomes: pd.DataFrame, methods: Sequence[str], low: float
) -> None:
    """Draw agreement by blocks saved, a star where the oracle is, and what exits drawn by lot give."""
    most = 0.0
    for method in methods:
        rows = curves[curves["method"] == method].sort_values("saved")
        if rows.empty:  # a method that has no such gate
            continue
        ax.plot(rows["saved"], rows["agreement"], **_line(method))
        possible = float(outcomes.loc[outcomes["method"] == method, "possible"].iloc[0])
        ax.plot(possible, 1.0, marker="*", markersize=9, color=LOOKS[method].colour, clip_on=False, zorder=4)
        for chosen, marker in ((outcomes["guarantee"].isna(), "o"), (outcomes["guarantee"].notna(), "s")):
            those = outcomes[chosen & outcomes["reached"] & (outcomes["method"] == method)]
            ax.plot(
                *(those["saved"], those["agreement"]),
                color=LOOKS[method].colour,
                marker=marker,
                linestyle="",
                markersize=5,
                markerfacecolor="white",
                zorder=3.5,
            )
        shown = rows.loc[rows["agreement"] >= low, "saved"]
        most = max(most, possible, float(shown.max()) if len(shown) else 0.0)
    for target in set(outcomes["target"]):
        ax.axhline(target, color=QUIET, linewidth=0.8, linestyle=":", zorder=1.5)
    # Exits from level 0, drawn by lot, with tokens that are never the full model's. They take no knowledge.
    ax.plot([0, 1], [1, 0], color=QUIET, linewidth=0.8, linestyle="--", zorder=1.5)
    ax.set(xlim=(-0.01 * most, 1.04 * most or 1.0), ylim=(low, 1.005))
    ax.set(xlabel="blocks saved", ylabel="agreement with the full model")
    ax.xaxis.set_major_formatter(PercentFormatter(1))


def _bars(ax: Axes, outcomes: pd.DataFrame, methods: Sequence[str], rules: Sequence[str]) -> None:
    """Draw the shares of the outcomes: a bar for each method and rule."""
    thick = 0.8 / len(rules)
    for row, method in enumerate(methods):
        for number, rule in enumerate(rules):
            y = row + thick * (number - (len(rules) - 1) / 2)
            # A method without coordinates has no learned gate.
            for _, one in outcomes[(outcomes["method"] == method) & (outcomes["rule"] == rule)].iterrows():
                left = 0.0
                for name, (colour, _) in _OUTCOMES.items():
                    ax.barh(y, one[name], thick * 0.92, left=left, color=colour)
                    left += one[name]
    ax.set_yticks(range(len(methods)), [method_label(method) for method in methods])
    ax.set(ylim=(len(methods) - 0.5, -0.5), xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
