"""The figure "scores": the matrix of mean scores, jump x level."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullFormatter

from onejump.figures.frame import Floats, about, framed, plain_numbers, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.looks import LOOKS

_SCORE_LABELS = {
    "signed-squared-cosine": "signed squared cosine sgn(C) C², mean over samples",
    "cosine": "cosine C, mean over samples",
    "mse": "mean squared error (less is better)",
}


def draw(inputs: Inputs, *, colormap: str) -> Figure:
    """Draw the matrix of mean scores, jump x level, and beside it the score of each jump.

    Parameters
    ----------
    inputs : Inputs
        scores and selection.
    colormap : str
        A colour map of matplotlib.
    """
    colours = matplotlib.colormaps[colormap]
    chosen = inputs.selection()
    table, metric, jump = inputs.table("scores"), chosen["computed_from"]["metric"], chosen["jump"]
    table = table[table["metric"] == metric]
    samples = int(table["n"].iloc[0])
    matrix = table.pivot(index="jump", columns="level", values="score")
    means, levels = matrix.to_numpy(np.float64), len(matrix.columns)
    of_jumps = means.mean(1)
    subtitle = [about(table), f"{samples:,} training samples", _verdict(chosen)]
    figure = framed("Every jump on every level", subtitle, 8.6, 5.6)
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[5, 2])
    norm: Normalize
    if metric == "mse":
        # Less is better: reversed, so that the same end of the colours is the good one for all metrics.
        norm, colours = _log_norm(means), colours.reversed()
    else:
        norm = Normalize(means.min(), means.max())
    edges = np.arange(levels + 1) - 0.5
    mesh = heat.pcolormesh(edges, np.arange(len(means) + 1) - 0.5, means, cmap=colours, norm=norm)
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
    fills = [LOOKS["ojfa"].colour if m == jump else "#BBBBBB" for m in matrix.index]
    edges_of = ["black" if m == jump else "none" for m in matrix.index]
    bars.barh(matrix.index.to_numpy(), of_jumps, height=0.8, color=fills, edgecolor=edges_of)
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
    text = f"selected: jump {ranking[0][0]}, score {ranking[0][1]:#.4g}"
    if len(ranking) > 1:
        text += f"; next: jump {ranking[1][0]}, score {ranking[1][1]:#.4g}"
    return text
