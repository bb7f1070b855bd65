"""The fit of learned gates: from the predicted token's probability and the jump's coordinates to agreement.

The log odds that a prediction agrees at level l are c_l + k_l ln(p / (1 - p)) + w_l z: c and k of each level
by itself, as in `onejump.exits.calibration`. w_l = (a + b t + d t^2) / s, with t = l / L and s the standard
deviation of each coordinate, so that all levels share the 3 r numbers a, b and d: some hundred documents do
not determine weights of z for each level by itself. All numbers are fitted together by Newton's method, with
a normal prior of variance 1 around c = 0 and k = 1, and of variance 1/10 around 0 for a, b and d.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onejump.data.store import ActivationStore
from onejump.exits.calibration import log_odds_of
from onejump.exits.confidences import Floats
from onejump.exits.learned_gate import coordinates_at
from onejump.scoring.predictors import read_by
from onejump.shortcuts.methods import ShortcutAt

# Each third of the documents is judged by weights that were fitted to the others.
_FOLDS, _ORDER = 3, 0
_POWERS, _PRECISION = 3, 10.0
_STEPS, _CONVERGED = 50, 1e-9
# States whose coordinates are computed together.
_TOGETHER = 4096


@torch.inference_mode()
def coordinates_of(
    store: ActivationStore, method: ShortcutAt, samples: Tensor | None, device: torch.device | str
) -> NDArray[np.float32] | None:
    """Give z of samples of a store at all early-exit levels, (n, L, r); None without low-rank maps.

    Parameters
    ----------
    store : ActivationStore
    method : function of a level that gives its shortcut
    samples : Tensor of shape (samples,), bool, optional
        Which samples of the store; all unless given.
    device : torch.device
    """
    chosen = np.ones(store.samples, bool) if samples is None else samples.numpy()
    store = read_by({"method": method}, store)
    found = []
    for level in range(store.levels - 1):
        shortcut = method(level).to(device)
        parts = []
        for _, states in store.parts(level, _TOGETHER, chosen):
            part = coordinates_at(shortcut, torch.from_numpy(states).to(device))
            if part is None:
                return None
            parts.append(part.float().cpu().numpy())
        found.append(np.concatenate(parts))
    return np.stack(found, 1)


def fit_weights(probabilities: Floats, coordinates: NDArray[np.floating], hits: NDArray[np.bool_]) -> Floats:
    """Fit the weights of a learned gate.

    Parameters
    ----------
    probabilities : ndarray of shape (n, L)
        Of the predicted tokens.
    coordinates : ndarray of shape (n, L, r)
        z.
    hits : ndarray of shape (n, L), bool
        Whether a predicted token is the full model's.

    Returns
    -------
    ndarray of shape (L, 2 + r)
        c, k and w of each level.
    """
    samples, levels, rank = coordinates.shape
    scale = np.ones(rank)
    if samples:
        spread = coordinates.std((0, 1), dtype=np.float64)
        scale = np.where(spread > 0, spread, 1.0)
    powers = (np.arange(levels)[:, None] / levels) ** np.arange(_POWERS)
    prior = np.concatenate([np.zeros(levels), np.ones(levels), np.zeros(_POWERS * rank)])
    precision = np.concatenate([np.ones(2 * levels), np.full(_POWERS * rank, _PRECISION)])
    log_odds = log_odds_of(probabilities.astype(np.float64))

    def designs() -> Iterator[tuple[NDArray[np.int64], Floats, Floats]]:
        """The numbers that a level depends on, its inputs, and its outcomes."""
        for level in range(levels):
            z = coordinates[:, level] / scale
            inputs = [np.ones((samples, 1)), log_odds[:, [level]], *(z * power for power in powers[level])]
            places = np.concatenate([[level, levels + level], 2 * levels + np.arange(_POWERS * rank)])
            yield places.astype(np.int64), np.concatenate(inputs, 1), hits[:, level].astype(np.float64)

    def loss(numbers: Floats) -> float:
        total = (precision * np.square(numbers - prior)).sum() / 2
        for places, inputs, outcomes in designs():
            score = inputs @ numbers[places]
            total += (np.logaddexp(0, score) - outcomes * score).sum()
        return float(total)

    numbers, least = prior, loss(prior)
    for _ in range(_STEPS):
        slope, curvature = precision * (numbers - prior), np.diag(precision)
        for places, inputs, outcomes in designs():
            fitted = np.exp(-np.logaddexp(0, -(inputs @ numbers[places])))
            slope[places] += inputs.T @ (fitted - outcomes)
            curvature[np.ix_(places, places)] += (inputs.T * (fitted * (1 - fitted))) @ inputs
        step = np.linalg.solve(curvature, slope)
        # The loss is convex, so a small enough part of the step lowers it.
        while (after := loss(numbers - step)) > least and slope @ step > _CONVERGED:
            step /= 2
        if slope @ step < _CONVERGED or after > least:
            break
        numbers, least = numbers - step, after
    of_coordinates = powers @ numbers[2 * levels :].reshape(_POWERS, rank) / scale
    return np.column_stack([numbers[:levels], numbers[levels : 2 * levels], of_coordinates])


def agreement_of(weights: Floats, probabilities: Floats, coordinates: NDArray[np.floating]) -> Floats:
    """Give the probability to agree (n, L) by weights (L, 2 + r); the others as in `fit_weights`."""
    constant, slope = weights[:, 0], weights[:, 1]
    of_coordinates = np.einsum("nlr,lr->nl", coordinates.astype(np.float64), weights[:, 2:])
    score = constant + slope * log_odds_of(probabilities.astype(np.float64)) + of_coordinates
    found: Floats = np.exp(-np.logaddexp(0, -score))
    return found


def unseen_agreement(
    probabilities: Floats,
    coordinates: NDArray[np.floating],
    hits: NDArray[np.bool_],
    documents: NDArray[np.integer],
) -> Floats:
    """Give the probability to agree (n, L) of each sample by weights that were fitted to other documents.

    Parameters
    ----------
    probabilities, coordinates, hits
        As in `fit_weights`.
    documents : ndarray of shape (n,)
        The document of each sample.
    """
    names, document = np.unique(documents, return_inverse=True)
    fold = (np.random.default_rng(_ORDER).permutation(len(names)) % _FOLDS)[document]
    found = np.empty_like(probabilities)
    for number in range(_FOLDS):
        here = fold == number
        weights = fit_weights(probabilities[~here], coordinates[~here], hits[~here])
        found[here] = agreement_of(weights, probabilities[here], coordinates[here])
    return found


class Agreement(NamedTuple):
    """The probability to agree by a learned gate."""

    seen: Floats
    """Of held-out samples, each by weights that were not fitted to its document: (n, L)."""
    unseen: Floats
    """Of other samples: (m, L)."""
    weights: Floats
    """The gate's own, (L, 2 + r)."""


