"""Marks on heat maps whose axes are levels."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from onejump.figures.looks import LOOKS


def point_at_level(ax: Axes, level: int, *, both: bool = False) -> None:
    """Put a triangle above a level of a heat map.

    Parameters
    ----------
    ax : Axes
    level : int
    both : bool
        Put one beside the level of the y axis too.
    """
    style: dict[str, Any] = {"color": LOOKS["ojfa"].colour, "markersize": 7, "clip_on": False}
    ax.plot(level, 1.02, marker="v", transform=ax.get_xaxis_transform(), **style)
    if both:
        ax.plot(1.02, level, marker="<", transform=ax.get_yaxis_transform(), **style)
