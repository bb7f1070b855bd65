"""Thresholds whose agreement holds with a stated probability: learn then test.

A plain threshold is the lowest one whose agreement on held-out samples reaches the target. On other samples
its agreement is as often below the target as above it. A guaranteed threshold misses the target with
probability at most 1 - g only, over the held-out documents that it is tested on: g is the guarantee.

1. *Learn*: what gives samples their scores, and the thresholds that will be tried, are fixed on some of the
   held-out documents (`learning_part`).
2. *Test* on the others: the strictest threshold first, then the next one (fixed-sequence testing [1]_). For
   each, the hypothesis is that its agreement is below the target. The last threshold before the first one
   that is not rejected at level 1 - g is taken. So no correction for many thresholds is needed.

The samples of one document are alike, so documents, not samples, are what is independent. With
a = 1 - target, S_d the disagreements among the n_d samples of document d, and N the most samples that a
document has, Y_d = a + (S_d - a n_d) / N lies between 0 and 1, and its expectation is at least a exactly
where the agreement, as a share of all samples, is at most the target. Documents may have different sizes; the
more these differ, the more documents are needed. A test of the mean of numbers between 0 and 1 remains:

- where each document has one sample, the number of disagreements is binomial: the test is exact;
- otherwise by betting [2]_: K = prod_d (1 + v_d (a - Y_d)), where each v_d depends only on the documents
  before d. If the agreement is below the target, K ever exceeds 1 / (1 - g) with probability at most 1 - g
  (Ville), whatever the number of documents and the distribution of Y. Hoeffding's and Bentkus's bounds [1]_
  hold too, but do not use that documents differ less than all-or-nothing; they allow fewer exits.

That the documents to come are drawn like the held-out ones is what no test can show. The guarantee is about
exits given the model's own tokens before them.

References
----------
.. [1] A. Angelopoulos et al., "Learn then test", arXiv 2110.01052.
.. [2] I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting",
   arXiv 2010.09686; for the control of risks S. Bates et al., arXiv 2101.02703.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onejump.exits.confidences import Floats
from onejump.exits.sweep import Sweep

T = TypeVar("T")
# The documents' order must not depend on what is in them; alphabetical neighbours are alike.
_ORDER = 0
# One of this many held-out documents is learned from.
_LEARNED = 3
# Thresholds that are tried.
_TRIED = 500


def learning_part(documents: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Choose the samples to learn from: those of a third of the documents.

    Parameters
    ----------
    documents : ndarray of shape (n,)
        The document of each sample.

    Returns
    -------
    ndarray of shape (n,), bool
        The others are for the test.
    """
    names, document = np.unique(documents, return_inverse=True)
    place = np.random.default_rng(_ORDER).permutation(len(names))
    learned: NDArray[np.bool_] = place[document] % _LEARNED == 0
    return learned


def documents_needed(target: float, guarantee: float) -> float:
    """How many documents a test needs at least: with fewer, not even exits without fail would pass.

    It is inf for a target of 1, which no number of documents guarantees.
    """
    return math.inf if target >= 1 else math.ceil(math.log(1 - guarantee) / math.log(target))


def disagreement_test(
    disagreements: NDArray[Any], sizes: NDArray[Any], target: float, guarantee: float
) -> float:
    """The p-value of documents, were the agreement below the target.

    If it is, the p-value is at most p with probability at most p, for each p.

    Parameters
    ----------
    disagreements : ndarray of shape (documents,)
        Of the samples of each document.
    sizes : ndarray of shape (documents,)
        Samples of each document.
    target : float
    guarantee : float
        The level, 1 - g, for which bets are best; the p-value is valid for all levels.
    """
    allowed, most = 1 - target, sizes.max()
    if target >= 1:
        return 1.0
    if most == 1:
        return _binomial(int(disagreements.sum()), len(sizes), allowed)
    losses = allowed + (disagreements - allowed * sizes) / most
    return _by_betting(losses, allowed, 1 - guarantee)


def _binomial(count: int, samples: int, probability: float) -> float:
    """The probability of at most this many successes."""
    terms = [
        math.lgamma(samples + 1)
        - math.lgamma(k + 1)
        - math.lgamma(samples - k + 1)
        + k * math.log(probability)
        + (samples - k) * math.log1p(-probability)
        for k in range(count + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, terms)))


def _by_betting(losses: Floats, allowed: float, level: float) -> float:
    """1 / max K, with the bets of Waudby-Smith and Ramdas: large where documents before were alike."""
    number = np.arange(1, len(losses) + 1)
    # Where the mean is `allowed`, no variance is larger: that is what is expected before the first document.
    largest = allowed * (1 - allowed)
    mean = (allowed + np.cumsum(losses)) / (1 + number)
    variance = (largest + np.cumsum(np.square(losses - mean))) / (1 + number)
    before = np.append(largest, variance[:-1])
    # At most 1: then K stays positive whatever the next document is.
    bets = np.minimum(1.0, np.sqrt(2 * math.log(1 / level) / (len(losses) * before)))
    capital = np.log1p(bets * (allowed - losses)).cumsum()
    return math.exp(-max(0.0, float(capital.max())))


def too_few_to_guarantee(target: float, guarantee: float, documents: NDArray[np.integer]) -> str:
    """Why no threshold can be guaranteed on tested samples; an empty text where the documents suffice.

    Parameters
    ----------
    target, guarantee : float
    documents : ndarray of shape (n,)
        The document of each tested sample.
    """
    count, needed = len(np.unique(documents)), documents_needed(target, guarantee)
    if count >= needed:
        return ""
    least = f"at least {needed} are needed" if math.isfinite(needed) else "no number of them would do"
    return (
        f"no threshold for an agreement of {target:g} with a guarantee of {guarantee:g}: it is tested on "
        f"{count} held-out documents, and {least}"
    )


def last_guaranteed(
    tried: Iterable[T],
    agreed_by: Callable[[T], NDArray[np.bool_]],
    documents: NDArray[np.integer],
    target: float,
    guarantee: float,
) -> T | None:
    """The last of a row of thresholds, or gates, whose agreement and that of each before it is guaranteed.

    Parameters
    ----------
    tried : iterable
        The strictest one first. It must not depend on the tested samples.
    agreed_by : function of one of these
        Gives whether each tested sample agrees, (n,).
    documents : ndarray of shape (n,)
        The document of each tested sample.
    target : float
        The agreement.
    guarantee : float
        g, the probability that the agreement reaches the target.

    Returns
    -------
    One of those tried, or None
        None where not even the strictest one is guaranteed: nothing must exit.
    """
    names, document = np.unique(documents, return_inverse=True)
    place = np.random.default_rng(_ORDER).permutation(len(names))[document]
    sizes = np.bincount(place)
    found = None
    for one in tried:
        disagreements = np.bincount(place, weights=~agreed_by(one))
        if disagreement_test(disagreements, sizes, target, guarantee) > 1 - guarantee:
            break
        found = one
    return found


def thresholds_to_try(learned: Sweep) -> Floats:
    """Thresholds of a sweep of the samples to learn from, the strictest first."""
    return learned.thresholds(_TRIED)[-2::-1]