def learned_agreement(
    probabilities: tuple[Floats, Floats],
    coordinates: tuple[NDArray[np.floating], NDArray[np.floating]],
    hits: NDArray[np.bool_],
    documents: NDArray[np.integer],
    part: NDArray[np.bool_] | None = None,
) -> Agreement:
    """Fit a learned gate to held-out samples, and give its confidence in these and in others.

    Parameters
    ----------
    probabilities : two ndarrays of shape (n, L) and (m, L)
        Of the predicted tokens, in held-out and in other samples.
    coordinates : two ndarrays of shape (n, L, r) and (m, L, r)
        z.
    hits : ndarray of shape (n, L), bool
        Whether a predicted token is the full model's, in held-out samples.
    documents : ndarray of shape (n,)
        The document of each held-out sample.
    part : ndarray of shape (n,), bool, optional
        The held-out samples to fit to, if not all of them: those to learn from, for a guarantee
        (`onejump.exits.guarantee`).
    """
    fitted = np.ones(len(hits), bool) if part is None else part
    of_part = probabilities[0][fitted], coordinates[0][fitted], hits[fitted]
    weights = fit_weights(*of_part)
    seen, unseen = (agreement_of(weights, *found) for found in zip(probabilities, coordinates, strict=True))
    seen[fitted] = unseen_agreement(*of_part, documents[fitted])
    return Agreement(seen, unseen, weights)
