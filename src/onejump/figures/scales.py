"""The y axis of a panel of curves: limits in which the bulk of the curves can be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from onejump.figures.curves import Curve
from onejump.figures.frame import Floats, plain_numbers

_HEAVY_TAILED = ("surprisal", "kl")
"""Metrics without an upper bound: a few levels can lie far from all others."""


def set_scale(ax: Axes, metric: str, curves: Sequence[Curve]) -> tuple[float, float]:
    """Set limits in which the bulk of the curves and their bands can be read, whatever outliers do.

    Parameters
    ----------
    ax : Axes
    metric : str
    curves : sequence of Curve

    Returns
    -------
    low, high : float
    """
    values, lower, upper = _finite(metric, curves)
    if metric == "r2":
        low, high = (float(lower.min()), float(upper.max())) if values.size else (0.0, 1.0)
        low, high = max(-1.0, min(low, 0.0)), min(1.0, max(high, 0.1))
        pad = 0.04 * (high - low)
        # -1 cuts curves off: the axis ends there. Elsewhere there is some room below the lowest curve.
        low, high = low - pad if low > -1 else -1.0, high + pad
    elif metric in _HEAVY_TAILED and (values > 0).any():
        shown = values > 0
        values, lower, upper = values[shown], lower[shown], upper[shown]
        low = max(float(values.min()), float(np.median(values)) / 300)
        few, most = np.quantile(values, (0.2, 0.8))
        high = min(float(values.max()), float(most * max(1.5, (most / few) ** 1.5)))
        if wide := high > 4 * low:
            # A log axis has room for more of what leaves the bulk.
            high = min(float(values.max()), max(high, float(3 * most)))
        inside = values <= high
        high = float(upper[inside].max())
        if wide:
            # A band that reaches down to zero has no end on a log axis.
            low = max(float(lower[values >= low].min()), low / 3)
            low, high = low / 1.15, high * 1.15
            _log_axis(ax, low, high)
        else:
            low = float(lower[inside].min())
            pad = max(0.06 * (high - low), 0.03 * high)
            low, high = max(0.0, low - pad), high + pad
    else:
        low, high = 0.0, max(0.01, 1.06 * float(upper.max(initial=0.0)))
        high = min(high, 1.03)
    ax.set_ylim(low, high)
    return low, high


def set_share_scale(ax: Axes, curves: Sequence[Curve]) -> tuple[float, float]:
    """Set limits for shares of another method: from 0 to 1, or up to 2 where curves reach beyond 1.

    Parameters
    ----------
    ax : Axes
    curves : sequence of Curve

    Returns
    -------
    low, high : float
    """
    values, _, upper = _finite("share", curves)
    most = max(1.0, float(upper[values <= 1.5].max(initial=0.0)))
    limits = 0.0, 1.06 * min(most, 2.0)
    ax.set_ylim(limits)
    return limits


def _finite(metric: str, curves: Sequence[Curve]) -> tuple[Floats, Floats, Floats]:
    """Give the finite values of all curves, and the lower and upper ends of their bands there."""
    bounds = [curve.bounds(metric) for curve in curves]
    values = np.concatenate([curve.values for curve in curves])
    lower, upper = (np.concatenate(ends) for ends in zip(*bounds, strict=True))
    known = np.isfinite(values)
    values, lower, upper = values[known], lower[known], upper[known]
    return values, np.where(np.isfinite(lower), lower, values), np.where(np.isfinite(upper), upper, values)


def _log_axis(ax: Axes, low: float, high: float) -> None:
    ax.set_yscale("log")
    decades = np.log10(high / low)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=20))
    ax.yaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=99))
    ax.yaxis.set_major_formatter(plain_numbers())
    ax.yaxis.set_minor_formatter(NullFormatter())
