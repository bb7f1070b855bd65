"""Curves: a metric of a method by exit level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onejump.figures.frame import Floats
from onejump.figures.looks import LOOKS, look_of


class Curve(NamedTuple):
    """A metric by exit level."""

    label: str
    """Its entry in the legend; empty for none."""
    name: str
    """Its name in the note on values beyond the axis."""
    levels: NDArray[np.int64]
    """(n,)"""
    values: Floats
    """(n,)"""
    errors: Floats | None
    """Standard errors to shade, (n,), or None to shade nothing."""
    style: dict[str, Any]
    """Keywords of `Axes.plot`, color and zorder among them."""

    def bounds(self, metric: str) -> tuple[Floats, Floats]:
        """Give the values minus and plus their standard errors, cut at what the metric can be.

        Parameters
        ----------
        metric : str

        Returns
        -------
        lower, upper : (n,) array
        """
        if self.errors is None:
            return self.values, self.values
        least, most = _range(metric)
        with np.errstate(invalid="ignore"):  # infinite values have no error
            return np.clip(self.values - self.errors, least, most), np.clip(
                self.values + self.errors, least, most
            )


def _range(metric: str) -> tuple[float, float]:
    """Give the least and the greatest value that a metric can have."""
    if metric.startswith("precision"):
        return 0.0, 1.0
    return (-np.inf, 1.0) if metric == "r2" else (0.0, np.inf)


def curve_of(
    table: pd.DataFrame, metric: str, method: str, label: str, style: Mapping[str, Any] | None = None
) -> Curve:
    """Take the curve of a method from a table.

    Parameters
    ----------
    table : DataFrame
        Columns method, metric, level, value and stderr.
    metric, method : str
    label : str
        In the legend; empty for none.
    style : mapping, optional
        Keywords of `Axes.plot`; by default the look of the method, its marks beside those of other methods.

    Raises
    ------
    OneJumpError
        If no style is given and the method has no look.
    """
    rows = table[(table["method"] == method) & (table["metric"] == metric)].sort_values("level")
    if style is None:
        step = max(1, len(rows) // 8)
        look = look_of(method)
        style = look.style() | {"markevery": (list(LOOKS).index(method) * step // len(LOOKS), step)}
    return Curve(
        label,
        method,
        rows["level"].to_numpy(np.int64),
        rows["value"].to_numpy(np.float64),
        rows["stderr"].to_numpy(np.float64),
        dict(style),
    )


def curves_of(
    table: pd.DataFrame, metrics: Sequence[str], labels: Mapping[str, str]
) -> dict[str, list[Curve]]:
    """Take the curves of several methods from a table.

    Parameters
    ----------
    table : DataFrame
        Columns method, metric, level, value and stderr.
    metrics : sequence of str
    labels : mapping
        The methods, with their labels in the legend.

    Returns
    -------
    dict of list of Curve
        By metric.
    """
    return {
        metric: [curve_of(table, metric, method, label) for method, label in labels.items()]
        for metric in metrics
    }
