"""Rules: how the confidence that an exit needs depends on the level and on the token's position.

A rule gives each sample at each level a score, and the sample exits at the first level whose score reaches
one threshold lambda. A gate is a rule with its threshold. As there is one threshold for all levels, all
thresholds can be tried by one sort (`onejump.exits.sweep`). With p the probability of the predicted token:

| rule | exits where |
|---|---|
| fixed | p >= lambda |
| decaying | p >= 0.9 lambda + 0.1 exp(-tau t / N), t the token's position (CALM, arXiv 2207.07061) |
| per-level | (L - l) / (1 - g) >= lambda, g the calibrated probability to agree with the full model |

The rule per-level gives each level its own threshold on p. Its lambda is the number of blocks that one
expected disagreement has to save: an exit that saves more blocks may be less sure. This is the greedy
solution, by ratio, of saving the most blocks at a given agreement. Thresholds fitted to that problem level by
level, backwards or by coordinate ascent, were better on the held-out samples but not on others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onejump.base.errors import StudyError
from onejump.exits.calibration import Calibration
from onejump.exits.confidences import Confidences, Floats

RULES = ("fixed", "decaying", "per-level")

Rule = Callable[[Confidences], Floats]
"""Scores (n, L) of confidences, to be compared with one threshold."""


def rule_of(
    name: str, held_out: Confidences, *, tau: float = 4.0, length: float | None = None, from_level: int = 0
) -> Rule:
    """A rule, fitted to held-out samples.

    Parameters
    ----------
    name : {"fixed", "decaying", "per-level"}
    held_out : Confidences
        What the rule is fitted to.
    tau : float
        How fast the decaying threshold falls.
    length : float, optional
        N of the decaying threshold, the tokens of an average sentence. Unless given it is 2 mean(t) + 1, as
        positions t are drawn evenly from a sentence.
    from_level : int
        The first level to exit from.

    Raises
    ------
    StudyError
        If there is no such rule or level.
    """
    levels = held_out.probabilities.shape[1]
    if not 0 <= from_level < levels:
        raise StudyError(f"from_level: {from_level} given, 0 to {levels - 1} accepted")
    scores: Rule
    if name == "fixed":
        scores = _fixed
    elif name == "decaying":
        scores = _decaying(tau, 2 * float(held_out.positions.mean()) + 1 if length is None else length)
    elif name == "per-level":
        scores = _per_level(Calibration(held_out.probabilities, held_out.hits))
    else:
        raise StudyError(f"rule: {name!r} given, accepted is {', '.join(RULES)}")
    return lambda found: np.where(np.arange(levels) < from_level, -np.inf, scores(found))


def _fixed(found: Confidences) -> Floats:
    return found.probabilities


def _decaying(tau: float, length: float) -> Rule:
    def scores(found: Confidences) -> Floats:
        decayed: Floats = 0.1 * np.exp(-tau * found.positions / length)
        return (found.probabilities - decayed[:, None]) / 0.9

    return scores


def _per_level(calibration: Calibration) -> Rule:
    """Blocks saved for each expected disagreement."""

    def scores(found: Confidences) -> Floats:
        saved = np.arange(found.probabilities.shape[1], 0, -1)
        return saved * (1 + calibration.odds(found.probabilities))

    return scores
