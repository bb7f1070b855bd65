"""Fits of all level pairs against scikit-learn, and against the exact solvers of one pair at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from onejump.base.errors import StudyError
from onejump.base.files import read_table
from onejump.data.store import ActivationStore
from onejump.experiments import level_pairs as module
from onejump.experiments.level_pairs import level_pairs, measure_level_pairs, source_groups
from onejump.fitting.kinds import n_njtc, njtc
from onejump.fitting.moments import Moments
from onejump.fitting.regression import leading_directions

MakeStore = Callable[..., ActivationStore]
Data = Callable[..., np.ndarray]
CPU = torch.device("cpu")
LEVELS, HIDDEN, RANK = 5, 60, 2
METHODS = ["identity", "jtc", "njtc", "n-njtc"]


class Split(NamedTuple):
    """States (levels, samples, H) that are fitted to, and that fits are measured on."""

    training: np.ndarray
    validation: np.ndarray


@pytest.fixture
def split(levels_of_data: Data) -> Split:
    """As of models: off centre, and with a few coordinates thousands of times larger than the others."""
    states = levels_of_data(LEVELS, 500, HIDDEN)
    states[1:, :, [3, 7]] *= 5000
    states[1:, :, 4] += 100
    return Split(states[:, :350], states[:, 350:])


def measure(make_store: MakeStore, split: Split, methods: list[str] = METHODS) -> pd.DataFrame:
    training = make_store(split.training, sizes=[150, len(split.training[0]) - 150])
    return level_pairs(training, make_store(split.validation), methods, RANK, CPU)


def expected_r2(split: Split, method: str, source: int, target: int) -> float:
    """One pair at a time, in float64."""
    training, validation = (states.astype(np.float64) for states in split)
    x, y = training[source], training[target]
    inputs = validation[source]
    if method == "identity":
        predicted = inputs
    elif method == "jtc":
        predicted = LinearRegression(fit_intercept=False).fit(x, y).predict(inputs)
    else:
        moments = Moments.empty(x.shape[1])
        moments.add(torch.from_numpy(x), torch.from_numpy(y))
        fitted = {"njtc": njtc.from_moments, "n-njtc": n_njtc.from_moments}[method](moments, RANK)
        predicted = fitted.double()(torch.from_numpy(inputs)).numpy()
    return float(r2_score(validation[target], predicted, multioutput="uniform_average"))


def assert_as_expected(table: pd.DataFrame, split: Split, methods: list[str] = METHODS) -> None:
    levels = len(split.training)
    pairs = [(source, target) for source in range(levels) for target in range(source + 1, levels)]
    assert {(m, s, t) for m, s, t in zip(table["method"], table["source"], table["target"], strict=True)} == {
        (method, *pair) for method in methods for pair in pairs
    }
    assert len(table) == len(methods) * len(pairs)
    assert (table["n"] == len(split.validation[0])).all()
    for row in table.itertuples(index=False):
        expected = expected_r2(split, row.method, row.source, row.target)
        # Predictions are made in float32, where a large mean costs digits.
        assert row.r2 == pytest.approx(expected, abs=2e-6, rel=2e-6), row


def test_r2_of_every_pair_is_that_of_a_fit_of_its_own(make_store: MakeStore, split: Split) -> None:
    table = measure(make_store, split)
    assert_as_expected(table, split)
    # The data tell methods apart.
    assert table.groupby("method")["r2"].mean().round(3).nunique() == len(METHODS)


def test_groups_of_sources_do_not_matter(
    make_store: MakeStore, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = measure(make_store, split)
    assert list(source_groups(LEVELS, HIDDEN)) == [range(4)]
    monkeypatch.setattr(module, "MOMENTS_TOGETHER", 6 * HIDDEN**2 * 8)
    assert list(source_groups(LEVELS, HIDDEN)) == [range(1), range(1, 2), range(2, 4)]
    pd.testing.assert_frame_equal(measure(make_store, split), together, rtol=1e-12)


def test_a_group_reads_its_own_and_later_levels_once(
    make_store: MakeStore, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, list[int]]] = []
    blocks = ActivationStore.blocks

    def recorded(store: ActivationStore, levels: range) -> object:
        read.append((store.samples, list(levels)))
        return blocks(store, levels)

    monkeypatch.setattr(ActivationStore, "blocks", recorded)
    monkeypatch.setattr(module, "MOMENTS_TOGETHER", 6 * HIDDEN**2 * 8)
    measure(make_store, split)
    of_groups = [[0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4]]
    assert [levels for samples, levels in read if samples == 350] == of_groups
    assert [levels for samples, levels in read if samples == 150] == [[0, 1, 2, 3, 4], *of_groups]


@given(st.integers(2, 40), st.integers(1, 50), st.integers(0, 10**6))
def test_groups_hold_every_source_once_and_stay_within_the_memory(
    levels: int, hidden: int, allowed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOMENTS_TOGETHER", allowed)
        groups = list(source_groups(levels, hidden))
    assert [source for group in groups for source in group] == list(range(levels - 1))
    for group in groups:
        matrices = sum(1 + len(range(source + 1, levels)) for source in group)  # G and C to each later level
        assert len(group) == 1 or matrices * hidden**2 * 8 <= allowed


@pytest.mark.parametrize("samples", [300, 40])
def test_singular_moments_get_the_smallest_solution(
    samples: int, make_store: MakeStore, levels_of_data: Data
) -> None:
    states = levels_of_data(3, samples + 80, HIDDEN)
    states[0, :, 5] = 0
    states[0, :, 9] = states[0, :, 8]
    split = Split(states[:, :samples], states[:, samples:])
    training, validation = make_store(split.training), make_store(split.validation)
    assert_as_expected(level_pairs(training, validation, METHODS, RANK, CPU), split)


def test_constant_coordinates_count_as_scikit_learn_has_them(
    make_store: MakeStore, levels_of_data: Data
) -> None:
    states = 100 + levels_of_data(3, 300, 8)  # off centre
    states[:, :, 2] = 1.5  # constant, and predicted exactly by the identity
    states[-1, :, 4] = -0.1  # constant, and not
    split = Split(states[:, :200], states[:, 200:])
    table = measure(make_store, split, ["identity", "n-njtc"])
    assert_as_expected(table, split, ["identity", "n-njtc"])


def test_one_method_alone_has_the_same_numbers(make_store: MakeStore, split: Split) -> None:
    table = measure(make_store, split)
    for method in METHODS:
        alone = measure(make_store, split, [method])
        expected = table[table["method"] == method].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, expected)


def test_the_stage_writes_a_table(make_store: MakeStore, split: Split, tmp_path: Path) -> None:
    training, validation = make_store(split.training), make_store(split.validation, sizes=[100, 50])
    output = tmp_path / "level_pairs.parquet"
    measure_level_pairs(
        output,
        training.paths,
        validation.paths,
        methods=["identity", "njtc"],
        rank=0.05,  # 3 of 60
        model="some-model",
        corpus="some-corpus",
        device="cpu",
    )
    table = read_table(output)
    assert list(table) == ["model", "corpus", "method", "source", "target", "r2", "n", "documents"]
    assert set(table["model"]) == {"some-model"}
    assert set(table["corpus"]) == {"some-corpus"}
    expected = level_pairs(training, validation, ["identity", "njtc"], 3, CPU)
    assert (table["documents"] == 150).all()
    pd.testing.assert_frame_equal(table.drop(columns=["model", "corpus", "documents"]), expected)


@pytest.mark.parametrize(
    ("methods", "rank", "message"),
    [(["jtc", "joint"], 3, "'joint' given, accepted is any of identity, jtc"), (["njtc"], 61, "61 given")],
)
def test_unknown_methods_and_ranks_are_refused(
    methods: list[str], rank: int, message: str, make_store: MakeStore, split: Split, tmp_path: Path
) -> None:
    store = make_store(split.training)
    with pytest.raises(StudyError, match=message):
        measure_level_pairs(
            tmp_path / "t",
            store.paths,
            store.paths,
            methods=methods,
            rank=rank,
            model="m",
            corpus="c",
            device="cpu",
        )
    assert not (tmp_path / "t").exists()


def with_spectrum(values: np.ndarray, seed: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(len(values), len(values))))
    return torch.from_numpy((basis * values) @ basis.T)


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.3, 0.99))
def test_leading_directions_are_the_top_eigenvectors(seed: int, rank: int, decay: float) -> None:
    matrix = with_spectrum(1e4 * decay ** np.arange(60.0), seed)
    found = leading_directions(matrix.matmul, 60, rank)
    top = torch.linalg.eigh(matrix).eigenvectors[:, -rank:].flip(1)
    np.testing.assert_allclose((found.T @ top).abs().numpy(), np.eye(rank), atol=1e-6)
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.parametrize("values", [np.zeros(30), np.ones(30), np.r_[np.full(4, 7.0), np.full(26, 3.0)]])
def test_leading_directions_where_there_is_no_gap_are_some_of_the_best(values: np.ndarray) -> None:
    matrix = with_spectrum(values, 0)
    found = leading_directions(matrix.matmul, 30, 3)
    np.testing.assert_allclose((found.T @ found).numpy(), np.eye(3), atol=1e-12)
    assert float((found * (matrix @ found)).sum()) == pytest.approx(values[:3].sum(), abs=1e-9)


def test_leading_directions_do_without_the_whole_matrix() -> None:
    matrix = with_spectrum(0.7 ** np.arange(300.0), 0)
    columns = 0

    def product(directions: torch.Tensor) -> torch.Tensor:
        nonlocal columns
        columns += directions.shape[1]
        return matrix @ directions

    leading_directions(product, 300, 5)
    assert columns < 100
