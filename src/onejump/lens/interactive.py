"""A trajectory as an interactive figure of plotly: tokens by levels, menus switch shortcut and statistic."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onejump.base.errors import OneJumpError
from onejump.base.statistics import LEVEL_COLOURS, MOST_OF_THEM, STATISTICS, statistic_named
from onejump.lens.reading import Floats

if TYPE_CHECKING:
    from onejump.lens.trajectory import Trajectory

# Sizes in pixels.
COLUMN, ROW = 78, 22
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 128, 76
# Letters of a token that a cell holds.
_LETTERS = 10
_OUTLINE = "#D55E00"


def figure_of(trajectory: Trajectory, shortcut: str, statistic: str) -> Any:
    """Draw a heat map for each shortcut, of which one is seen (`onejump.Trajectory.figure`).

    Raises
    ------
    OneJumpError
        If plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise OneJumpError("interactive figures need plotly: pip install 'onejump[lens]'") from error
    statistic_named(statistic)
    names = trajectory.shortcuts
    scales = {name: _scale(trajectory, name) for name in STATISTICS}
    traces, owners = [], []
    for name in names:
        traces.append(_heat_map(graph_objects, trajectory, name, scales[statistic]["values"][name]))
        owners.append(name)
    for name in trajectory.gates:
        traces.append(_outlines(graph_objects, trajectory, name))
        owners.append(name)
    for trace, owner in zip(traces, owners, strict=True):
        trace.visible = owner == shortcut
    figure = graph_objects.Figure(traces)
    shown, columns = scales[statistic], len(trajectory.tokens)
    last = trajectory.levels[-1]
    figure.update_layout(
        width=max(360, LEFT + COLUMN * columns + RIGHT),
        height=TOP + ROW * (last + 1) + BOTTOM,
        margin={"l": LEFT, "r": RIGHT, "t": TOP, "b": BOTTOM},
        font={"family": "system-ui, sans-serif", "size": 12},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        hoverlabel={"align": "left", "font": {"family": "ui-monospace, monospace", "size": 12}},
        coloraxis={
            "colorscale": list(LEVEL_COLOURS),
            "cmin": shown["low"],
            "cmax": shown["high"],
            "colorbar": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1,
                "yanchor": "bottom",
                "lenmode": "pixels",
                "len": 280,
                "thickness": 9,
                "ypad": 6,
                "xpad": 0,
                "title": {"text": shown["title"], "side": "top", "font": {"size": 12}},
                **shown["ticks"],
            },
        },
        updatemenus=[
            _menu(
                names,
                names.index(shortcut),
                0,
                [
                    {"method": "restyle", "args": [{"visible": [owner == name for owner in owners]}]}
                    for name in names
                ],
            ),
            _menu(
                [name.replace("_", " ") for name in STATISTICS],
                list(STATISTICS).index(statistic),
                150,
                [_change(scales[name], names) for name in STATISTICS],
            ),
        ],
    )
    figure.update_xaxes(
        tickvals=list(range(columns)),
        ticktext=[_cell(token) for token in trajectory.tokens],
        tickangle=0 if columns < 40 else -45,
        range=[-0.5, max(columns, 3) - 0.5],
        title={"text": "token of the prompt", "standoff": 8},
        fixedrange=True,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        tickvals=list(trajectory.levels),
        range=[-0.5, last + 0.5],
        title={"text": "level", "standoff": 4},
        fixedrange=True,
        showgrid=False,
        zeroline=False,
    )
    return figure


def _heat_map(graph_objects: Any, trajectory: Trajectory, name: str, values: list[list[float | None]]) -> Any:
    tokens = trajectory.top_tokens(name)
    return graph_objects.Heatmap(
        name=name,
        x=list(range(len(trajectory.tokens))),
        y=list(trajectory.levels),
        z=values,
        text=[[_cell(token) for token in row] for row in tokens[..., 0]],
        texttemplate="%{text}",
        textfont={"size": 11, "color": "#111111"},
        customdata=hovers(trajectory, name, tokens),
        hovertemplate="%{customdata}<extra></extra>",
        # A cell without a value has no colour, but still says what was predicted.
        hoverongaps=True,
        xgap=1,
        ygap=1,
        coloraxis="coloraxis",
    )


