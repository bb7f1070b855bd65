"""Thresholds that are chosen on held-out samples, with what is to be known about each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onejump.exits.calibration import Calibration
from onejump.exits.confidences import Confidences, Floats
from onejump.exits.enough_samples import few_agreements, too_few_for
from onejump.exits.guarantee import (
    last_guaranteed,
    learning_part,
    thresholds_to_try,
    too_few_to_guarantee,
)
from onejump.exits.rules import Rule, rule_of
from onejump.exits.sweep import Sweep

_LOG = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """A threshold for an agreement."""

    threshold: float
    """inf where none reaches the agreement, or the samples are too few to choose one: nothing exits."""
    note: str
    """What to know about it, or an empty text."""


def choose_threshold(
    sweep: Sweep, target: float, held_out: Confidences, rule: str, from_level: int
) -> Chosen:
    """Choose the threshold of a rule that reaches an agreement on held-out samples.

    Parameters
    ----------
    sweep : Sweep
        Of the rule's scores of the held-out samples.
    target : float
        The agreement.
    held_out : Confidences
    rule : str
        Of `onejump.exits.rules`.
    from_level : int
        The first level to exit from.
    """
    refused = too_few_for(target, held_out.documents)
    if refused:
        return Chosen(float("inf"), refused)
    note = few_agreements(held_out, from_level) if rule == "per-level" else ""
    return Chosen(sweep.reaching(target), note)


def choose_guaranteed(
    rule: str, seen: Confidences, target: float, guarantee: float, from_level: int
) -> tuple[Rule, Chosen]:
    """Choose a rule's threshold whose agreement holds with a stated probability (`onejump.exits.guarantee`).

    Parameters
    ----------
    rule : {"fixed", "per-level"}
    seen : Confidences
        Of held-out samples.
    target : float
        The agreement.
    guarantee : float
        The probability.
    from_level : int
        The first level to exit from.

    Returns
    -------
    rule : function of confidences that gives scores
        Fitted to the documents to learn from.
    chosen : Chosen
    """
    part = learning_part(seen.documents)
    learned, tested = _some(seen, part), _some(seen, ~part)
    scores = rule_of(rule, learned, from_level=from_level)
    note = too_few_to_guarantee(target, guarantee, tested.documents)
    threshold = None
    if not note:
        sweep = Sweep(scores(tested), tested.hits)
        threshold = last_guaranteed(
            thresholds_to_try(Sweep(scores(learned), learned.hits)).tolist(),
            lambda tried: sweep.exits(tried)[0],
            tested.documents,
            target,
            guarantee,
        )
    if threshold is None:
        note = note or f"no threshold has an agreement of {target:g} with a guarantee of {guarantee:g}"
        return scores, Chosen(float("inf"), note)
    return scores, Chosen(threshold, note)


def _some(found: Confidences, samples: NDArray[np.bool_]) -> Confidences:
    return Confidences(
        found.probabilities[samples],
        found.hits[samples],
        found.positions[samples],
        found.documents[samples],
    )


def log_notes(found: pd.DataFrame) -> None:
    """Log each note of a table once, with the methods that it is about.

    Parameters
    ----------
    found : DataFrame
        With columns method and note.
    """
    for text, of_note in found[found["note"] != ""].groupby("note", sort=False):
        _LOG.warning("%s: %s", ", ".join(of_note["method"].unique()), text)


class LevelThresholds:
    """A threshold on the confidence for each level, from one threshold on what an exit saves.

    Level l exits where s_l / (1 - g_l) reaches one lambda: s_l is what exiting there saves, g_l the
    probability to agree, calibrated from the confidence. That is the rule per-level (`onejump.exits.rules`)
    as a threshold on the confidence of each level.

    Parameters
    ----------
    confidence : ndarray of shape (n, L)
        From 0 to 1.
    hits : ndarray of shape (n, L), bool
    """

    def __init__(self, confidence: Floats, hits: NDArray[np.bool_]) -> None:
        self._confidence, self._hits = confidence, hits
        self._calibration = Calibration(confidence, hits)
        self._odds = self._calibration.odds(confidence)
        # More sure has to mean more likely to agree.
        self._usable = self._calibration.weights[:, 1] > 0

    def _scores(self, levels: list[int], saved: Floats) -> Floats:
        scores: Floats = np.where(self._usable[levels], saved * (1 + self._odds[:, levels]), -np.inf)
        return scores

    def reaching(self, target: float, levels: list[int], saved: Floats) -> dict[int, float]:
        """Choose thresholds that reach an agreement.

        Parameters
        ----------
        target : float
        levels : list of int
            Levels that are checked, rising.
        saved : ndarray of shape (levels,)
            What an exit at each of them saves.

        Returns
        -------
        dict of level -> threshold
            Of each level, the least confidence of a sample that exits: so rounding makes no difference. A
            level where none does is not among them.
        """
        scores = self._scores(levels, saved)
        threshold = Sweep(scores, self._hits[:, levels]).reaching(target)
        reaching = {
            level: self._confidence[scores[:, place] >= threshold, level]
            for place, level in enumerate(levels)
        }
        return {level: float(those.min()) for level, those in reaching.items() if len(those)}

    def stricter_first(self, levels: list[int], saved: Floats) -> Iterator[dict[int, float]]:
        """Go through thresholds of the levels, each of one lambda, the strictest first.

        Parameters
        ----------
        levels, saved
            As in `reaching`.

        Yields
        ------
        dict of level -> threshold
            Of the levels whose confidence says something.
        """
        constants, slopes = self._calibration.weights[levels].T
        for threshold in thresholds_to_try(Sweep(self._scores(levels, saved), self._hits[:, levels])):
            # saved (1 + odds) reaches lambda where the odds reach this.
            odds = threshold / saved - 1
            with np.errstate(divide="ignore", invalid="ignore"):
                log_odds = (np.log(odds.clip(0)) - constants) / slopes
            confidence = np.exp(-np.logaddexp(0, -log_odds))
            yield {
                level: float(one)
                for level, one, usable in zip(levels, confidence, self._usable[levels], strict=True)
                if usable
            }
