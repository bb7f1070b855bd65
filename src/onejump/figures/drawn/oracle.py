"""The figure "oracle": where tokens could exit, for one who knows the full model's token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from onejump.figures.frame import about, framed, legend_size, samples_of, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.looks import LOOKS, QUIET, method_label, methods_of

_ORACLES = {
    "first": "could exit: the {predicts} is the full model's",
    "stable": "could exit for good: it never changes again",
}
# A corpus has its own mark, the own corpus the first one.
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def draw(inputs: Inputs) -> Figure:
    """Draw the share of tokens that could exit up to each level, and what that would save on each corpus.

    Parameters
    ----------
    inputs : Inputs
        levels and corpora.
    """
    levels, corpora = inputs.table("levels"), inputs.table("corpora")
    methods = methods_of(levels)
    names = list(dict.fromkeys(corpora["corpus"]))
    subtitle = [
        about(levels),
        samples_of(levels),
        "shaded, and bars: ±1 standard error",
    ]
    handles = [Line2D([], [], label=method_label(method), **LOOKS[method].style()) for method in methods]
    columns, below = legend_size([method_label(method) for method in methods], 12.6)
    height = max(3.5, 0.3 + 0.17 * len(methods) * (1 + len(names)))
    figure = framed(f"Where {inputs.samples} could exit", subtitle, 12.6, height + below + 0.3)
    first, stable, saved = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    stable.sharey(first)
    for ax, oracle in ((first, "first"), (stable, "stable")):
        _shares(ax, levels[levels["oracle"] == oracle], methods, corpora)
        ax.set(title=_ORACLES[oracle].format(predicts=inputs.predicts), xlabel="exit level l")
        ax.set_ylabel(f"share of {inputs.samples}, up to this level")
    _savings(saved, corpora[corpora["measure"] == "saved"], methods, names)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


def _shares(ax: Axes, table: pd.DataFrame, methods: Sequence[str], corpora: pd.DataFrame) -> None:
    """Draw the share of the samples that could exit at each level or before it."""
    blocks = int(table["level"].max())
    for method in methods:
        rows = table[(table["method"] == method) & (table["level"] < blocks)]
        step = max(1, len(rows) // 8)
        ax.plot(rows["level"], rows["up_to"], markevery=step, **LOOKS[method].style())
        low, high = (rows["up_to"] + sign * rows["up_to_stderr"] for sign in (-1, 1))
        ax.fill_between(rows["level"], low, high, color=LOOKS[method].colour, alpha=0.15, linewidth=0)
    places = {blocks / 3: "⅓", 2 * blocks / 3: "⅔"}
    before = [name for name in dict.fromkeys(corpora["measure"]) if name.startswith("before the last ")]
    for name in before:
        place, text = float(blocks - int(name.split()[3])), name.removeprefix("before the ")
        # With 30 blocks the last ten begin at two thirds of the depth.
        places[place] = f"{places[place]}, {text}" if place in places else text
    for number, (place, name) in enumerate(sorted(places.items())):
        ax.axvline(place, color=QUIET, linewidth=0.8, linestyle=":", zorder=1.5)
        ax.annotate(
            name,
            (place, 0.985 - 0.06 * (number % 2)),
            xytext=(3, 0),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            fontsize=7.5,
            color=QUIET,
        )
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    whole_numbers(ax.xaxis)


def _savings(ax: Axes, table: pd.DataFrame, methods: Sequence[str], corpora: Sequence[str]) -> None:
    """Draw what an all-knowing gate would save: a row for each method, a mark for each corpus."""
    apart = 0.7 / max(1, len(corpora))
    for row, method in enumerate(methods):
        for number, corpus in enumerate(corpora):
            of_corpus = table[(table["method"] == method) & (table["corpus"] == corpus)].set_index("oracle")
            y = row + apart * (number - (len(corpora) - 1) / 2)
            colour = LOOKS[method].colour
            style: dict[str, Any] = {"color": colour, "marker": _MARKS[number % len(_MARKS)], "markersize": 5}
            ax.plot(of_corpus["value"], [y] * len(of_corpus), color=colour, linewidth=0.8)
            # With a single document there is no standard error.
            errors = of_corpus["stderr"].fillna(0.0)
            for oracle, inside in (("first", "white"), ("stable", colour)):
                value = of_corpus["value"][oracle]
                ax.errorbar(value, y, xerr=errors[oracle], markerfacecolor=inside, **style)
    for row in range(1, len(methods)):
        ax.axhline(row - 0.5, color=QUIET, linewidth=0.4, alpha=0.4)
    ax.set_yticks(range(len(methods)), [method_label(method) for method in methods])
    ax.set(ylim=(len(methods) - 0.5, -0.5), xlabel="blocks saved by an all-knowing gate")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_title("open: at the first such level, filled: for good")
    if len(corpora) > 1:
        marks = [
            Line2D([], [], color=QUIET, linestyle="none", marker=_MARKS[number % len(_MARKS)], label=corpus)
            for number, corpus in enumerate(corpora)
        ]
        ax.legend(handles=marks, fontsize=7.5, loc="best")
