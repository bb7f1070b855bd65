"""From a confidence to the probability that an exit agrees with the full model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onejump.exits.confidences import Floats

# A float32 probability that rounds to one still has finite log odds.
_LARGEST_PROBABILITY = 1 - 2.0**-24
# With larger log odds, the odds times a number of blocks would overflow.
_LARGEST_LOG_ODDS = 600.0
# Newton's method ends after this many steps, or when a step can lower the loss by less than this.
_STEPS, _CONVERGED = 100, 1e-10


class Calibration:
    """Probability that a level's predicted token is the full model's, from the token's own probability p.

    At each level it is a logistic function of ln(p / (1 - p)) [1]_. A few hundred samples determine its two
    numbers; they do not determine a separate threshold for each level, or an isotonic function.

    Parameters
    ----------
    probabilities : ndarray of shape (n, L)
    hits : ndarray of shape (n, L), bool
    others : sequence of ndarray of shape (n, L)
        What else the probability to agree may depend on, such as the kind of the predicted token.

    Attributes
    ----------
    weights : ndarray of shape (L, 2 + len(others))
        Of the constant, of ln(p / (1 - p)), and of each of the others.

    References
    ----------
    .. [1] J. Platt, "Probabilistic outputs for support vector machines and comparisons to regularized
       likelihood methods", Advances in Large Margin Classifiers, 1999.
    """

    def __init__(
        self, probabilities: Floats, hits: NDArray[np.bool_], others: Sequence[NDArray[Any]] = ()
    ) -> None:
        inputs = np.stack([log_odds_of(probabilities), *others])
        self.weights = np.stack(
            [
                _logistic_regression(inputs[:, :, level].T, hits[:, level].astype(np.float64))
                for level in range(hits.shape[1])
            ]
        )

    def odds(self, probabilities: Floats, others: Sequence[NDArray[Any]] = ()) -> Floats:
        """Odds g / (1 - g), g the calibrated probability to agree with the full model.

        Parameters
        ----------
        probabilities : ndarray of shape (n, L)
        others : sequence of ndarray of shape (n, L)
            As the calibration was made with.

        Returns
        -------
        ndarray of shape (n, L)
        """
        constant, slope, *more = self.weights.T
        log_odds = constant + slope * log_odds_of(probabilities)
        for weight, other in zip(more, others, strict=True):
            log_odds = log_odds + weight * other
        odds: Floats = np.exp(log_odds.clip(max=_LARGEST_LOG_ODDS))
        return odds


def log_odds_of(probabilities: Floats) -> Floats:
    """Give ln(p / (1 - p)), finite for all p from 0 to 1.

    Parameters
    ----------
    probabilities : ndarray
    """
    p = probabilities.clip(1 - _LARGEST_PROBABILITY, _LARGEST_PROBABILITY)
    log_odds: Floats = np.log(p) - np.log1p(-p)
    return log_odds


def _logistic_regression(inputs: Floats, outcomes: Floats) -> Floats:
    """Constant and slopes of least log loss for inputs (n, k) and outcomes (n,), by Newton's method.

    The prior of the weights is a normal distribution of variance one around 0, and around 1 for the first
    input: without samples that input is taken as it is. The prior keeps all weights finite where one
    threshold separates all outcomes.
    """
    design = np.column_stack([np.ones(len(inputs)), inputs])
    prior = np.zeros(design.shape[1])
    prior[1] = 1.0

    def loss(weights: Floats) -> float:
        z = design @ weights
        return float((np.logaddexp(0, z) - outcomes * z).sum() + np.square(weights - prior).sum() / 2)

    weights, least = prior, loss(prior)
    for _ in range(_STEPS):
        fitted = np.exp(-np.logaddexp(0, -design @ weights))
        slope = design.T @ (fitted - outcomes) + weights - prior
        curvature = (design.T * (fitted * (1 - fitted))) @ design + np.eye(len(prior))
        step = np.linalg.solve(curvature, slope)
        if slope @ step < _CONVERGED:
            break
        # The loss is convex, so a small enough part of the step lowers it.
        while loss(weights - step) > least and slope @ step > _CONVERGED:
            step /= 2
        weights = weights - step
        least = loss(weights)
    return weights
