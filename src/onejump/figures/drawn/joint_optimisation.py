"""The figure "joint-optimisation": models before and after joint optimisation (arXiv 2412.01455)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onejump.figures.frame import about, framed, legend_size, samples_of, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.looks import QUIET

# Of Okabe and Ito. The model as it was is black, as the method identity is.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#661100")
_LINES = ("-", (0, (5, 2)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)), (0, (9, 2)), (0, (2, 2)))
_MARKERS = "oDs^vP>X"
_PANELS = {
    "probability": "probability of the most\nlikely token",
    "agreement": "share of samples with\nthe final token",
    "divergence": "Jensen-Shannon divergence\nfrom the next level (nats)",
    "accuracy": "share of texts with\ntheir own label",
}


def draw(inputs: Inputs) -> Figure:
    """Draw how levels predict, and what gates save against the price.

    Parameters
    ----------
    inputs : Inputs
        joint_optimisation and levels.
    """
    comparison, levels = inputs.table("joint_optimisation"), inputs.table("levels")
    names = list(dict.fromkeys(comparison["of"]))
    styles = {name: _style(number) for number, name in enumerate(names)}
    labels = {name: f"{name}: {how}" for name, how in zip(comparison["of"], comparison["how"], strict=True)}
    target = float(comparison["target"].iloc[0])
    rule = comparison["rule"].iloc[0]
    shown = comparison[(comparison["target"] == target) & (comparison["rule"] == rule)]
    # Of a classifier accuracy is measured too.
    token, width = ("text", 12.0) if "accuracy" in levels else ("token", 9.6)
    columns, below = legend_size(list(labels.values()), width)
    subtitle = [
        about(comparison),
        samples_of(comparison),
        f"final loss on {int(comparison['tokens'].iloc[0]):,} {token}s",
        "bars: one standard error, by documents",
        *_notes(shown, target),
    ]
    panels = {measure: label for measure, label in _PANELS.items() if measure in levels}
    figure = framed("Before and after joint optimisation", subtitle, width, 5.9 + below)
    places = figure.subplot_mosaic(
        [list(panels), ["saved", "saved", *["gate"] * (len(panels) - 2)]],
        height_ratios=[1, 1.05],
    )
    for measure, label in panels.items():
        label = label.replace("token", "label") if "accuracy" in levels else label
        _by_level(places[measure], levels, measure, label, styles)
    _price(places["saved"], shown, styles, target, token)
    _gate(places["gate"], shown, styles)
    handles = [places["probability"].lines[number] for number in range(len(names))]
    figure.legend(handles, list(labels.values()), loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _style(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def _notes(shown: pd.DataFrame, target: float) -> Iterator[str]:
    missed = list(shown.loc[~shown["reached"], "of"])
    if missed:
        yield f"no threshold reached {target:.0%} for {', '.join(missed)}: nothing exits"


def _by_level(
    ax: Axes, levels: pd.DataFrame, measure: str, label: str, styles: Mapping[str, dict[str, Any]]
) -> None:
    for name, style in styles.items():
        rows = levels[levels["of"] == name]
        ax.plot(rows["level"], rows[measure], **style, markersize=3, linewidth=1.2)
        low, high = (rows[measure] + side * rows[f"{measure}_stderr"] for side in (-1, 1))
        ax.fill_between(rows["level"], low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xlabel="level l", ylabel=label)
    ax.set_ylim(0, None)
    whole_numbers(ax.xaxis)


def _price(
    ax: Axes, shown: pd.DataFrame, styles: Mapping[str, dict[str, Any]], target: float, token: str
) -> None:
    """Draw blocks saved against the change of the final loss, of the gate and of the all-knowing one."""
    for _, row in shown.iterrows():
        style = styles[row["of"]]
        for saved, face in (("saved", style["color"]), ("oracle_saved", "white")):
            ax.errorbar(
                float(row["loss_change"]),
                float(row[saved]),
                xerr=float(row["loss_change_stderr"]),
                yerr=float(row[f"{saved}_stderr"]),
                color=style["color"],
                marker=style["marker"],
                markerfacecolor=face,
                markersize=7,
                linewidth=0.9,
                linestyle="none",
            )
    ax.axvline(0, color=QUIET, linewidth=0.8, linestyle=":", zorder=1.5)
    ax.set(
        xlabel=f"change of the final loss on validation text (nats per {token}; right of 0: a worse model)",
        ylabel="share of blocks saved",
        title=f"filled: gate for {target:.0%} agreement, a threshold for each level; open: all-knowing gate",
    )
    ax.set_ylim(0, None)


def _gate(ax: Axes, shown: pd.DataFrame, styles: Mapping[str, dict[str, Any]]) -> None:
    """How often the gate exits at the oracle's level, before it, and after it."""
    kinds = (("early", 1.0), ("on_time", 0.6), ("late", 0.2))
    places = range(len(shown))
    left = shown["early"] * 0.0
    colours = [styles[name]["color"] for name in shown["of"]]
    for name, strength in kinds:
        bars = ax.barh(places, shown[name], left=left, color=colours, edgecolor="white", alpha=strength)
        for bar, value in zip(bars, shown[name], strict=True):
            if value > 0.09:
                x = bar.get_x() + bar.get_width() / 2
                y = bar.get_y() + bar.get_height() / 2
                ink = "white" if strength == 1 else "black"
                ax.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
        left = left + shown[name]
    ax.set_yticks(list(places), list(shown["of"]), fontsize=7)
    ax.invert_yaxis()
    ax.grid(False)
    ax.set(xlim=(0, 1), xlabel="share of samples")
    ax.set_title("gate: too early | at the oracle's level | too late", fontsize=8)
