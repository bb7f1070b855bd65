"""The figure "translation": BLEU and chrF of texts whose tokens all exit at one level."""

from __future__ import annotations

from matplotlib.figure import Figure

from onejump.figures.frame import about, framed, legend_size, whole_numbers
from onejump.figures.inputs import Inputs, labels_of
from onejump.figures.looks import LOOKS, QUIET

_SCORES = {"bleu": "BLEU", "chrf": "chrF"}


def draw(inputs: Inputs) -> Figure:
    """Draw a line over the levels for each method, in a panel for each score.

    Parameters
    ----------
    inputs : Inputs
        translation, and the selection.
    """
    table = inputs.table("translation")
    full = table[table["method"] == "full"].iloc[0]
    exits = table[table["method"] != "full"]
    labels, width = labels_of(inputs, exits), 8.0
    columns, below = legend_size(list(labels.values()), width)
    figure = framed(
        "Texts whose tokens all exit at level l",
        [about(table), f"{full['n']:,} validation texts, written greedily; dotted: the full model"],
        width,
        3.4 + below,
    )
    axes = figure.subplots(1, len(_SCORES))
    for ax, (score, name) in zip(axes, _SCORES.items(), strict=True):
        for method, label in labels.items():
            rows = exits[exits["method"] == method].sort_values("level")
            ax.plot(rows["level"], rows[score], **LOOKS[method].style() | {"label": label})
        ax.axhline(full[score], color=QUIET, linestyle=":")
        ax.set(xlabel="level l", ylabel=name)
        ax.set_ylim(bottom=0)
        whole_numbers(ax.xaxis)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure
