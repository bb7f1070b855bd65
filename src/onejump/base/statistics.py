"""The statistics of each token and level that figures of the lens show as colours."""

from __future__ import annotations

from typing import NamedTuple

from onejump.base.errors import OneJumpError


class Statistic(NamedTuple):
    """How figures show a statistic."""

    label: str
    """What it measures, with its unit."""
    highest: float | None = None
    """Upper end of the scale; None: what the values are."""
    logarithmic: bool = False
    """Whether the scale is logarithmic."""


STATISTICS = {
    "probability": Statistic("probability of the most likely token", highest=1.0),
    "entropy": Statistic("entropy (nats)"),
    "surprisal": Statistic("surprisal of the next token (nats)"),
    "rank": Statistic("rank of the next token", logarithmic=True),
    "forward_kl": Statistic("KL divergence from the last level (nats)"),
    "agreement": Statistic("most likely token is the last level's (1) or not (0)", highest=1.0),
}
"""Each statistic by the name of its method of `onejump.Trajectory`."""

LEVEL_COLOURS = ("#ffffe5", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#35a3cc")
"""Colours of heat maps with text in their cells, from low to high values: black can be read on each of them.

The first of them are those of ColorBrewer's YlGnBu, which the colour-blind can tell apart.
"""
MOST_OF_THEM = 0.98
"""The scale ends at this quantile of the values: a few large ones would leave all others one colour."""


def statistic_named(name: str) -> Statistic:
    """Give a statistic.

    Raises
    ------
    OneJumpError
        If there is no such statistic.
    """
    if name not in STATISTICS:
        raise OneJumpError(f"statistic {name!r} given, accepted is one of {', '.join(STATISTICS)}")
    return STATISTICS[name]
