"""A page with interactive figures of trajectories: one file that opens offline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from onejump.exits.gates import Gate, ThresholdGate

if TYPE_CHECKING:
    from onejump.lens.trajectory import Trajectory

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="onejump">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #ffffff; --ink: #1b1b1b; --quiet: #595959; --line: #d0d0d0; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #16181c; --ink: #ececec; --quiet: #a8adb5; --line: #3b4048; }}
}}
body {{ margin: 0; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 100%; }}
h1 {{ font-size: 1.35rem; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.05rem; margin: 2rem 0 .3rem; }}
p {{ margin: .3rem 0; max-width: 75ch; }}
.quiet {{ color: var(--quiet); font-size: .9rem; }}
.prompt {{ white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--line);
  padding: .1rem .7rem; max-height: 9rem; overflow-y: auto; }}
.map {{ overflow-x: auto; margin-top: .8rem; }}
.updatemenu-header-arrow {{ fill: var(--ink) !important; }}
.updatemenu-item-rect {{ fill: var(--paper) !important; }}
.updatemenu-button:hover .updatemenu-item-rect, .updatemenu-header:hover .updatemenu-item-rect {{
  fill: var(--line) !important; }}
</style>
</head>
<body>
<main>
<h1>{heading}</h1>
<p class="quiet">{about}</p>
{sections}
<p class="quiet">A column is a token, a row a level: level 0 is the embedding, the top row the model's own
prediction. A cell shows the most likely token, its colour the statistic chosen above. Point at a cell, or tap
it, for the most likely tokens and their probabilities.{frames}</p>
<noscript><p>This page draws its figure with JavaScript, which is switched off.</p></noscript>
</main>
<script>{plotly}</script>
<script>
const figures = {figures};
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function colours() {{
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  const found = {{"font.color": value("--ink")}};
  for (const menu of [0, 1]) {{
    found[`updatemenus[${{menu}}].bgcolor`] = value("--paper");
    found[`updatemenus[${{menu}}].bordercolor`] = value("--line");
  }}
  return found;
}}
const drawn = figures.map((figure, number) => {{
  const place = document.getElementById(`figure-${{number}}`);
  Plotly.newPlot(place, figure.data, figure.layout, {{displayModeBar: false, displaylogo: false}})
    .then(() => Plotly.relayout(place, colours()));
  return place;
}});
dark.addEventListener("change", () => drawn.forEach((place) => Plotly.relayout(place, colours())));
</script>
</body>
</html>
"""


def page_of(
    trajectories: Sequence[Trajectory], shortcuts: Sequence[str], statistic: str, *, title: str | None = None
) -> str:
    """Write a page with a figure for each trajectory.

    Parameters
    ----------
    trajectories : sequence of Trajectory
        Of one model.
    shortcuts : sequence of str
        The shortcut that is shown first, for each of them.
    statistic : str
        The statistic that is shown first.
    title : str, optional
    """
    figures = [
        trajectory.figure(shortcut, statistic)
        for trajectory, shortcut in zip(trajectories, shortcuts, strict=True)
    ]
    # After the figures, which say how to install plotly where it is missing.
    from plotly.offline import get_plotlyjs

    first = trajectories[0]
    origins = dict.fromkeys(f"{name}: {said}" for one in trajectories for name, said in one.origins.items())
    title = title or f"What {first.model_name} says at every level"
    gated = any(one.gates for one in trajectories)
    return _PAGE.format(
        title=escape(title),
        heading=escape(title),
        about="<br>\n".join(map(escape, (f"{first.model_name}, {first.levels[-1]} blocks", *origins))),
        sections="\n".join(_section(one, number) for number, one in enumerate(trajectories)),
        frames=" A frame is around the level at which the gate lets a token exit." if gated else "",
        plotly=get_plotlyjs(),
        figures=_script(figures),
    )


def _section(trajectory: Trajectory, number: int) -> str:
    gates = "".join(
        f'<p class="quiet">Gate of {escape(name)}: {escape(_told(gate))}.</p>'
        for name, gate in trajectory.gates.items()
    )
    return (
        f'<p class="prompt">{escape(trajectory.prompt)}</p>\n{gates}'
        f'<div class="map"><div id="figure-{number}"></div></div>'
    )


def _told(gate: Gate) -> str:
    levels = f"at levels {', '.join(map(str, gate.levels)) or 'none'}"
    if not isinstance(gate, ThresholdGate):
        return f"{type(gate).__name__} {levels}"
    thresholds = (f"{gate.thresholds[level]:.3g}" for level in gate.levels)
    return f"{gate.kind} {levels}, from {', '.join(thresholds)} on"


def _script(figures: Sequence[Any]) -> str:
    """Give figures as JSON in which nothing can end a script or begin a comment."""
    content = [json.loads(figure.to_json()) for figure in figures]
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
