"""The figure "spaces": how much of the spaces that jumps read and write those of two levels share."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from onejump.figures.frame import about, framed, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.level_maps import point_at_level
from onejump.figures.looks import methods_of

_SPACES = {"shared-down": "spaces read (columns of A)", "shared-up": "spaces written (rows of B)"}


def draw(inputs: Inputs, *, colormap: str) -> Figure:
    """Draw a level x level matrix for each method and side of its jumps.

    Parameters
    ----------
    inputs : Inputs
        analysis, and selection to mark the selected jump.
    colormap : str
        A colour map of matplotlib.
    """
    table = inputs.table("analysis")
    methods = methods_of(table)
    selected = _selected(inputs)
    chance = table[table["quantity"] == "by-chance"].set_index("method")["value"]
    subtitle = [
        about(table),
        "1: the same space",
        f"{' or '.join(f'{value:.2g}' for value in dict.fromkeys(chance[methods]))}: mean of random spaces",
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
            mesh = ax.pcolormesh(edges, edges, matrix, cmap=colormap, vmin=0, vmax=1)
            ax.set_title(f"{method}: {title}", pad=12)
            ax.grid(False)
            ax.set_aspect("equal")
            ax.set(xlabel="level of one jump", ylabel="level of the other jump")
            ax.label_outer()
            whole_numbers(ax.xaxis, ax.yaxis)
            if selected and method == selected[0]:
                point_at_level(ax, selected[1], both=True)
    label = "mean squared cosine of the principal angles"
    figure.colorbar(mesh, ax=axes, location="right", label=label, aspect=40, shrink=0.8)
    return figure


def _selected(inputs: Inputs) -> tuple[str, int] | None:
    """Give the kind and the level of the selected jump, if the selection was given."""
    if not inputs.has("selection"):
        return None
    content = inputs.selection()
    return content["computed_from"]["method"], content["jump"]
