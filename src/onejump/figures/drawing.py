"""The stage "figures": the papers' figures, each as SVG and PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from onejump.base.errors import OneJumpError
from onejump.base.files import replacing
from onejump.figures.cost_figures import draw_parameters, draw_pareto
from onejump.figures.experiments import EXPERIMENTS
from onejump.figures.jump_figures import draw_ranks, draw_scores, draw_spaces
from onejump.figures.level_panels import Curve, curve_of, level_figure
from onejump.figures.parts import (
    ARBITRARY,
    GREY,
    LIMIT,
    Inputs,
    evaluated_labels,
    measured_metrics,
    method_label,
)
from onejump.figures.selected_table import selected_table

_ARBITRARY_LINES: tuple[Any, ...] = ("--", ":", "-.", "-", (0, (8, 2)), (0, (1, 3)))


def draw(figure: str, outputs: Sequence[Path], *, options: dict[str, Any], **inputs: Path) -> None:
    """The stage: draw one figure into all outputs, or into none.

    Parameters
    ----------
    figure : str
        One of the study's figures.
    outputs : sequence of Path
        Files to write, the format chosen by the suffix: .svg, .png, and .csv for the table of selected.
    options : dict
        The study's options of the figure.
    **inputs : Path
        What it is drawn from, by name:

        - evaluation: table of `onejump.scoring.evaluation.collect`, for methods, selected, prediction,
          alternatives, limit, pareto and sub-modules;
        - scores: table of `onejump.scoring.selection.score_jumps`, for scores;
        - parameters: table of `onejump.scoring.evaluation.count_parameters`, for parameters, pareto and the
          table of selected;
        - selection: of `onejump.scoring.selection.select_jump`, for selected, alternatives and scores; the
          others mark or name the level of the selected jump where they get it;
        - analysis: table of `onejump.scoring.analysis.analyse`, for spaces and ranks;
        - level_pairs, sub_modules, transfer, criteria, rank_sweep: table of the stage of that name, for the
          figure of that name;
        - curves, savings: tables of `onejump.experiments.early_exit.compare_exits`, for early-exit.

    Raises
    ------
    OneJumpError
        If the figure is unknown, an input is missing, or a metric or method was not evaluated.
    """
    if figure not in _FIGURES:
        raise OneJumpError(f"figure {figure!r} given, accepted is one of {', '.join(_FIGURES)}")
    style = files("onejump.figures") / "onejump.mplstyle"
    # After a reset, so that a reader's own matplotlibrc does not change the figures.
    with as_file(style) as style_file, matplotlib.style.context(style_file, after_reset=True):
        given = Inputs(figure, inputs)
        drawn = _FIGURES[figure](given, options)
        with ExitStack() as stack:
            for fresh in [stack.enter_context(replacing(output)) for output in outputs]:
                if fresh.suffix == ".csv":
                    _TABLES[figure](given, options).to_csv(fresh, index=False)
                    continue
                undated = {"Date": None} if fresh.suffix == ".svg" else None
                drawn.savefig(fresh, metadata=undated)


def _draw_methods(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """Every method by exit level."""
    table = inputs.table("evaluation")
    panels = {
        metric: [
            curve_of(table, metric, method, label)
            for method, label in evaluated_labels(inputs, table).items()
        ]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("Shortcuts by exit level", table, panels, mark=inputs.selected())


def _draw_prediction(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """JTC Fig. 3 and 4, N-NJTC Fig. 3: quality of prediction of some methods."""
    table = inputs.table("evaluation")
    labels = {m: label for m, label in evaluated_labels(inputs, table).items() if m in options["methods"]}
    panels = {
        metric: [curve_of(table, metric, method, label) for method, label in labels.items()]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("Quality of prediction", table, panels, mark=inputs.selected())


def _draw_limit(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """What every method keeps of the precision of a full-rank affine map, by exit level."""
    table = inputs.table("evaluation")
    labels = evaluated_labels(inputs, table)
    if not labels.pop(LIMIT, None):
        raise OneJumpError(
            f"figure {inputs.figure}: {LIMIT}, the limit to compare with, is not among the evaluated "
            f"{', '.join(labels)}: the study needs shortcuts.{LIMIT}"
        )
    panels = {
        metric: [_share_of_limit(table, metric, method, label) for method, label in labels.items()]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("What is kept of the limit", table, panels, limit=LIMIT, mark=inputs.selected())


def _share_of_limit(table: pd.DataFrame, metric: str, method: str, label: str) -> Curve:
    """A method's precision over that of the limit; not a number where the limit's is zero."""
    curve, limit = curve_of(table, metric, method, label), curve_of(table, metric, LIMIT, "")
    assert curve.errors is not None
    assert limit.errors is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(limit.values > 0, curve.values / limit.values, np.nan)
        # As if the two were of different samples.
        errors = np.hypot(curve.errors, shares * limit.errors) / limit.values
    return curve._replace(values=shares, errors=errors)


def _draw_selected(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """OJFA Fig. 1: a jump for each level, the selected jump, identity."""
    table, chosen = inputs.table("evaluation"), inputs.selection()
    jump, source = chosen["jump"], chosen["computed_from"]
    count = source["levels"]
    labels = {
        source["method"]: f"{source['method']}, a jump per level ({count} jump{'s' if count > 1 else ''})",
        "ojfa": f"{method_label('ojfa')}, fitted at level {jump}",
        "identity": "identity",
    }
    panels = {
        metric: [
            curve_of(table, metric, method, label)
            for method, label in labels.items()
            if (table["method"] == method).any()
        ]
        for metric in measured_metrics(table, inputs.figure, options)
    }
    return level_figure("The selected jump in place of a jump per level", table, panels, mark=jump)


def _draw_alternatives(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """OJFA Fig. 2: the selected jump, the joint fit, and arbitrary choices."""
    table, chosen = inputs.table("evaluation"), inputs.selection()
    levels = chosen["computed_from"]["levels"]
    labels = {
        "ojfa": f"{method_label('ojfa')}, fitted at level {chosen['jump']}",
        "joint": "joint (one n-njtc for all levels)",
    }
    present = list(dict.fromkeys(table["method"]))
    arbitrary = [method for method in present if method.startswith("arbitrary-")]
    panels = {}
    for metric in measured_metrics(table, inputs.figure, options):
        random = [method for method in arbitrary if method.startswith("arbitrary-random-")]
        named = [method for method in arbitrary if method not in random]
        curves = [
            curve_of(table, metric, method, label) for method, label in labels.items() if method in present
        ]
        for i, method in enumerate(named):
            line = _ARBITRARY_LINES[i % len(_ARBITRARY_LINES)]
            style = {"color": ARBITRARY, "linewidth": 1.0, "linestyle": line, "zorder": 2.2}
            curve = curve_of(table, metric, method, _arbitrary_label(method, levels))
            curves.append(curve._replace(name="arbitrary", errors=None, style=style))
        for i, method in enumerate(random):
            style = {"color": GREY, "linewidth": 0.6, "zorder": 2.1}
            curve = curve_of(table, metric, method, f"random jumps ({len(random)})" if i == 0 else "")
            curves.append(curve._replace(name="arbitrary", errors=None, style=style))
        panels[metric] = curves
    return level_figure(
        "The selected jump and its alternatives", table, panels, envelope="arbitrary", mark=chosen["jump"]
    )


_FIRST_TO_LAST: dict[str, Callable[[int], int]] = {
    "first": lambda levels: 0,
    "middle": lambda levels: levels // 2,
    "last": lambda levels: levels - 1,
}


def _arbitrary_label(method: str, levels: int) -> str:
    place = method.removeprefix("arbitrary-")
    if place in _FIRST_TO_LAST:
        return f"{place} jump (level {_FIRST_TO_LAST[place](levels)})"
    return f"jump from level {place}"


_FIGURES: dict[str, Callable[[Inputs, dict[str, Any]], Figure]] = {
    "methods": _draw_methods,
    "selected": _draw_selected,
    "prediction": _draw_prediction,
    "alternatives": _draw_alternatives,
    "limit": _draw_limit,
    "pareto": draw_pareto,
    "scores": draw_scores,
    "parameters": draw_parameters,
    "spaces": draw_spaces,
    "ranks": draw_ranks,
    **EXPERIMENTS,
}

_TABLES = {"selected": selected_table}
