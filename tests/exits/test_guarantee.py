"""Guaranteed thresholds: against scipy's binomial, and over many draws of documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from onejump.exits.guarantee import (
    disagreement_test,
    documents_needed,
    last_guaranteed,
    learning_part,
    thresholds_to_try,
)
from onejump.exits.sweep import Sweep

LEVELS = 3


def drawn(documents: int, each: int, seed: int) -> tuple[Any, Any, Any]:
    """Scores and hits of samples at 3 levels; all samples of a document are easier, or harder, together."""
    random = np.random.default_rng(seed)
    document = np.repeat(np.arange(documents), each)
    easy = random.normal(size=documents)[document, None]
    scores = random.normal(size=(documents * each, LEVELS)) + 0.3 * np.arange(LEVELS)
    hits = random.uniform(size=scores.shape) < 1 / (1 + np.exp(-(1.6 * scores + 1.5 * easy + 0.5)))
    return scores, hits, document


def test_of_one_sample_a_document_the_test_is_the_binomials() -> None:
    for samples, target in ((30, 0.9), (700, 0.95), (700, 0.99)):
        for count in (0, 1, 5, 30):
            disagreements = np.zeros(samples)
            disagreements[:count] = 1
            found = disagreement_test(disagreements, np.ones(samples, int), target, 0.9)
            assert found == pytest.approx(binom.cdf(count, samples, 1 - target), rel=1e-9)


def test_bets_are_those_of_a_loop_that_sees_documents_one_by_one() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, size=60)
    disagreements = random.binomial(sizes, 0.03)
    allowed, level, most = 0.1, 0.2, int(sizes.max())
    capital, best, total, squares, variance = 1.0, 1.0, allowed, 0.09, 0.09
    for number, (wrong, size) in enumerate(zip(disagreements, sizes, strict=True), start=1):
        loss = allowed + (wrong - allowed * size) / most
        bet = min(1.0, (2 * np.log(1 / level) / (60 * variance)) ** 0.5)
        capital *= 1 + bet * (allowed - loss)
        best = max(best, capital)
        total += loss
        squares += (loss - total / (1 + number)) ** 2
        variance = squares / (1 + number)
    assert 0 < 1 / best < 0.2
    assert disagreement_test(disagreements, sizes, 0.9, 0.8) == pytest.approx(1 / best)


@pytest.mark.parametrize("each", [1, 6])
def test_a_p_value_is_as_rarely_small_as_it_says(each: int) -> None:
    """At the border, where the agreement is the target itself."""
    random = np.random.default_rng(0)
    values = []
    for _ in range(800):
        # Documents differ much: most have no disagreement at all.
        chance = random.beta(0.1, 0.9, size=80)
        sizes = np.full(80, each) if each == 1 else random.integers(1, each + 1, size=80)
        values.append(disagreement_test(random.binomial(sizes, chance), sizes, 0.9, 0.9))
    for level in (0.05, 0.1, 0.3):
        share = np.mean(np.array(values) <= level)
        assert share <= level + 3 * (level * (1 - level) / 800) ** 0.5
    assert np.mean(np.array(values) <= 0.3) > 0.03


def guaranteed(learned: Sweep, tested: Sweep, documents: Any, target: float, guarantee: float) -> float:
    found = last_guaranteed(
        thresholds_to_try(learned).tolist(), lambda t: tested.exits(t)[0], documents, target, guarantee
    )
    return float("inf") if found is None else found


@pytest.mark.parametrize("each", [1, 8])
def test_a_guarantee_holds_where_plain_thresholds_do_not(each: int) -> None:
    scores, hits, _ = drawn(120_000 // each, each, seed=1)
    everyone = Sweep(scores, hits)
    target, guarantee, missed, plainly, saved = 0.85, 0.8, 0, 0, []
    for seed in range(200):
        scores, hits, documents = drawn(150, each, seed=100 + seed)
        learned = learning_part(documents)
        threshold = guaranteed(
            Sweep(scores[learned], hits[learned]),
            Sweep(scores[~learned], hits[~learned]),
            documents[~learned],
            target,
            guarantee,
        )
        (agreement, plain), (blocks, _) = everyone.at(
            np.array([threshold, Sweep(scores, hits).reaching(target)])
        )
        missed, plainly = missed + (agreement < target), plainly + (plain < target)
        saved.append(1 - blocks / LEVELS)
    # Of 200 draws at most 40 are expected to miss.
    assert missed <= 40 + 3 * (200 * 0.2 * 0.8) ** 0.5
    assert plainly > 70
    assert np.mean(saved) > 0.1


def test_few_documents_guarantee_nothing() -> None:
    assert documents_needed(0.95, 0.9) == 45
    assert documents_needed(1.0, 0.9) == float("inf")
    for documents in (40, 50):
        hits = np.ones((documents, LEVELS), bool)
        sweep = Sweep(np.random.default_rng(0).normal(size=hits.shape), hits)
        found = guaranteed(sweep, sweep, np.arange(documents), 0.95, 0.9)
        assert np.isfinite(found) == (documents >= 45)
        assert guaranteed(sweep, sweep, np.arange(documents), 1.0, 0.9) == float("inf")


def test_a_third_of_the_documents_is_learned_from() -> None:
    documents = np.repeat(np.arange(100, 130), np.arange(30) % 4 + 1)
    learned = learning_part(documents)
    assert set(documents[learned]).isdisjoint(documents[~learned])
    assert len(set(documents[learned])) == 10
    # Not by their order in the corpus, nor by the order of samples.
    assert set(documents[learned]) != set(range(100, 110))
    shuffled = np.random.default_rng(0).permutation(documents)
    assert set(shuffled[learning_part(shuffled)]) == set(documents[learned])
