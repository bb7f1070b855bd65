"""Rules, their calibration and their sweep, against a simulation sample by sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from simulated_exits import simulate, some_confidences, strictest_first
from sklearn.linear_model import LogisticRegression

from onejump.base.errors import StudyError
from onejump.data.store import ActivationStore
from onejump.exits.calibration import Calibration
from onejump.exits.confidences import Confidences
from onejump.exits.rules import RULES, rule_of
from onejump.exits.sweep import Sweep
from onejump.models.head import Head

MakeStore = Callable[..., ActivationStore]
MakeHead = Callable[..., Head]
Data = Callable[..., np.ndarray]
H, V, LEVELS, SAMPLES = 8, 40, 4, 150


@given(st.integers(0, 10_000), st.floats(0, 1.2), st.integers(0, 4), st.booleans())
def test_the_fixed_rule_is_a_simulation(seed: int, threshold: float, from_level: int, coarse: bool) -> None:
    found = some_confidences(seed, coarse=coarse)
    threshold = round(threshold * 8) / 8 if coarse else threshold
    p = found.probabilities
    expected = simulate(found, lambda i, level: level >= from_level and p[i, level] >= threshold)
    scores = rule_of("fixed", found, from_level=from_level)(found)
    assert_is(Sweep(scores, found.hits), threshold, expected)


@given(st.integers(0, 10_000), st.floats(0, 1.2), st.floats(0.5, 8), st.booleans())
def test_the_decaying_rule_is_a_simulation(
    seed: int, threshold: float, tau: float, given_length: bool
) -> None:
    found, other = some_confidences(seed), some_confidences(seed + 1)
    length = 17.0 if given_length else 2 * found.positions.mean() + 1
    t = other.positions

    def exits(sample: int, level: int) -> bool:
        at_position = 0.9 * threshold + 0.1 * np.exp(-tau * t[sample] / length)
        return bool(other.probabilities[sample, level] >= at_position)

    rule = rule_of("decaying", found, tau=tau, length=length if given_length else None)
    assert_is(Sweep(rule(other), other.hits), threshold, simulate(other, exits))


@given(st.integers(0, 10_000), st.floats(1, 60))
def test_the_per_level_rule_is_a_threshold_at_each_level(seed: int, threshold: float) -> None:
    found, other = some_confidences(seed, samples=80), some_confidences(seed + 1)
    levels = found.probabilities.shape[1]
    lowest = []
    for level, (constant, slope) in enumerate(Calibration(found.probabilities, found.hits).weights):
        # (L - l) / (1 - g) = threshold, solved for p.
        g = 1 - (levels - level) / threshold
        z = -np.inf if g <= 0 else (np.log(g / (1 - g)) - constant) / slope
        lowest.append(1 / (1 + np.exp(-z)))
        assert slope > 0
    expected = simulate(other, lambda i, level: bool(other.probabilities[i, level] >= lowest[level]))
    assert_is(Sweep(rule_of("per-level", found)(other), other.hits), threshold, expected)


def assert_is(sweep: Sweep, threshold: float, expected: tuple[float, float, list[bool], list[int]]) -> None:
    agreement, blocks = sweep.at(np.array([threshold]))
    assert agreement[0] == pytest.approx(expected[0], abs=1e-12)
    assert blocks[0] == pytest.approx(expected[1], abs=1e-12)
    agreed, levels = sweep.exits(threshold)
    assert agreed.tolist() == expected[2]
    assert levels.tolist() == expected[3]


@given(st.integers(0, 10_000), st.sampled_from(RULES), st.integers(0, 4), st.booleans())
def test_laws_of_a_sweep(seed: int, rule: str, from_level: int, coarse: bool) -> None:
    found = some_confidences(seed, coarse=coarse)
    sweep = Sweep(rule_of(rule, found, from_level=from_level)(found), found.hits)
    thresholds = sweep.thresholds()
    agreement, blocks = sweep.at(thresholds)
    # The loosest exits at once, the strictest never.
    assert blocks[0] == pytest.approx(from_level)
    assert agreement[0] == pytest.approx(found.hits[:, from_level].mean())
    assert (agreement[-1], blocks[-1]) == (1, 5)
    assert (np.diff(blocks) > 0).all()
    # Between two neighbours nothing changes.
    inner = (thresholds[:-2] + thresholds[1:-1]) / 2
    np.testing.assert_array_equal(sweep.at(inner), sweep.at(thresholds[1:-1]))
    few = sweep.thresholds(7)
    assert len(few) <= 8
    assert set(few) <= set(thresholds)
    if rule == "fixed":
        assert tuple(float(x[0]) for x in sweep.at(np.array([1.0001]))) == (1, 5)


@given(st.integers(0, 10_000), st.floats(0.3, 1), st.booleans())
def test_the_chosen_threshold_by_its_definition(seed: int, target: float, coarse: bool) -> None:
    found = some_confidences(seed, samples=30, coarse=coarse)
    sweep = Sweep(found.probabilities, found.hits)
    # Thresholds with the same exits are one.
    chosen = sweep.exits(strictest_first(found, target))
    np.testing.assert_array_equal(sweep.exits(sweep.reaching(target)), chosen)


def test_calibration_is_a_logistic_regression_at_each_level() -> None:
    found = some_confidences(0, samples=5000, levels=3)
    logits = scipy.special.logit(found.probabilities)
    calibration = Calibration(found.probabilities, found.hits)
    for level, (constant, slope) in enumerate(calibration.weights):
        x, y = logits[:, level], found.hits[:, level]

        def loss(weights: np.ndarray, x: np.ndarray = x, y: np.ndarray = y) -> float:
            z = weights[0] + weights[1] * x
            return float(np.logaddexp(0, np.where(y, -z, z)).sum() + np.square(weights - [0, 1]).sum() / 2)

        optimum = scipy.optimize.minimize(loss, [0.0, 1.0], tol=1e-10).x
        np.testing.assert_allclose([constant, slope], optimum, atol=1e-4)
        # The prior counts little among many samples.
        plain = LogisticRegression(C=np.inf).fit(x[:, None], y)
        np.testing.assert_allclose([constant, slope], [plain.intercept_[0], plain.coef_[0, 0]], atol=0.02)
        odds = calibration.odds(found.probabilities)[:, level]
        np.testing.assert_allclose(odds, np.exp(constant + slope * x), rtol=1e-9)


@pytest.mark.parametrize("hit", [True, False, None])
def test_calibration_of_outcomes_that_a_threshold_separates(hit: bool | None) -> None:
    p = np.linspace(0.001, 1, 50)[:, None]  # with a one
    hits = p > 0.4 if hit is None else np.full(p.shape, hit)
    calibration = Calibration(p, hits)
    assert np.isfinite(calibration.weights).all()
    odds = calibration.odds(p)
    assert np.isfinite(odds).all()
    clear = abs(p - 0.4) > 0.2
    assert ((odds > 1) == hits)[clear].all()


def test_a_level_that_is_too_sure_needs_a_threshold_of_its_own() -> None:
    generator = np.random.default_rng(0)

    def draw() -> Confidences:
        p = generator.random((2000, 6))
        right = p.copy()
        right[:, 0] = 0.05  # its confidence says nothing
        return Confidences(p, generator.random(p.shape) < right, np.zeros(2000, np.int32), np.arange(2000))

    seen, unseen = draw(), draw()
    blocks = {}
    for rule in ("fixed", "per-level"):
        scores = rule_of(rule, seen)
        threshold = Sweep(scores(seen), seen.hits).reaching(0.9)
        agreed, of_samples = Sweep(scores(unseen), unseen.hits).exits(threshold)
        assert agreed.mean() == pytest.approx(0.9, abs=0.03)
        blocks[rule] = of_samples.mean()
    assert blocks["per-level"] < blocks["fixed"] - 0.5


def test_rules_and_levels_that_are_not(make_store: MakeStore) -> None:
    found = some_confidences(0)
    with pytest.raises(StudyError, match=r"'learned' given, accepted is fixed, decaying, per-level"):
        rule_of("learned", found)
    with pytest.raises(StudyError, match="from_level: 5 given, 0 to 4 accepted"):
        rule_of("fixed", found, from_level=5)
