"""The stage "figures": one figure, drawn as SVG and PNG."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.style

from onejump.base.by_name import module_named
from onejump.base.errors import OneJumpError
from onejump.base.files import replacing
from onejump.figures.inputs import Inputs


def draw(figure: str, outputs: Sequence[Path], *, options: Mapping[str, Any], **inputs: Path) -> None:
    """The stage: draw one figure into all outputs, or into none.

    Parameters
    ----------
    figure : str
        The name of a module in `onejump.figures.drawn`. Its function `draw` makes the figure.
    outputs : sequence of Path
        Files to write, the format chosen by the suffix: .svg, .png, and .csv for the table of a figure whose
        module has a function `table`.
    options : mapping
        The study's options of the figure: the keyword arguments of its functions.
    **inputs : Path
        The files that it is drawn from, by name: the docstring of its `draw` says which.

    Raises
    ------
    OneJumpError
        If the figure is unknown, does not take the options, has no table to write, or misses an input; if a
        metric was not evaluated or a method has no look.
    """
    module = module_named("figures.drawn", figure, what="figure")
    given = Inputs(figure, inputs)
    style = files("onejump.figures") / "onejump.mplstyle"
    # After a reset, so that a reader's own matplotlibrc does not change the figures.
    with as_file(style) as style_file, matplotlib.style.context(style_file, after_reset=True):
        drawn = _function(module, "draw", figure, options)(given, **options)
        with ExitStack() as stack:
            for fresh in [stack.enter_context(replacing(output)) for output in outputs]:
                if fresh.suffix == ".csv":
                    table = _function(module, "table", figure, options)(given, **options)
                    table.to_csv(fresh, index=False)
                    continue
                undated = {"Date": None} if fresh.suffix == ".svg" else None
                drawn.savefig(fresh, metadata=undated)


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
