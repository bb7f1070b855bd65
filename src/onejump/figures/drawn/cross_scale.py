"""The figure "cross-scale": what an all-knowing gate would save, by depth and size of the study's models."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from onejump.figures.frame import framed, legend_size, whole_numbers
from onejump.figures.inputs import Inputs
from onejump.figures.looks import LOOKS, QUIET, method_label, methods_of

# One million: the unit of the axis.
_MILLION = 1e6


def draw(inputs: Inputs) -> Figure:
    """Draw the share of blocks that stable oracle exits save: a row of panels for each corpus.

    Parameters
    ----------
    inputs : Inputs
        cross_scale.
    """
    table = inputs.table("cross_scale")
    saved = table[(table["measure"] == "saved") & (table["oracle"] == "stable")]
    saved = saved.assign(millions=saved["parameters"] / _MILLION)
    corpora, methods = list(dict.fromkeys(saved["corpus"])), methods_of(saved)
    models = list(dict.fromkeys(saved["model"]))
    labels = [method_label(method) for method in methods]
    columns, below = legend_size(labels, 8.8)
    subtitle = [
        f"{len(models)} models",
        f"exits for good: from that level on the {inputs.predicts} never changes",
    ]
    subtitle.append("bars: ±1 standard error")
    title = "What an all-knowing gate would save, by depth and size"
    figure = framed(title, subtitle, 8.8, 3.3 * len(corpora) + below + 0.3)
    axes = figure.subplots(len(corpora), 2, squeeze=False, sharey=True)
    for (by_depth, by_size), corpus in zip(axes, corpora, strict=True):
        of_corpus = saved[saved["corpus"] == corpus]
        _panel(by_depth, of_corpus, "blocks", methods)
        _panel(by_size, of_corpus, "millions", methods)
        by_depth.set(xlabel="blocks L", ylabel="blocks saved", title=corpus)
        by_size.set(xlabel="million parameters", title=corpus)
        by_size.set_xscale("log")
        by_size.minorticks_off()
        sizes = of_corpus["millions"].unique()
        by_size.set_xticks(sizes, [f"{size:,.3g}" if size < 1000 else f"{size:,.0f}" for size in sizes])
        whole_numbers(by_depth.xaxis)
        by_depth.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        by_depth.set_ylim(bottom=0)
    handles = [
        Line2D([], [], label=label, **LOOKS[method].style())
        for method, label in zip(methods, labels, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


def _panel(ax: Axes, table: pd.DataFrame, size: str, methods: list[str]) -> None:
    """Draw a line for each method through the models, by one of their sizes."""
    for method in methods:
        rows = table[table["method"] == method].sort_values(size)
        errors = rows["stderr"].fillna(0.0)
        ax.errorbar(rows[size], rows["value"], yerr=errors, **LOOKS[method].style())
    tops = table.groupby("model", sort=False).agg({size: "first", "value": "max"})
    for model, top in tops.iterrows():
        ax.annotate(
            str(model),
            (top[size], top["value"]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=QUIET,
        )
    ax.margins(x=0.15, y=0.15)
