"""The figure "limit": what every method keeps of the precision of a full-rank affine map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from onejump.base.errors import OneJumpError
from onejump.figures.curves import Curve, curve_of
from onejump.figures.inputs import Inputs, labels_of, measured
from onejump.figures.level_panels import level_figure

_LIMIT = "affine"
"""The method that the others are compared with: it has full rank and is trained for what is measured."""


def draw(inputs: Inputs, *, metrics: Sequence[str]) -> Figure:
    """Draw each method's precision divided by that of the limit, by exit level.

    Parameters
    ----------
    inputs : Inputs
        evaluation, and selection to mark the selected jump.
    metrics : sequence of str
        Precisions, a panel each.

    Raises
    ------
    OneJumpError
        If the limit was not evaluated.
    """
    table = inputs.table("evaluation")
    labels = labels_of(inputs, table)
    if not labels.pop(_LIMIT, None):
        raise OneJumpError(
            f"figure {inputs.figure}: {_LIMIT}, the limit to compare with, is not among the evaluated "
            f"{', '.join(labels)}: the study needs shortcuts.{_LIMIT}"
        )
    panels = {
        metric: [_share_of_limit(table, metric, method, label) for method, label in labels.items()]
        for metric in measured(inputs, table, metrics)
    }
    return level_figure(
        "Precision as a share of the full-rank limit's",
        table,
        panels,
        limit=_LIMIT,
        mark=inputs.selected(),
        predicts=inputs.predicts,
    )


def _share_of_limit(table: pd.DataFrame, metric: str, method: str, label: str) -> Curve:
    """Divide a method's precision by the limit's; not a number where that is zero."""
    curve, limit = curve_of(table, metric, method, label), curve_of(table, metric, _LIMIT, "")
    assert curve.errors is not None
    assert limit.errors is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(limit.values > 0, curve.values / limit.values, np.nan)
        # As if the two were of different samples.
        errors = np.hypot(curve.errors, shares * limit.errors) / limit.values
    return curve._replace(values=shares, errors=errors)
