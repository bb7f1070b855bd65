"""What exits give at every threshold: agreement with the full model, and blocks processed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onejump.exits.confidences import Floats


class Sweep:
    """Exits at the first level whose score reaches a threshold, for all thresholds at once.

    Parameters
    ----------
    scores : ndarray of shape (n, L)
        Of a rule (`onejump.exits.rules`): finite, or -inf where there is no exit.
    hits : ndarray of shape (n, L), bool
        Whether an exit there agrees with the full model. A sample that never exits agrees.
    """

    def __init__(self, scores: Floats, hits: NDArray[np.bool_]) -> None:
        self.samples, self.levels = scores.shape
        self._hits = hits
        # A sample has exited at a level or below it where the highest score so far reaches the threshold.
        self._highest = np.maximum.accumulate(scores, 1)
        before = np.concatenate([np.full((len(scores), 1), -np.inf), self._highest[:, :-1]], 1)
        agreeing = hits & (self._highest > before)
        # A sample exits at a level for thresholds above the highest score of the levels before it, up to the
        # highest score so far.
        self._above, self._up_to = np.sort(before[agreeing]), np.sort(self._highest[agreeing])
        self._never, self._sorted = np.sort(self._highest[:, -1]), np.sort(self._highest, axis=None)

    def at(self, thresholds: Floats) -> tuple[Floats, Floats]:
        """Agreement with the full model, and mean blocks processed.

        Parameters
        ----------
        thresholds : ndarray

        Returns
        -------
        two ndarrays of the shape of the thresholds
        """
        above, up_to, never, blocks = (
            np.searchsorted(values, thresholds)
            for values in (self._above, self._up_to, self._never, self._sorted)
        )
        # Differences of counts are exact: an agreement that just reaches a target is not rounded below it.
        return (above - up_to + never) / self.samples, blocks / self.samples

    def exits(self, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether each sample agrees with the full model, and its level of exit, L where it never exits.

        The level of exit is also the number of blocks processed.
        """
        level = (self._highest < threshold).sum(1)
        at_exit = self._hits[np.arange(self.samples), np.minimum(level, self.levels - 1)]
        return at_exit | (level == self.levels), level

    def thresholds(self, count: int | None = None) -> Floats:
        """Thresholds at which exits change, rising; the last is inf, at which nothing exits.

        Parameters
        ----------
        count : int, optional
            About how many, evenly spaced in blocks processed; unless given, all.
        """
        values = self._sorted[np.isfinite(self._sorted)]
        if count is not None:
            values = values[np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)]
        return np.append(np.unique(values), np.inf)

    def reaching(self, target: float) -> float:
        """The lowest threshold whose agreement reaches the target, as that of all higher thresholds does.

        Thresholds are tried from the strictest on (CALM, arXiv 2207.07061): a low threshold that reaches the
        target by luck, though higher ones miss it, is not taken.
        """
        thresholds = self.thresholds()
        agreement, _ = self.at(thresholds)
        missed = (agreement < target).nonzero()[0]
        return float(thresholds[missed[-1] + 1 if len(missed) else 0])
