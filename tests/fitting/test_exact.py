"""The exact solvers against scikit-learn and against optima found by QR and SVD."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from onejump.data.store import ActivationStore
from onejump.fitting.kinds import jtc, n_njtc, njtc
from onejump.fitting.moments import Moments, gather_moments
from onejump.fitting.regression import solve_symmetric
from onejump.fitting.solvers import exact
from onejump.shortcuts.shortcut import Shortcut

CPU = torch.device("cpu")


def moments(inputs: np.ndarray, targets: np.ndarray, parts: int = 1) -> Moments:
    gathered = Moments.empty(inputs.shape[1])
    for x, y in zip(np.array_split(inputs, parts), np.array_split(targets, parts), strict=True):
        gathered.add(torch.from_numpy(x), torch.from_numpy(y))
    return gathered


def ill_conditioned(samples: int, hidden: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States as models have them: correlated, off centre, a few coordinates 1e4 times larger."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(samples, hidden)) @ generator.normal(size=(hidden, hidden)) / hidden**0.5
    x += generator.normal(size=hidden)
    y = np.tanh(x @ generator.normal(size=(hidden, hidden))) + 0.3 * generator.normal(size=x.shape) + 0.5
    x[:, [1, 5]] *= 1e4
    y[:, 2] *= 50
    return x.astype(np.float32), y.astype(np.float32)


def predict(shortcut: Shortcut, inputs: np.ndarray) -> np.ndarray:
    """In float64: the test is of the fit, not of float32 products."""
    return shortcut.double()(torch.from_numpy(inputs).double()).numpy()


def error(predicted: np.ndarray, targets: np.ndarray) -> float:
    return float(np.square(predicted - targets.astype(np.float64)).mean())


def best_error(inputs: np.ndarray, targets: np.ndarray, rank: int) -> float:
    """Smallest mean squared error of X M with rank(M) <= r (Eckart-Young after projection on span X)."""
    scaled = inputs.astype(np.float64) / np.abs(inputs).max(0)
    basis, _ = np.linalg.qr(scaled)
    y = targets.astype(np.float64)
    kept = np.linalg.svd(basis.T @ y, compute_uv=False)[:rank]
    return (np.square(y).sum() - np.square(kept).sum()) / y.size


def with_constant(inputs: np.ndarray) -> np.ndarray:
    return np.hstack([inputs.astype(np.float64), np.ones((len(inputs), 1))])


@pytest.mark.parametrize("samples", [400, 30, 10])
def test_jtc_is_least_squares_without_intercept(samples: int) -> None:
    x, y = ill_conditioned(samples, 20)
    reference = LinearRegression(fit_intercept=False).fit(x.astype(np.float64), y.astype(np.float64))
    shortcut = jtc.from_moments(moments(x, y))
    scale = np.abs(reference.predict(x)).max()
    np.testing.assert_allclose(predict(shortcut, x), reference.predict(x), atol=1e-6 * scale)
    # Also away from the training samples: for fewer samples than coordinates, the smallest solution.
    fresh, _ = ill_conditioned(50, 20, seed=1)
    expected = reference.predict(fresh)
    np.testing.assert_allclose(predict(shortcut, fresh), expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(shortcut.matrix.numpy(), reference.coef_.T, rtol=1e-3, atol=1e-5)


def test_jtc_of_a_coordinate_that_is_dead_and_one_that_is_double() -> None:
    x, y = ill_conditioned(200, 12)
    x[:, 3] = 0
    x[:, 7] = x[:, 1]
    reference = LinearRegression(fit_intercept=False).fit(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(predict(jtc.from_moments(moments(x, y)), x), reference.predict(x), atol=2e-4)


@pytest.mark.parametrize("rank", [1, 2, 5, 12])
def test_njtc_reaches_the_optimum(rank: int) -> None:
    x, y = ill_conditioned(300, 12)
    shortcut = njtc.from_moments(moments(x, y), rank)
    assert shortcut.down.shape == (12, rank)
    assert error(predict(shortcut, x), y) == pytest.approx(best_error(x, y, rank), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 5, 12])
def test_n_njtc_reaches_the_optimum_with_a_constant(rank: int) -> None:
    x, y = ill_conditioned(300, 12)
    shortcut = n_njtc.from_moments(moments(x, y), rank)
    assert error(predict(shortcut, x), y) == pytest.approx(best_error(with_constant(x), y, rank), rel=1e-6)


def test_n_njtc_keeps_its_optimum_in_float32_under_a_massive_mean() -> None:
    x, y = ill_conditioned(300, 12)
    y[:, 4] += 1000
    shortcut = n_njtc.from_moments(moments(x, y), 3)
    predicted = shortcut(torch.from_numpy(x)).numpy()
    assert error(predicted, y) == pytest.approx(best_error(with_constant(x), y, 3), rel=1e-3)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_n_njtc_is_njtc_of_standardised_inputs_and_a_constant(rank: int) -> None:
    x, y = ill_conditioned(200, 8)
    x64 = x.astype(np.float64)
    z = with_constant((x64 - x64.mean(0)) / np.sqrt(x64.var(0) + 1e-5))
    y_wide = np.hstack([y.astype(np.float64), np.zeros((len(y), 1))])  # H + 1 targets, as NJTC is square
    normalised = n_njtc.from_moments(moments(x, y), rank)
    plain = njtc.from_moments(moments(z, y_wide), rank)
    scale = np.abs(y).max()
    np.testing.assert_allclose(predict(normalised, x), predict(plain, z)[:, :-1], atol=1e-5 * scale)


def test_n_njtc_running_statistics_are_the_samples() -> None:
    x, y = ill_conditioned(100, 8)
    shortcut = n_njtc.from_moments(moments(x, y), 2)
    np.testing.assert_allclose(shortcut.mean.numpy(), x.mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(shortcut.variance.numpy(), x.var(0, dtype=np.float64), rtol=1e-4)


@given(st.integers(0, 10_000), st.integers(2, 8), st.booleans())
def test_training_error_falls_with_rank_and_reaches_least_squares(
    seed: int, hidden: int, normalised: bool
) -> None:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(40, hidden)) * 10.0 ** generator.uniform(-1, 3, size=hidden)
    y = x / np.abs(x).max(0) @ generator.normal(size=(hidden, hidden)) + generator.normal(size=x.shape)
    fit = n_njtc.from_moments if normalised else njtc.from_moments
    gathered = moments(x, y)
    errors = [error(predict(fit(gathered, rank), x), y) for rank in range(1, hidden + 1)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(errors))
    least_squares = LinearRegression(fit_intercept=normalised).fit(x, y)
    expected = error(least_squares.predict(x), y)
    if normalised:  # at rank H the constant costs no direction
        assert errors[-1] == pytest.approx(best_error(with_constant(x), y, hidden), rel=1e-5)
    assert errors[-1] == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_rows_of_b_are_orthonormal(seed: int, rank: int, normalised: bool) -> None:
    x, y = ill_conditioned(50, 6, seed)
    up = (n_njtc.from_moments if normalised else njtc.from_moments)(moments(x, y), rank).up.double().numpy()
    np.testing.assert_allclose(up @ up.T, np.eye(rank), atol=1e-6)


@pytest.mark.parametrize("kind", [jtc, njtc, n_njtc])
def test_order_and_parts_of_the_samples_do_not_matter(kind: ModuleType) -> None:
    x, y = ill_conditioned(200, 8)
    order = np.random.default_rng(1).permutation(len(x))
    gathered = moments(x, y), moments(x[order], y[order], parts=7)
    one, other = (kind.from_moments(of_samples, 2) for of_samples in gathered)
    np.testing.assert_allclose(predict(one, x), predict(other, x), atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("method", ["jtc", "njtc", "n-njtc", "joint"])
def test_several_shards_are_one(
    method: str, make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray]
) -> None:
    states = levels_of_data(4, 150, 8)
    one = list(exact.fit(make_store(states), method, 2, device=CPU))
    several = list(exact.fit(make_store(states, sizes=[70, 1, 79]), method, 2, device=CPU))
    assert len(one) == len(several) == (1 if method == "joint" else 3)
    for level, (a, b) in enumerate(zip(one, several, strict=True)):
        np.testing.assert_allclose(predict(a, states[level]), predict(b, states[level]), atol=1e-5)


def test_moments_of_levels_are_those_of_the_pairs(
    make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray]
) -> None:
    states = levels_of_data(4, 150, 8).astype(np.float64)
    gathered = gather_moments(make_store(states), [0, 2])
    x, y = np.vstack([states[0], states[2]]), np.vstack([states[3], states[3]])
    assert gathered.count == 300
    np.testing.assert_allclose(gathered.xx.numpy(), x.T @ x, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(gathered.xy.numpy(), x.T @ y, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(gathered.sum_y.numpy(), y.sum(0), rtol=1e-10)


def test_joint_is_n_njtc_of_all_levels_stacked(
    make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray]
) -> None:
    states = levels_of_data(4, 150, 8)
    (shortcut,) = exact.fit(make_store(states), "joint", 2, device=CPU)
    x, y = states[:3].reshape(-1, 8), np.tile(states[3], (3, 1))
    assert error(predict(shortcut, x), y) == pytest.approx(best_error(with_constant(x), y, 2), rel=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_singular_systems_get_the_smallest_solution(seed: int, rank: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(rank, 6)), generator.normal(size=(rank, 3))
    found = solve_symmetric(torch.from_numpy(x.T @ x), torch.from_numpy(x.T @ y)).numpy()
    condition = np.linalg.cond(x)
    np.testing.assert_allclose(found, np.linalg.pinv(x) @ y, rtol=1e-6, atol=1e-12 * condition**3)
