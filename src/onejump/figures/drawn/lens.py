"""The figure "lens": what every level says of the prompts that the study names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from onejump.figures.frame import about, framed
from onejump.figures.inputs import Inputs
from onejump.figures.looks import method_label
from onejump.figures.token_levels import COLUMN, ROW, TokenLevels, draw_token_levels, explain_colours, norm_of

MOST_TOKENS = 12
"""Tokens of a prompt that are drawn: its last ones."""


def draw(
    inputs: Inputs,
    *,
    prompts: Sequence[str],
    targets: Sequence[str] | None,
    methods: Sequence[str] | None,
    statistic: str,
) -> Figure:
    """Draw a row of panels for each prompt, and a column for each method, all on one scale.

    Parameters
    ----------
    inputs : Inputs
        lens.
    prompts, targets, methods
        What the study asks for; the table holds it.
    statistic : str
        What colours show.
    """
    table = inputs.table("lens")
    best = table[table["place"] == 1]
    shown = dict(iter(best.groupby("prompt", sort=True)))
    names = list(dict.fromkeys(best["shortcut"]))
    panels = {
        (number, name): _panel(rows[rows["shortcut"] == name], statistic)
        for number, rows in shown.items()
        for name in names
    }
    widest = max(panel.values.shape[1] for panel in panels.values())
    levels = next(iter(panels.values())).values.shape[0]
    subtitle = [
        about(table),
        f"text: the most likely token; level {levels - 1} is the model's own prediction",
    ]
    if any(rows["position"].nunique() > MOST_TOKENS for rows in shown.values()):
        subtitle.append(f"the last {MOST_TOKENS} tokens of each prompt")
    width = max(4.5, len(names) * (COLUMN * widest + 0.5) + 1.2)
    height = len(shown) * (ROW * levels + 0.7)
    figure = framed("What each level says", subtitle, width, height)
    axes = figure.subplots(len(shown), len(names), squeeze=False)
    norm = norm_of(statistic, [panel.values for panel in panels.values()])
    for row, number in zip(axes, shown, strict=True):
        for ax, name in zip(row, names, strict=True):
            image = draw_token_levels(ax, panels[number, name], norm)
            ax.set_title(method_label(name))
            if ax is not row[0]:
                ax.set_ylabel("")
    explain_colours(figure, image, axes, statistic)
    return figure


def _panel(rows: pd.DataFrame, statistic: str) -> TokenLevels:
    positions = sorted(rows["position"].unique())[-MOST_TOKENS:]
    rows = rows[rows["position"].isin(positions)].sort_values(["level", "position"])
    shape = rows["level"].nunique(), len(positions)
    return TokenLevels(
        rows["token"].to_list()[: shape[1]],
        rows["prediction"].to_numpy(object).reshape(shape).tolist(),
        rows[statistic].to_numpy(np.float64).reshape(shape),
    )
