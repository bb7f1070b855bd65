"""The stage "figures": one figure, drawn as SVG and PNG."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from onejump.base.by_name import module_named
from onejump.base.errors import OneJumpError
from onejump.base.files import replacing
from onejump.figures.inputs import Inputs
from onejump.figures.style import styled


def draw(
    figure: str,
    svg: Path,
    png: Path,
    *,
    options: Mapping[str, Any],
    predicts: str = "token",
    csv: Path | None = None,
    **tables: Path,
) -> None:
    """The stage: draw one figure into all its files, or into none.

    Parameters
    ----------
    figure : str
        The name of a module in `onejump.figures.drawn`. Its function `draw` makes the figure.
    svg, png : Path
        Files to write.
    options : mapping
        What the study says of the figure: the keyword arguments of the module's functions.
    predicts : {"token", "label"}
        What the models predict.
    csv : Path, optional
        File to write the figure's table to. The module's function `table` makes it.
    **tables : Path
        The files that the figure is drawn from, by name. The docstring of its `draw` says which.

    Raises
    ------
    OneJumpError
        If the figure is unknown, does not take the options, has no table to write, or misses an input; if a
        metric was not evaluated or a method has no look.
    """
    module = module_named("figures.drawn", figure, what="figure")
    inputs = Inputs(figure, tables, predicts)
    with styled():
        drawn: Figure = _function(module, "draw", figure, options)(inputs, **options)
        with ExitStack() as stack:
            # Without a date, the same figure is the same file.
            drawn.savefig(stack.enter_context(replacing(svg)), metadata={"Date": None})
            drawn.savefig(stack.enter_context(replacing(png)))
            if csv is not None:
                table: pd.DataFrame = _function(module, "table", figure, options)(inputs, **options)
                table.to_csv(stack.enter_context(replacing(csv)), index=False)


def _function(module: ModuleType, name: str, figure: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Find a function of a figure's module, and make sure that the options are its keyword arguments."""
    function: Callable[..., Any] | None = getattr(module, name, None)
    if function is None:
        raise OneJumpError(f"figure {figure}: a csv is asked for, but the figure has no table")
    parameters = inspect.signature(function).parameters.values()
    accepted = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    if set(options) != set(accepted):
        raise OneJumpError(
            f"figure {figure}: the options {', '.join(options) or 'none'} given, "
            f"needed are {', '.join(accepted) or 'none'}"
        )
    return function
