"""The figure "early-exit": JTC section 5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onejump.figures.frame import about, framed, samples_of
from onejump.figures.inputs import Inputs
from onejump.figures.looks import LOOKS, QUIET, method_label, methods_of


def draw(inputs: Inputs) -> Figure:
    """Draw agreement with the full model against blocks processed, and what is saved at the targets.

    Parameters
    ----------
    inputs : Inputs
        curves and savings.
    """
    curves, savings = inputs.table("curves"), inputs.table("savings")
    curves = curves[curves["split"] == "validation"]
    rules = list(dict.fromkeys(curves["rule"]))
    targets = sorted(set(savings["target"]), reverse=True)
    methods = methods_of(curves)
    subtitle = [
        about(curves),
        samples_of(savings),
        "table: blocks saved, and in brackets the agreement on these samples, with the threshold that "
        "reaches the target on held-out training documents",
        *_notes(savings),
    ]
    low, most = min(0.8, min(targets) - 0.1), float(curves["blocks"].max())
    least = float(curves.loc[curves["agreement"] >= low, "blocks"].min())
    row = 0.21
    below = row * (len(methods) + 2) + 0.25
    width = max(6.6, 4.0 * len(rules))
    figure = framed("Early exit by confidence", subtitle, width, 3.6 + below)
    axes = figure.subplots(
        2, len(rules), squeeze=False, sharey="row", height_ratios=[3.4, below], gridspec_kw={"hspace": 0.02}
    )
    for (ax, cells), rule in zip(axes.T, rules, strict=True):
        of_rule = curves[curves["rule"] == rule]
        for method in methods:
            rows = of_rule[of_rule["method"] == method].sort_values("blocks")
            style = LOOKS[method].style() | {"marker": "", "linewidth": 1.3}
            ax.plot(rows["blocks"], rows["agreement"], **style)
        for target in targets:
            ax.axhline(target, color=QUIET, linewidth=0.8, linestyle=":", zorder=1.5)
        ax.set(
            title=f"{rule} threshold",
            xlabel="blocks processed, mean over samples",
            ylabel="agreement with the full model",
        )
        ax.set_ylim(low, 1.005)
        ax.set_xlim(least - 0.02 * most, 1.01 * most)
        if rule != rules[0]:
            ax.set_ylabel("")
        _savings_table(cells, savings[savings["rule"] == rule], methods, targets)
    return figure


def _notes(savings: pd.DataFrame) -> Iterator[str]:
    """Say what to know about the thresholds, and of which methods."""
    methods = methods_of(savings)
    for note, rows in savings[savings["note"] != ""].groupby("note", sort=False):
        concerned = methods_of(rows)
        yield f"{'all' if concerned == methods else ', '.join(map(method_label, concerned))}: {note}"


def _savings_table(ax: Axes, savings: pd.DataFrame, methods: Sequence[str], targets: Sequence[float]) -> None:
    """Write a line for each method and a column for each target."""
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(len(methods) + 1, -1))
    left = 0.42
    places = [left + (1 - left) * (i + 1) / len(targets) for i in range(len(targets))]
    for place, target in zip(places, targets, strict=True):
        ax.text(place, -0.4, f"target {target:.0%}", ha="right", va="center", fontsize=8, fontweight="bold")
    found = {(row["method"], row["target"]): row for _, row in savings.iterrows()}
    for line, method in enumerate(methods):
        look = LOOKS[method]
        style = {"color": look.colour, "linestyle": look.line, "linewidth": 1.3}
        ax.plot([0.0, 0.06], [line + 0.5] * 2, **style)
        ax.text(0.08, line + 0.5, method_label(method), va="center", fontsize=8)
        for place, target in zip(places, targets, strict=True):
            one = found[method, target]
            text = f"{one['saved']:.1%} ({one['agreement']:.3f})" if one["reached"] else "not reached"
            ax.text(place, line + 0.5, text, ha="right", va="center", fontsize=8)
