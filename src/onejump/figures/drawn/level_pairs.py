"""The figure "level-pairs": JTC Fig. 2, N-NJTC Fig. 2."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from onejump.figures.frame import about, framed, samples_of, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.level_maps import point_at_level
from onejump.figures.looks import methods_of


def draw(inputs: Inputs, *, colormap: str) -> Figure:
    """Draw r2 from every level to every later one: a heat map for each method, all on one scale.

    Parameters
    ----------
    inputs : Inputs
        level_pairs, and selection to mark the selected jump.
    colormap : str
        A colour map of matplotlib.
    """
    table = inputs.table("level_pairs")
    methods = methods_of(table)
    subtitle = [
        about(table),
        samples_of(table),
        "r²: mean over the coordinates; red: r² below 0, worse than the coordinates' means",
    ]
    selected = inputs.selected()
    if selected is not None:
        subtitle.append(f"triangles: level {selected}, that of the selected jump")
    figure = framed("Quality of fit from level to level", subtitle, 3.1 * len(methods) + 0.9, 3.5)
    axes = figure.subplots(1, len(methods), squeeze=False, sharex=True, sharey=True)[0]
    colours = matplotlib.colormaps[colormap].with_extremes(under="#B22222")
    for ax, method in zip(axes, methods, strict=True):
        rows = table[table["method"] == method]
        matrix = rows.pivot(index="target", columns="source", values="r2")
        sources, targets = matrix.columns.to_numpy(), matrix.index.to_numpy()
        mesh = ax.pcolormesh(sources, targets, matrix.to_numpy(np.float64), cmap=colours, vmin=0, vmax=1)
        ax.set_title(method, pad=12)
        ax.grid(False)
        ax.set_aspect("equal")
        ax.set(xlabel="from level n", ylabel="to level m")
        ax.label_outer()
        whole_numbers(ax.xaxis, ax.yaxis)
        if selected is not None:
            point_at_level(ax, selected)
    figure.colorbar(mesh, ax=axes, location="right", label="r²", extend="min", aspect=30, shrink=0.85)
    return figure
