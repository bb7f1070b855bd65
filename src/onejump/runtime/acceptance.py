"""How often tokens exit, and how often their drafts are kept: measured from the rounds so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A mean over more rounds than this forgets the older ones.
_MEMORY = 64
# Of what was learned, half as much is sure when 300 tokens have come since.
_FADING = 0.5 ** (1 / 300)
# After a long time without news, one round moves a mean of many by an eighth of the way at most.
_SLOWEST = 8
# What is taken for the share of exits, and of drafts kept, before any was seen, and how many rounds that
# counts.
_EXITS, _KEPT, _COUNT = 0.5, 0.5, 2.0
# How many rounds an expectation from a calibration counts.
_CALIBRATED = 8.0
# How many rounds the mean over all drafts of a level counts against that of one place in the chain, and the
# mean over all levels against that of one level.
_POOLED, _ALL = 16.0, 4.0
# The odds that one of k candidates is kept, in units of those of one candidate, are about k^0.5.
_CANDIDATES = 0.5


class Expected(NamedTuple):
    """What a calibration found at a level of a gate."""

    exits: float
    """Share of the tokens checked there that exit."""
    kept: float
    """Share of these exits that agree with the full model."""


class _Means:
    """Means over the last rounds, with how many rounds each counts for, and how many it is sure of."""

    def __init__(self, mean: Floats, count: Floats) -> None:
        self.mean, self.count, self.sure, self._least = mean.copy(), count.copy(), count.copy(), count

    def add(self, place: tuple[int, ...], value: bool) -> None:
        self.count[place] = min(self.count[place] + 1, _MEMORY)
        self.sure[place] = min(self.sure[place] + 1, _MEMORY)
        rounds = max(self.sure[place], min(self.count[place], _SLOWEST))
        self.mean[place] += (value - self.mean[place]) / rounds

    def fade(self, kept: float) -> None:
        self.sure = np.maximum(self.sure * kept, self._least)


class Acceptance:
    """Exits by level, and drafts kept by level, place in the chain and number of candidates.

    Parameters
    ----------
    levels : sequence of int
        Levels that the gate checks, rising.
    most : int
        Most drafts in a chain.
    widths : sequence of int
        Numbers of candidates, each more than one.
    expected : mapping of level -> Expected
        Of a calibration, for any of the levels.
    """

    def __init__(
        self, levels: Sequence[int], most: int, widths: Sequence[int], expected: Mapping[int, Expected]
    ) -> None:
        self._place = {level: place for place, level in enumerate(levels)}
        self._widths = {width: place for place, width in enumerate(widths)}
        first = [expected.get(level, Expected(_EXITS, _KEPT)) for level in levels]
        known = np.array([_CALIBRATED if level in expected else 0.0 for level in levels])
        self._exits = _Means(np.array([one.exits for one in first]), known + _COUNT)
        self._kept_ever = _Means(np.array([_KEPT]), np.array([_COUNT]))
        # A level that was calibrated needs no other level to go by.
        self._of_others = np.where(known > 0, 0.0, _ALL)
        self._kept = _Means(np.array([one.kept for one in first]), known)
        self._kept_at = _Means(np.zeros((most, len(levels))), np.zeros((most, len(levels))))
        self._kept_of = _Means(np.zeros((len(widths), len(levels))), np.zeros((len(widths), len(levels))))
        self._odds = np.array(widths, np.float64)[:, None, None] ** _CANDIDATES
        self._kept_so_far = np.zeros(most, np.int64)
        self._recalled = _Means(np.array([_KEPT]), np.array([_COUNT]))

    @property
    def longest(self) -> int:
        """How many drafts a chain may have: one more than chains whose last draft has been kept twice."""
        return int(min(np.logical_and.accumulate(self._kept_so_far >= 2).sum() + 1, len(self._kept_so_far)))

    def learn(
        self,
        exit_levels: Sequence[int],
        accepted: int,
        *,
        checked: Sequence[int],
        ended: bool,
        width: int,
        recalled: Sequence[bool] = (),
    ) -> None:
        """Take note of a round.

        Parameters
        ----------
        exit_levels : sequence of int
            Level of each draft, in order.
        accepted : int
            Drafts that were kept.
        checked : sequence of int
            Levels that were checked.
        ended : bool
            Whether the chain ended because a token did not exit.
        width : int
            Candidates of the last draft; 1 if the round did not come to it.
        recalled : sequence of bool
            Whether each draft was recalled from the text; empty: none was.
        """
        recalled = recalled or [False] * len(exit_levels)
        for level in [level for level, known in zip(exit_levels, recalled, strict=True) if not known]:
            for before in checked:
                if before <= level:
                    self._exits.add((self._place[before],), before == level)
        if ended:
            for level in checked:
                self._exits.add((self._place[level],), False)
        # Of the drafts behind the first one that was rejected, nothing is known.
        for number, level in enumerate(exit_levels[: accepted + 1]):
            kept = number < accepted
            if recalled[number]:
                self._recalled.add((0,), kept)
                continue
            place = self._place[level]
            if width > 1 and number == len(exit_levels) - 1:
                self._kept_of.add((self._widths[width], place), kept)
            else:
                self._kept_ever.add((0,), kept)
                self._kept.add((place,), kept)
                self._kept_at.add((number, place), kept)
            self._kept_so_far[number] += kept

    def fade(self, tokens: int) -> None:
        """Be less sure of what was learned, as text changes. The means stay."""
        every = self._exits, self._kept_ever, self._kept, self._kept_at, self._kept_of, self._recalled
        for means in every:
            means.fade(_FADING**tokens)

    def exits(self) -> Floats:
        """Share of the tokens checked at each level that exit there: (levels,)."""
        return self._exits.mean

    def recalled(self, optimism: float = 0.0) -> float:
        """Share of recalled drafts that are kept, if all before them were."""
        return float(_raised(self._recalled.mean, self._recalled.sure, optimism)[0])

    def kept(self, optimism: float = 0.0) -> tuple[Floats, Floats]:
        """Share of drafts that are kept, if all before them were.

        Parameters
        ----------
        optimism : float
            How many standard deviations to add, for what has been seen seldom.

        Returns
        -------
        ndarray of shape (most, levels)
            By the place in the chain, of one candidate.
        ndarray of shape (widths, most, levels)
            Of the last draft of a chain, by the number of candidates.
        """
        of_level = _blended(self._kept.count, self._kept.mean, self._kept_ever.mean, self._of_others)
        one = _blended(self._kept_at.count, self._kept_at.mean, of_level, _POOLED)
        first = self._odds * one / (1 - one + self._odds * one)
        wide = _blended(self._kept_of.count[:, None], self._kept_of.mean[:, None], first, _POOLED)
        sure = np.minimum(self._kept.sure + np.minimum(self._kept_ever.sure, self._of_others), _POOLED)
        return (
            _raised(one, self._kept_at.sure + sure, optimism),
            _raised(wide, self._kept_of.sure[:, None] + sure, optimism),
        )


def _blended(count: Floats, mean: Floats, pooled: Floats, rounds: float | Floats) -> Floats:
    """Means of some rounds, shrunk to pooled ones, which count for some rounds."""
    blended: Floats = (count * mean + rounds * pooled) / (count + rounds)
    return blended


def _raised(mean: Floats, count: Floats, optimism: float) -> Floats:
    # A mean of 0 or 1 over few rounds is not certain: half a round of each is added for its spread.
    smoothed = (mean * count + 0.5) / (count + 1)
    raised: Floats = np.minimum(mean + optimism * np.sqrt(smoothed * (1 - smoothed) / (count + 1)), 1.0)
    return raised
