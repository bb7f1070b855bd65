"""Figures of the experiments: level pairs, sub-modules, early exit, transfer, criteria, rank sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from onejump.figures.jump_figures import point_at_level
from onejump.figures.level_panels import Curve, curve_of, level_figure, mark_selected, panel
from onejump.figures.parts import (
    AXIS_LABELS,
    GREY,
    LOOKS,
    QUIET,
    Inputs,
    about,
    framed,
    measured_metrics,
    method_label,
    whole_numbers,
)

# Level to level


def _draw_level_pairs(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """r2 from every level to every later one, a heat map a method, all on one scale."""
    table = inputs.table("level_pairs")
    methods = [method for method in LOOKS if (table["method"] == method).any()]
    subtitle = [
        about(table),
        f"n = {int(table['n'].iloc[0]):,} validation samples",
        "r² averaged over coordinates; red: below 0, worse than their mean",
    ]
    selected = inputs.selected()
    if selected is not None:
        subtitle.append(f"triangles: level {selected}, of the selected jump")
    figure = framed("Quality of fit from level to level", subtitle, 3.1 * len(methods) + 0.9, 3.5)
    axes = figure.subplots(1, len(methods), squeeze=False, sharex=True, sharey=True)[0]
    colours = matplotlib.colormaps[options["colormap"]].with_extremes(under="#B22222")
    for ax, method in zip(axes, methods, strict=True):
        rows = table[table["method"] == method]
        matrix = rows.pivot(index="target", columns="source", values="r2")
        sources, targets = matrix.columns.to_numpy(), matrix.index.to_numpy()
        mesh = ax.pcolormesh(sources, targets, matrix.to_numpy(np.float64), cmap=colours, vmin=0, vmax=1)
        ax.set_title(method, pad=12)
        ax.grid(False)
        ax.set_aspect("equal")
        ax.set(xlabel="from level n", ylabel="to level m")
        ax.label_outer()
        whole_numbers(ax.xaxis, ax.yaxis)
        if selected is not None:
            point_at_level(ax, selected)
    figure.colorbar(mesh, ax=axes, location="right", label="r²", extend="min", aspect=30, shrink=0.85)
    return figure


# Parts of blocks

_PARTS = {
    "attention": ("#CC3311", (0, (5, 2)), "P"),
    "feed-forward": ("#117733", "-", "D"),
    "norms": ("#332288", (0, (8, 2)), "h"),
}


def _draw_sub_modules(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """The model with a part of its blocks made linear above a level, beside jumps from that level."""
    table, evaluation = inputs.table("sub_modules"), inputs.table("evaluation")
    measured_metrics(table, inputs.figure, options)
    together = pd.concat([table.rename(columns={"part": "method"}), evaluation], ignore_index=True)
    jumps = [method for method in ("identity", "jtc") if (evaluation["method"] == method).any()]
    panels = {}
    for metric in options["metrics"]:
        curves = [curve_of(together, metric, part, f"{part} linear") for part in dict.fromkeys(table["part"])]
        styled = [
            curve._replace(style=dict(zip(("color", "linestyle", "marker"), _PARTS[curve.name], strict=True)))
            for curve in curves
        ]
        panels[metric] = [*styled, *(curve_of(together, metric, method, method) for method in jumps)]
    title = "Parts of the blocks above a level made linear"
    return level_figure(title, table, panels, mark=inputs.selected())


# Early exit


def _draw_early_exit(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """Agreement with the full model against blocks processed, and what is saved at the targets."""
    curves, savings = inputs.table("curves"), inputs.table("savings")
    curves = curves[curves["split"] == "validation"]
    rules = list(dict.fromkeys(curves["rule"]))
    targets = sorted(set(savings["target"]), reverse=True)
    methods = [method for method in LOOKS if (curves["method"] == method).any()]
    subtitle = [
        about(curves),
        f"n = {int(curves['n'].iloc[0]):,} validation samples",
        "below: blocks saved (and agreement found) by thresholds that reach the target on held-out training "
        "documents",
    ]
    low, most = min(0.8, min(targets) - 0.1), float(curves["blocks"].max())
    least = float(curves.loc[curves["agreement"] >= low, "blocks"].min())
    row = 0.21
    below = row * (len(methods) + 2) + 0.25
    width = max(6.6, 4.0 * len(rules))
    figure = framed("Early exit by confidence", subtitle, width, 3.6 + below)
    axes = figure.subplots(
        2, len(rules), squeeze=False, sharey="row", height_ratios=[3.4, below], gridspec_kw={"hspace": 0.02}
    )
    for (ax, cells), rule in zip(axes.T, rules, strict=True):
        of_rule = curves[curves["rule"] == rule]
        for method in methods:
            rows = of_rule[of_rule["method"] == method].sort_values("blocks")
            style = LOOKS[method].style() | {"marker": "", "linewidth": 1.3}
            ax.plot(rows["blocks"], rows["agreement"], **style)
        for target in targets:
            ax.axhline(target, color=QUIET, linewidth=0.8, linestyle=":", zorder=1.5)
        ax.set(
            title=f"{rule} threshold", xlabel="blocks processed, mean", ylabel="agreement with the full model"
        )
        ax.set_ylim(low, 1.005)
        ax.set_xlim(least - 0.02 * most, 1.01 * most)
        if rule != rules[0]:
            ax.set_ylabel("")
        _savings_table(cells, savings[savings["rule"] == rule], methods, targets)
    return figure


def _savings_table(ax: Axes, savings: pd.DataFrame, methods: list[str], targets: list[float]) -> None:
    """A line a method, a column a target."""
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(len(methods) + 1, -1))
    left = 0.42
    places = [left + (1 - left) * (i + 1) / len(targets) for i in range(len(targets))]
    for place, target in zip(places, targets, strict=True):
        ax.text(place, -0.4, f"at {target:.0%}", ha="right", va="center", fontsize=8, fontweight="bold")
    found = {(row["method"], row["target"]): row for _, row in savings.iterrows()}
    for line, method in enumerate(methods):
        look = LOOKS[method]
        style = {"color": look.colour, "linestyle": look.line, "linewidth": 1.3}
        ax.plot([0.0, 0.06], [line + 0.5] * 2, **style)
        ax.text(0.08, line + 0.5, method_label(method), va="center", fontsize=8)
        for place, target in zip(places, targets, strict=True):
            one = found[method, target]
            text = f"{one['saved']:.1%} ({one['agreement']:.3f})" if one["reached"] else "not reached"
            ax.text(place, line + 0.5, text, ha="right", va="center", fontsize=8)


# Other corpora


def _draw_transfer(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """A corpus' shortcuts on every corpus, beside those fitted there."""
    table = inputs.table("transfer")
    corpus = table["corpus"].iloc[0]
    targets = list(dict.fromkeys(table["target"]))
    metrics = measured_metrics(table, inputs.figure, options)
    methods = [method for method in LOOKS if (table["method"] == method).any()]
    at_home = table[(table["target"] == corpus) & (table["fitted_on"] == corpus)]
    selected = int(at_home["jump"].iloc[0])
    subtitle = [
        f"{about(table)}: fitted and selected there, used on every corpus",
        "lines: shortcuts of " + corpus,
        "thin, without marks: the corpus' own shortcuts",
        f"dotted: level {selected}, of the selected jump",
    ]
    figure = framed(
        "Shortcuts on other corpora", subtitle, max(6.6, 3.4 * len(targets)), 3.3 * len(metrics) + 0.7
    )
    axes = figure.subplots(len(metrics), len(targets), squeeze=False, sharex=True)
    for row, metric in zip(axes, metrics, strict=True):
        for ax, target in zip(row, targets, strict=True):
            there = table[table["target"] == target]
            curves = [
                curve_of(there[there["fitted_on"] == corpus], metric, method, method) for method in methods
            ]
            own = [
                _thin(curve_of(there[there["fitted_on"] == target], metric, method, ""))
                for method in methods
                if target != corpus
            ]
            panel(ax, metric, [*curves, *own])
            mark_selected(ax, selected, curves, label=False)
            ax.set_title(
                f"on {target}{', its own' if target == corpus else ''}\n{_choice(there, corpus, target)}"
            )
            ax.label_outer()
        # Each panel has chosen limits for its own curves: one scale that holds all of them.
        limits = np.array([ax.get_ylim() for ax in row])
        for ax in row:
            ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    handles = [_handle(method) for method in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * len(targets)))
    return figure


