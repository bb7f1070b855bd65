"""How long a round takes: a linear model of its parts, fitted to the seconds of the rounds so far.

A round that keeps k drafts pending runs its last token, and its candidates, through all blocks, and the
pending tokens through the blocks above the level that each exited at. Its seconds are the sum over seven
parts of an amount times what one of it costs:

| part | amount |
|---|---|
| plain | 1: a pass of one token through all blocks |
| together | share of the blocks that run more than one token |
| more | tokens beside the first that run through a block, mean over blocks |
| depth | blocks that drafts run through, as a share of all blocks, summed over drafts |
| checks | levels checked, summed over tokens |
| drafts | drafts |
| wide | 1 where candidates stand side by side: their pass needs a mask of its own |

What they cost changes slowly, as keys and values become more: each cost is a random walk that is pulled back
to its first value, and a Kalman filter follows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PARTS = ("plain", "together", "more", "depth", "checks", "drafts", "wide")
# First values of the costs and how uncertain they are, in units of a plain round. The first values are those
# of packed weights, where more tokens cost little: an optimist tries, and knows after one round.
_FIRST = np.array([1.0, 0.03, 0.03, 0.9, 0.01, 0.02, 0.05])
_UNCERTAIN = np.array([0.15, 0.5, 0.15, 0.3, 0.03, 0.1, 0.1])
# Spread of the seconds of equal rounds.
_NOISE = 0.1
# How much of what was learned is kept from a round to the next.
_KEPT = 0.99
# Plain rounds that are needed first. The faster one counts: the first round of all is often a slow one.
_PLAIN_ROUNDS = 2
# A round that takes this many times what was expected has been disturbed, and is taken for one that took
# this.
_MOST = 2.0


class RoundSeconds:
    """Seconds of a round, by its parts.

    Attributes
    ----------
    costs : ndarray of shape (7,)
        Seconds of each part; before two plain rounds were seen, in units of an unknown plain round.
    """

    def __init__(self) -> None:
        self.costs: Floats = _FIRST.copy()
        self._first = np.diag(_UNCERTAIN**2)
        self._covariance = self._first
        self._noise = _NOISE**2
        self._plain: list[float] = []

    @property
    def known(self) -> bool:
        """Whether enough plain rounds were seen."""
        return len(self._plain) >= _PLAIN_ROUNDS

    @property
    def plain(self) -> float:
        """Seconds of a plain round."""
        return float(self.costs[0])

    def usual(self, amounts: Floats, seconds: float) -> float:
        """Give the seconds of a round, at most twice what was expected."""
        return min(seconds, _MOST * float(amounts @ self.costs))

    def learn(self, amounts: Floats, seconds: float) -> None:
        """Take note of a round.

        Parameters
        ----------
        amounts : ndarray of shape (7,)
            Of each part in the round.
        seconds : float
        """
        if not timed(seconds):
            return
        if not self.known:
            if not amounts[1:].any():
                self._plain.append(seconds)
                if len(self._plain) == _PLAIN_ROUNDS:
                    self._begin(min(self._plain))
            return
        kept = self._covariance * _KEPT + self._first * (1 - _KEPT)
        gain = kept @ amounts / (amounts @ kept @ amounts + self._noise)
        surprise = self.usual(amounts, seconds) - amounts @ self.costs
        # No part costs less than nothing.
        self.costs = np.maximum(self.costs + gain * surprise, 1e-3 * self.costs[0] * _FIRST)
        self._covariance = kept - np.outer(gain, amounts @ kept)

    def _begin(self, plain: float) -> None:
        self.costs = plain * _FIRST
        self._first = self._covariance = plain**2 * self._first
        self._noise *= plain**2


def timed(seconds: float) -> bool:
    """Tell whether seconds are those of a round: a clock that was set back gives others."""
    return bool(np.isfinite(seconds) and seconds > 0)


def amounts_of(blocks: int, exit_levels: Sequence[int], *, width: int, checks: int) -> Floats:
    """Count the parts of a round that has been.

    Parameters
    ----------
    blocks : int
        L.
    exit_levels : sequence of int
        Level of each draft.
    width : int
        Candidates of the last draft; 1 if the round did not come to it.
    checks : int
        Levels checked, summed over tokens.

    Returns
    -------
    ndarray of shape (7,)
    """
    drafts = len(exit_levels)
    extra = width - 1
    together = 0.0 if drafts == 0 else 1.0 if extra else 1 - min(exit_levels) / blocks
    depth = sum(exit_levels) / blocks
    more, wide = drafts - depth + extra, float(extra > 0)
    return np.array([1.0, together, more, depth, float(checks), float(drafts), wide])
