"""The figure "exit-costs": what a token costs that exits at a level, and what a check for exit costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from onejump.figures.frame import about, framed, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.looks import LOOKS, QUIET, method_label, methods_of

_FULL = "full model"


class _Panel(NamedTuple):
    """A cost of one model: FLOPs, or seconds of a batch."""

    title: str
    column: str
    """The column with the whole cost; its parts are named after it."""
    rows: pd.DataFrame
    """Of all methods; the full model's is one of them."""

    def blocks(self) -> int:
        """Give L."""
        return int(self._full()["level"])

    def full(self) -> float:
        """Give the cost of the full model."""
        return float(self._full()[self.column])

    def check(self, method: str) -> float:
        """Give the cost of jump and head, the median over levels, in blocks."""
        rows = self.rows[self.rows["method"] == method]
        check = (rows[f"jump_{self.column}"] + rows[f"head_{self.column}"]).median()
        full = self._full()
        first = float(self.rows.loc[self.rows["level"] == 0, f"blocks_{self.column}"].iloc[0])
        block = (float(full[f"blocks_{self.column}"]) - first) / self.blocks()
        return float(check / block)

    def _full(self) -> pd.Series:
        return self.rows[self.rows["method"] == _FULL].iloc[0]


def draw(inputs: Inputs) -> Figure:
    """Draw FLOPs and latency by exit level, and a table of what a check for exit costs.

    Parameters
    ----------
    inputs : Inputs
        exit_costs.
    """
    table = inputs.table("exit_costs")
    methods = methods_of(table[table["method"] != _FULL])
    models = [rows for _, rows in table.groupby(["measured", "weights"], sort=False)]
    panels = [list(_panels(rows)) for rows in models]
    columns = len(panels[0])
    line = 0.21
    below = line * (len(methods) + 3) + 0.15
    width = max(7.0, 3.6 * columns + 0.4)
    figure = framed("What an exit costs", list(_subtitle(table, models)), width, 2.9 * len(models) + below)
    grid = figure.add_gridspec(len(models) + 1, 1, height_ratios=[2.9] * len(models) + [below])
    for place, (rows, of_model) in enumerate(zip(models, panels, strict=True)):
        axes = grid[place].subgridspec(1, columns).subplots(sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, of_model, strict=True):
            _draw_panel(ax, panel, methods)
        axes[0].set_ylabel(f"{_name(rows)}\nshare of the full model")
    names = map(_name, models)
    _table_of_checks(figure.add_subplot(grid[len(models)]), dict(zip(names, panels, strict=True)), methods)
    return figure


def _panels(rows: pd.DataFrame) -> Iterator[_Panel]:
    """FLOPs are in proportion to the batch, so one panel shows them; latency has one for each batch."""
    batches = list(dict.fromkeys(rows["batch"]))
    yield _Panel("FLOPs", "flops", rows[rows["batch"] == batches[0]])
    for batch in batches:
        yield _Panel(f"time, batch {batch}", "seconds", rows[rows["batch"] == batch])


def _draw_panel(ax: Axes, panel: _Panel, methods: Sequence[str]) -> None:
    full = panel.full()
    for method in methods:
        rows = panel.rows[panel.rows["method"] == method].sort_values("level")
        style = LOOKS[method].style() | {"marker": "", "linewidth": 1.3}
        ax.plot(rows["level"], rows[panel.column] / full, **style)
    ax.axhline(1, color=QUIET, linewidth=0.8, linestyle=":", zorder=1.5)
    ax.set(title=f"{panel.title}\nfull model: {_amount(full, panel.column)}", xlabel="exit level l")
    ax.set_ylim(0, None)
    ax.set_xlim(0, panel.blocks())
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    whole_numbers(ax.xaxis)


def _table_of_checks(ax: Axes, models: Mapping[str, Sequence[_Panel]], methods: Sequence[str]) -> None:
    """Write a line for each method and a column for each panel."""
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(len(methods), -2.6))
    ax.text(0, -1.6, "one check for exit,\nin blocks", va="center", fontsize=8, fontweight="bold")
    left = 0.27
    each = (1 - left) / sum(map(len, models.values()))
    heading: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 8, "fontweight": "bold"}
    right = left
    for name, panels in models.items():
        ax.text(right + each * len(panels), -2.0, name, **heading)
        for panel in panels:
            right += each
            ax.text(right, -0.9, panel.title.removeprefix("time, "), **heading)
            for line, method in enumerate(methods):
                text = _in_blocks(panel.check(method))
                ax.text(right, line + 0.5, text, ha="right", va="center", fontsize=8)
    for line, method in enumerate(methods):
        look = LOOKS[method]
        ax.plot([0.0, 0.05], [line + 0.5] * 2, color=look.colour, linestyle=look.line, linewidth=1.3)
        ax.text(0.065, line + 0.5, method_label(method), va="center", fontsize=8)


def _subtitle(table: pd.DataFrame, models: Sequence[pd.DataFrame]) -> Iterator[str]:
    yield about(table)
    contexts = ", ".join(str(n) for n in dict.fromkeys(table["context"]))
    yield f"one token of each sequence of a batch, behind {contexts} tokens"
    threads = int(table["threads"].iloc[0])
    yield f"times measured on {table['device'].iloc[0]} with {threads} thread{'s' if threads > 1 else ''}"
    yield f"medians of {table['rounds'].iloc[0]} rounds"
    for rows in models:
        if rows["weights"].iloc[0] == "random":
            blocks = int(rows.loc[rows["method"] == _FULL, "level"].iloc[0])
            dtype = rows["dtype"].iloc[0]
            yield f"{rows['measured'].iloc[0]}: random weights, one block in {dtype}, counted {blocks} times"


def _name(rows: pd.DataFrame) -> str:
    name = str(rows["measured"].iloc[0])
    return f"shapes of {name}" if rows["weights"].iloc[0] == "random" else name


def _amount(cost: float, column: str) -> str:
    if column == "flops":
        for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if cost >= size:
                return f"{cost / size:.3g} {unit}FLOPs"
        return f"{cost:.3g} FLOPs"
    return f"{cost:.3g} s" if cost >= 1 else f"{1e3 * cost:.3g} ms"


def _in_blocks(share: float) -> str:
    return f"{share:.2g}" if share < 10 else f"{share:.0f}"