def _thin(curve: Curve) -> Curve:
    style = {**curve.style, "linewidth": 0.8, "marker": "", "alpha": 0.8}
    return curve._replace(errors=None, style=style)


def _choice(there: pd.DataFrame, corpus: str, target: str) -> str:
    """Which jump the target's samples choose, among the corpus' jumps and among its own."""
    chosen = there.drop_duplicates("fitted_on").set_index("fitted_on")["jump"]
    if target == corpus:
        return f"chooses jump {chosen[corpus]}"
    return f"chooses jump {chosen[corpus]} of these, {chosen[target]} of its own"


def _handle(method: str) -> Line2D:
    look = LOOKS[method]
    return Line2D(
        [], [], color=look.colour, linestyle=look.line, marker=look.marker, label=method_label(method)
    )


# Selection criteria

_CRITERIA = {
    "signed-squared-cosine": ("#D55E00", "P", "signed squared cosine"),
    "cosine": ("#009E73", "s", "cosine"),
    "mse": ("#0072B2", "D", "mean squared error"),
    "surprisal": ("#332288", "^", "surprisal on held-out samples"),
    "oracle precision": ("#000000", "*", "oracle by precision"),
    "oracle surprisal": ("#000000", "X", "oracle by surprisal"),
}


def _draw_criteria(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """Every jump used at all levels, and which of them each criterion chooses."""
    table = inputs.table("criteria")
    metrics = [table["metric"].iloc[0], "surprisal"]
    subtitle = [
        about(table),
        f"n = {int(table['n'].iloc[0]):,} validation samples, mean over all levels",
        "an oracle saw them, the other criteria training samples only",
    ]
    present = [criterion for criterion in _CRITERIA if (table["criterion"] == criterion).any()]
    figure = framed("What each selection criterion chooses", subtitle, 9.4, 3.5 + 0.2 * (len(present) + 1))
    for ax, metric in zip(figure.subplots(1, 2), metrics, strict=True):
        of_metric = table[table["metric"] == metric]
        jumps = of_metric[of_metric["criterion"] == "jump"]
        ax.plot(jumps["jump"], jumps["value"], color=GREY, linewidth=1.0, marker=".", markersize=4)
        random = float(of_metric.loc[of_metric["criterion"] == "random", "value"].iloc[0])
        ax.axhline(random, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.0, zorder=1.8)
        for number, criterion in enumerate(present):
            chosen = of_metric[of_metric["criterion"] == criterion]
            # Criteria that agree lie on one point: rings around each other, oracles inside.
            size = 7 if _is_oracle(criterion) else 17 - 3.5 * number
            style = _mark(criterion) | {"markersize": size}
            ax.plot(chosen["jump"], chosen["value"], zorder=3 + number, **style)
        ax.set(
            xlabel="jump m (fitted at level m), used at all levels", ylabel=AXIS_LABELS.get(metric, metric)
        )
        whole_numbers(ax.xaxis)
        if (selected := inputs.selected()) is not None:
            mark_selected(ax, selected)
        if metric == "surprisal" and jumps["value"].max() > 4 * jumps["value"].min():
            ax.set_yscale("log")
    handles = [
        Line2D([], [], **_mark(criterion), label=_choice_of(table, criterion, _CRITERIA[criterion][2]))
        for criterion in present
    ]
    dashed = Line2D([], [], color=QUIET, linestyle=(0, (4, 2)), label=_choice_of(table, "random", "random"))
    figure.legend(handles=[*handles, dashed], loc="outside lower center", ncols=1)
    return figure


def _is_oracle(criterion: str) -> bool:
    return criterion.startswith("oracle")


def _mark(criterion: str) -> dict[str, Any]:
    """Oracles are filled, the others open."""
    colour, marker, _ = _CRITERIA[criterion]
    inside = {"markerfacecolor": colour} if _is_oracle(criterion) else {"markerfacecolor": "none"}
    return {"linestyle": "none", "marker": marker, "color": colour, "markeredgewidth": 1.6, **inside}


def _choice_of(table: pd.DataFrame, criterion: str, name: str) -> str:
    rows = table[table["criterion"] == criterion].set_index("metric")
    jump = rows["jump"].iloc[0]
    which = "any jump, on average" if pd.isna(jump) else f"jump {int(jump)}"
    values = [f"{metric} {rows['value'][metric]:.3f}" for metric in (rows.index[0], "surprisal")]
    return f"{name}: {which}, {', '.join(values)}"


# The rank


def _draw_rank_sweep(inputs: Inputs, options: dict[str, Any]) -> Figure:
    """Metrics, mean over levels, by numbers kept: a curve a method, a point a rank."""
    table = inputs.table("rank_sweep")
    metrics = measured_metrics(table, inputs.figure, options)
    methods = [method for method in LOOKS if (table["method"] == method).any()]
    subtitle = [
        about(table),
        f"mean over {table['level'].nunique()} exit levels",
        f"n = {int(table['n'].iloc[0]):,} validation samples",
        "beside the points: rank r",
    ]
    figure = framed("What more ranks give", subtitle, max(6.6, 4.7 * len(metrics)), 4.0)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        for method in methods:
            rows = table[(table["method"] == method) & (table["metric"] == metric)]
            points = rows.groupby("rank").agg({"numbers": "first", "value": "mean"})
            look = LOOKS[method]
            ax.plot(points["numbers"], points["value"], label=method_label(method), **look.style())
            for rank, numbers, value in points.itertuples():
                ax.annotate(
                    str(rank),
                    (numbers, value),
                    xytext=(0, 5),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    color=look.colour,
                )
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="numbers kept at inference (log scale)", ylabel=AXIS_LABELS.get(metric, metric))
        ax.margins(y=0.1)
        if metric.startswith("precision"):
            ax.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(methods))
    return figure


EXPERIMENTS: dict[str, Callable[[Inputs, dict[str, Any]], Figure]] = {
    "level-pairs": _draw_level_pairs,
    "sub-modules": _draw_sub_modules,
    "early-exit": _draw_early_exit,
    "transfer": _draw_transfer,
    "criteria": _draw_criteria,
    "rank-sweep": _draw_rank_sweep,
}
"""How the figure of each experiment is drawn."""