def _outlines(graph_objects: Any, trajectory: Trajectory, name: str) -> Any:
    """A frame around the cell at which each token exits."""
    x: list[float | None] = []
    y: list[float | None] = []
    for place, level in enumerate(trajectory.exit_level(shortcut=name).tolist()):
        if level < trajectory.levels[-1]:
            x += [place - 0.5, place + 0.5, place + 0.5, place - 0.5, place - 0.5, None]
            y += [level - 0.5, level - 0.5, level + 0.5, level + 0.5, level - 0.5, None]
    return graph_objects.Scatter(
        name=f"{name}: exits", x=x, y=y, mode="lines", line={"color": _OUTLINE, "width": 3}, hoverinfo="skip"
    )


def hovers(trajectory: Trajectory, name: str, tokens: NDArray[np.object_]) -> list[list[str]]:
    """Write what is shown over each cell, as plotly's HTML.

    Parameters
    ----------
    trajectory : Trajectory
    name : str
        The shortcut.
    tokens : ndarray of shape (L + 1, T, k)
        The most likely tokens, as text.

    Returns
    -------
    list of L + 1 lists of T str
    """
    probabilities = trajectory.probabilities(name)
    values = {one: trajectory.statistic(one, name) for one in STATISTICS}
    exits = trajectory.exit_level(shortcut=name) if name in trajectory.gates else None
    found = []
    for level in trajectory.levels:
        row = []
        for at, token in enumerate(trajectory.tokens):
            following = trajectory.next_tokens[at]
            behind = "" if following is None or trajectory.task == "masked" else f" → {following}"
            lines = [f"<b>level {level}, {escape(token + behind, quote=False)}</b>"]
            lines += [
                f"{probability:.4f}  {escape(likely, quote=False)}"
                for likely, probability in zip(tokens[level, at], probabilities[level, at], strict=True)
            ]
            lines += [
                f"{one.replace('_', ' ')}: {value[level, at]:{'.0f' if one == 'rank' else '.4g'}}"
                for one, value in values.items()
                if one not in ("probability", "agreement") and not np.isnan(value[level, at])
            ]
            if values["agreement"][level, at] and level < trajectory.levels[-1]:
                lines.append("agrees with the last level")
            if exits is not None and exits[at] == level < trajectory.levels[-1]:
                lines.append("exits here")
            row.append("<br>".join(lines))
        found.append(row)
    return found


def _scale(trajectory: Trajectory, statistic: str) -> dict[str, Any]:
    """The values of a statistic for all shortcuts, and the colour scale that they share."""
    about = STATISTICS[statistic]
    values = {name: trajectory.statistic(statistic, name) for name in trajectory.shortcuts}
    if about.logarithmic:
        values = {name: np.log10(of) for name, of in values.items()}
    known = np.concatenate([of[np.isfinite(of)] for of in values.values()])
    high = float(np.quantile(known, MOST_OF_THEM)) if known.size else 1.0
    ticks: dict[str, Any] = {"tickvals": None, "ticktext": None}
    if about.logarithmic:
        decades = list(range(int(np.ceil(high)) + 1))
        ticks = {"tickvals": decades, "ticktext": [f"{10**decade:,}" for decade in decades]}
    return {
        "values": {name: _plain(of) for name, of in values.items()},
        "low": 0.0,
        "high": about.highest or high or 1.0,
        "title": about.label,
        "ticks": ticks,
    }


def _plain(values: Floats) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 6) for value in row] for row in values]


def _change(scale: dict[str, Any], names: list[str]) -> dict[str, Any]:
    changes = {
        "coloraxis.cmin": scale["low"],
        "coloraxis.cmax": scale["high"],
        "coloraxis.colorbar.title.text": scale["title"],
        **{f"coloraxis.colorbar.{name}": value for name, value in scale["ticks"].items()},
    }
    values = {"z": [scale["values"][name] for name in names]}
    return {"method": "update", "args": [values, changes, list(range(len(names)))]}


def _menu(labels: list[str], active: int, left: int, actions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "dropdown",
        "active": active,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"l": left, "b": 72},
        "showactive": True,
        "buttons": [
            {"label": escape(label, quote=False), **action}
            for label, action in zip(labels, actions, strict=True)
        ],
    }


def _cell(token: str) -> str:
    # plotly reads &lt; and &amp;, but shows &quot; as it is.
    return escape(token if len(token) <= _LETTERS else token[: _LETTERS - 1] + "…", quote=False)
