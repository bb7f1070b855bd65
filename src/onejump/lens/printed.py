"""A trajectory as a figure of matplotlib, for papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onejump.lens.trajectory import Trajectory


def drawing_of(trajectory: Trajectory, shortcut: str, statistic: str) -> Figure:
    """Draw the heat map of a shortcut and a statistic (`onejump.Trajectory.draw`)."""
    # Here, as figures need matplotlib, and the rest of the lens does not.
    from onejump.figures.frame import framed
    from onejump.figures.style import styled
    from onejump.figures.token_levels import (
        COLUMN,
        ROW,
        TokenLevels,
        draw_token_levels,
        explain_colours,
        norm_of,
    )

    values = trajectory.statistic(statistic, shortcut)
    exits = trajectory.exit_level(shortcut=shortcut).tolist() if shortcut in trajectory.gates else None
    texts = trajectory.top_tokens(shortcut)[..., 0].tolist()
    subtitle = [
        f"{trajectory.model_name}, shortcut {shortcut}",
        f"level {trajectory.levels[-1]}: the model's own prediction",
        "text: the most likely token",
    ]
    if exits is not None:
        subtitle.append("frames: exits of the gate")
    with styled():
        rows, columns = values.shape
        width = max(4.0, COLUMN * columns + 1.9)
        figure = framed("What each level says", subtitle, width, ROW * rows + 0.9)
        ax = figure.subplots()
        image = draw_token_levels(
            ax, TokenLevels(trajectory.tokens, texts, values, exits), norm_of(statistic, [values])
        )
        explain_colours(figure, image, ax, statistic)
    return figure
