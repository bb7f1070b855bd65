"""Figures of the jumps themselves: their scores, what they share, what their ranks are spent on."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullFormatter

from onejump.figures.parts import LOOKS, Floats, Inputs, about, framed, plain_numbers, whole_numbers

_SCORE_LABELS = {
    "signed-squared-cosine": "signed squared cosine sgn(C) C², mean over samples",
    "cosine": "cosine C, mean over samples",
    "mse": "mean squared error (less is better)",
}


# The score matrix


def draw_scores(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """The jump x level matrix of mean scores, and beside it the score of each jump, mean over levels."""
    colormap = matplotlib.colormaps[options["colormap"]]
    chosen = inputs.selection()
    table, metric, jump = inputs.table("scores"), chosen["computed_from"]["metric"], chosen["jump"]
    table = table[table["metric"] == metric]
    samples = int(table["n"].iloc[0])
    matrix = table.pivot(index="jump", columns="level", values="score")
    means, levels = matrix.to_numpy(np.float64), len(matrix.columns)
    of_jumps = means.mean(1)
    subtitle = [about(table), f"n = {samples:,} training samples", _verdict(chosen)]
    figure = framed("Every jump on every level", subtitle, 8.6, 5.6)
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[5, 2])
    norm: Normalize
    if metric == "mse":
        # Less is better: reversed, so that the same end of the colours is the good one for all metrics.
        norm, colormap = _log_norm(means), colormap.reversed()
    else:
        norm = Normalize(means.min(), means.max())
    edges = np.arange(levels + 1) - 0.5
    mesh = heat.pcolormesh(edges, np.arange(len(means) + 1) - 0.5, means, cmap=colormap, norm=norm)
    heat.grid(False)
    heat.set(xlabel="exit level l", ylabel="jump m (fitted at level m)")
    gap = 0.004 * len(means)  # the outline lies around the row, however thin
    heat.add_patch(
        Rectangle(
            (-0.5, jump - 0.5 - gap),
            levels,
            1 + 2 * gap,
            fill=False,
            edgecolor=LOOKS["ojfa"].colour,
            linewidth=1.6,
            path_effects=[withStroke(linewidth=3.0, foreground="white")],
            clip_on=False,
            zorder=3,
        )
    )
    colorbar = figure.colorbar(
        mesh, ax=heat, location="bottom", label=_SCORE_LABELS.get(metric, metric), aspect=40, pad=0.02
    )
    if isinstance(norm, LogNorm):
        colorbar.ax.xaxis.set_major_formatter(plain_numbers())
        colorbar.ax.xaxis.set_minor_formatter(NullFormatter())
    colours = [LOOKS["ojfa"].colour if m == jump else "#BBBBBB" for m in matrix.index]
    edge = ["black" if m == jump else "none" for m in matrix.index]
    bars.barh(matrix.index.to_numpy(), of_jumps, height=0.8, color=colours, edgecolor=edge)
    bars.grid(False, axis="y")
    bars.tick_params(labelleft=False, left=False)
    if metric == "mse" and of_jumps.min() > 0 and of_jumps.max() > 10 * of_jumps.min():
        bars.set_xscale("log")
        bars.xaxis.set_major_formatter(plain_numbers())
        bars.xaxis.set_minor_formatter(NullFormatter())
        bars.set_xlim(of_jumps.min() / 2, of_jumps.max() * 1.3)
        bars.set_xlabel("score of jump m, mean over levels\n(log scale)")
    else:
        bars.xaxis.set_major_locator(MaxNLocator(4))
        bars.set_xlabel("score of jump m, mean over levels")
    bars.annotate(
        f"◀ jump {jump}",
        (1, jump),
        xytext=(2, 0),
        xycoords=bars.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        color=LOOKS["ojfa"].colour,
        fontweight="bold",
    )
    whole_numbers(heat.xaxis, heat.yaxis)
    heat.set_ylim(-0.5, len(means) - 0.5)
    return figure


def _log_norm(means: Floats) -> Normalize:
    positive = means[means > 0]
    if not positive.size or positive.min() == positive.max():
        return Normalize(0, float(means.max()) or 1)
    return LogNorm(float(positive.min()), float(positive.max()), clip=True)


def _verdict(chosen: dict[str, Any]) -> str:
    ranking = [(entry["jump"], entry["score"]) for entry in chosen["ranking"]]
    text = f"selected: jump {ranking[0][0]}, score {ranking[0][1]:.4g}"
    if len(ranking) > 1:
        text += f"; next: jump {ranking[1][0]}, score {ranking[1][1]:.4g}"
    return text


# What jumps of different levels share, and what their ranks are spent on

_SPACES = {"shared-down": "read: columns of A", "shared-up": "written: rows of B"}


def draw_spaces(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """How much of the spaces that jumps read and write those of two levels share."""
    table = inputs.table("analysis")
    methods = _analysed(table)
    selected = _selected(inputs)
    chance = table[table["quantity"] == "by-chance"].set_index("method")["value"]
    subtitle = [
        about(table),
        "1: the same space",
        f"{' or '.join(f'{value:.2g}' for value in dict.fromkeys(chance[methods]))}: expected of random ones",
    ]
    if selected:
        subtitle.append(f"triangles: the selected jump, level {selected[1]} of {selected[0]}")
    figure = framed("Spaces that the jumps of two levels share", subtitle, 8.2, 3.5 * len(methods) + 0.2)
    axes = figure.subplots(len(methods), 2, squeeze=False, sharex=True, sharey=True)
    for row, method in zip(axes, methods, strict=True):
        for ax, (quantity, title) in zip(row, _SPACES.items(), strict=True):
            rows = table[(table["method"] == method) & (table["quantity"] == quantity)]
            matrix = rows.pivot(index="level", columns="other", values="value").to_numpy(np.float64)
            edges = np.arange(len(matrix) + 1) - 0.5
            mesh = ax.pcolormesh(edges, edges, matrix, cmap=options["colormap"], vmin=0, vmax=1)
            ax.set_title(f"{method}, {title}", pad=12)
            ax.grid(False)
            ax.set_aspect("equal")
            ax.set(xlabel="level of a jump", ylabel="level of the other jump")
            ax.label_outer()
            whole_numbers(ax.xaxis, ax.yaxis)
            if selected and method == selected[0]:
                point_at_level(ax, selected[1], both=True)
    label = "squared cosine of the principal angles, mean"
    figure.colorbar(mesh, ax=axes, location="right", label=label, aspect=40, shrink=0.8)
    return figure


def _selected(inputs: Inputs) -> tuple[str, int] | None:
    """The kind and the level of the selected jump, if the selection was given."""
    if not inputs.has("selection"):
        return None
    content = inputs.selection()
    return content["computed_from"]["method"], content["jump"]


def point_at_level(ax: Axes, level: int, *, both: bool = False) -> None:
    """A triangle above a level of a heat map and, if the map is of levels twice, one beside it."""
    style: dict[str, Any] = {"color": LOOKS["ojfa"].colour, "markersize": 7, "clip_on": False}
    ax.plot(level, 1.02, marker="v", transform=ax.get_xaxis_transform(), **style)
    if both:
        ax.plot(1.02, level, marker="<", transform=ax.get_yaxis_transform(), **style)


def draw_ranks(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """What each further rank holds of the last level's variance, and what it is worth to the head."""
    table = inputs.table("analysis")
    methods = _analysed(table)
    subtitle = [
        about(table),
        "training samples",
        f"mean over the jumps of {table['level'].nunique()} levels, shaded: from the least to the most",
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
    loss.set(ylabel="cross-entropy to the teacher (nats)")
    for ax in (variance, loss):
        ax.set_xlabel("ranks kept, those that vary most first (0: mean only)")
        whole_numbers(ax.xaxis)
    figure.legend(*variance.get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    return figure


def _analysed(table: pd.DataFrame) -> list[str]:
    return [method for method in LOOKS if (table["method"] == method).any()]


def _by_rank(table: pd.DataFrame, method: str, quantity: str) -> Floats:
    """Levels x ranks."""
    rows = table[(table["method"] == method) & (table["quantity"] == quantity)]
    return rows.pivot(index="level", columns="index", values="value").to_numpy(np.float64)
