"""Curves: a metric of a method by exit level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onejump.figures.frame import Floats
from onejump.figures.looks import LOOKS


class Curve(NamedTuple):
    """A metric by exit level."""

    label: str
    """In the legend; empty for none."""
    name: str
    """In the note on values beyond the axis."""
    levels: NDArray[np.int64]
    values: Floats
    errors: Floats | None
    """Standard errors to shade, if any."""
    style: dict[str, Any]

    def bounds(self, metric: str) -> tuple[Floats, Floats]:
        """Values less and plus their standard errors, within what the metric can be."""
        if self.errors is None:
            return self.values, self.values
        least, most = _range(metric)
        with np.errstate(invalid="ignore"):  # infinite values have no error
            return np.clip(self.values - self.errors, least, most), np.clip(
                self.values + self.errors, least, most
            )


def _range(metric: str) -> tuple[float, float]:
    """What a metric can be."""
    if metric.startswith("precision"):
        return 0.0, 1.0
    return (-np.inf, 1.0) if metric == "r2" else (0.0, np.inf)


def curve_of(table: pd.DataFrame, metric: str, method: str, label: str) -> Curve:
    rows = table[(table["method"] == method) & (table["metric"] == metric)].sort_values("level")
    style: dict[str, Any] = {}
    if method in LOOKS:
        style = LOOKS[method].style()
        step = max(1, len(rows) // 8)
        style["markevery"] = (list(LOOKS).index(method) * step // len(LOOKS), step)
    return Curve(
        label,
        method,
        rows["level"].to_numpy(np.int64),
        rows["value"].to_numpy(np.float64),
        rows["stderr"].to_numpy(np.float64),
        style,
    )


def curves_of(
    table: pd.DataFrame, metrics: Sequence[str], labels: Mapping[str, str]
) -> dict[str, list[Curve]]:
    """Take a curve of each method, by metric.

    Parameters
    ----------
    table : DataFrame
        Of `onejump.scoring.collection.collect`.
    metrics : sequence of str
    labels : mapping
        The methods, with their labels in the legend.
    """
    return {
        metric: [curve_of(table, metric, method, label) for method, label in labels.items()]
        for metric in metrics
    }
