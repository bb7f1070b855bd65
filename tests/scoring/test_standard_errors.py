"""Standard errors against statsmodels, loops by hand and the bootstrap over documents."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import r2_score

from onejump.scoring import standard_errors
from onejump.scoring.standard_errors import ClusteredR2, Clusters, Variation


def some_documents(generator: np.random.Generator, samples: int, documents: int) -> np.ndarray:
    """A document for each sample: some have many, each has one at least, in no order."""
    few = generator.integers(0, documents, samples - documents) // generator.integers(1, 4)
    return generator.permutation(np.concatenate([np.arange(documents), few]))


def error_by_hand(values: np.ndarray, documents: np.ndarray) -> float:
    """The formula, document by document."""
    squares, names = 0.0, sorted(set(documents.tolist()))
    for name in names:
        squares += sum(value - values.mean() for value in values[documents == name]) ** 2
    return float(np.sqrt(squares * len(names) / (len(names) - 1)) / len(values))


@pytest.mark.parametrize(("samples", "documents"), [(40, 7), (300, 120), (50, 2)])
def test_errors_of_means_are_those_of_a_regression_on_a_constant(samples: int, documents: int) -> None:
    generator = np.random.default_rng(samples)
    of_samples = some_documents(generator, samples, documents)
    values = generator.normal(size=(samples, 3)) + generator.normal(size=(documents, 3))[of_samples]
    clusters = Clusters(10 * of_samples + 5)
    assert (clusters.documents, clusters.samples) == (documents, samples)
    mean, error = clusters.of_values(torch.from_numpy(values))
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    for column in range(3):
        assert float(error[column]) == pytest.approx(error_by_hand(values[:, column], of_samples), rel=1e-10)
    # In parts, in any order, it is the same.
    sums = clusters.sums(3)
    for start in range(0, samples, 16):
        part = slice(start, start + 16)
        clusters.add(sums, torch.from_numpy(values[part]), part)
    np.testing.assert_allclose(clusters.mean_and_error(sums)[1], error, rtol=1e-10)


def test_errors_of_means_are_statsmodels() -> None:
    """OLS(values, ones).fit(cov_type="cluster", cov_kwds={"groups": documents}).bse of statsmodels 0.15.0."""
    documents = np.arange(60) * 7 % 12
    values = (np.arange(60) * 37 % 101) / 101 + 0.3 * documents % 2
    _, error = Clusters(documents).of_values(torch.from_numpy(values))
    assert float(error) == pytest.approx(0.16356255660895563, rel=1e-10)


def test_a_sample_a_document_is_the_usual_error_and_one_document_has_none() -> None:
    values = np.random.default_rng(0).normal(size=50)
    _, error = Clusters(np.arange(50)).of_values(torch.from_numpy(values))
    assert float(error) == pytest.approx(scipy.stats.sem(values), rel=1e-12)
    mean, error = Clusters(np.zeros(50)).of_values(torch.from_numpy(values))
    assert float(mean) == pytest.approx(values.mean())
    assert np.isnan(float(error))
    assert np.isnan(float(Clusters(np.zeros(1)).of_values(torch.ones(1))[1]))


def test_errors_hold_where_samples_of_a_document_are_alike() -> None:
    """Means over many draws of documents spread as they say, where independent samples would say a third."""
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(60), 10)
    found, errors, usual = [], [], []
    for _ in range(400):
        values = generator.normal(size=60)[documents] + 0.3 * generator.normal(size=600)
        mean, error = Clusters(documents).of_values(torch.from_numpy(values))
        found.append(float(mean))
        errors.append(float(error))
        usual.append(scipy.stats.sem(values))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)
    assert np.mean(usual) < 0.4 * np.std(found)


def test_more_documents_than_clusters_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_errors, "_MOST", 64)
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(2000), 3)
    values = generator.normal(size=2000)[documents] + 0.3 * generator.normal(size=6000)
    clusters = Clusters(documents)
    assert (clusters.documents, clusters.count, len(clusters.sums())) == (2000, 64, 64)
    _, error = clusters.of_values(torch.from_numpy(values))
    assert float(error) == pytest.approx(error_by_hand(values, documents), rel=0.2)


def test_values_without_end_have_no_error() -> None:
    mean, error = Clusters(np.arange(4)).of_values(torch.tensor([1.0, torch.inf, 2.0, 3.0]))
    assert float(mean) == np.inf
    assert np.isnan(float(error))


@pytest.mark.parametrize("constant", [False, True])
def test_error_of_r2_is_the_linearised_one_and_near_the_bootstrap_over_documents(constant: bool) -> None:
    generator = np.random.default_rng(1)
    documents = some_documents(generator, 400, 80)
    shared = generator.normal(size=(80, 5))[documents]
    last = 3 + shared + 0.5 * generator.normal(size=(400, 5))
    predicted = last + generator.normal(size=(80, 5))[documents] * 0.7 + 0.2 * generator.normal(size=(400, 5))
    if constant:
        last[:, 1] = predicted[:, 1] = 2.0
    clusters = Clusters(documents)
    variation = Variation(torch.from_numpy(last.mean(0)), clusters)
    states, guesses = torch.from_numpy(last), torch.from_numpy(predicted)
    parts = [slice(start, min(start + 90, 400)) for start in range(0, 400, 90)]
    for part in parts:
        variation.add(states[part], part)
    r2 = ClusteredR2(variation)
    for part in parts:
        r2.add(guesses[part], states[part], part)
    value, error = r2.result()
    assert value == pytest.approx(r2_score(last, predicted), rel=1e-10)
    deviations, errors = np.square(last - last.mean(0)), np.square(last - predicted)
    total = np.where(constant & (np.arange(5) == 1), 1.0, deviations.sum(0))
    influence = ((errors - errors.sum(0) / total * deviations) / total).mean(1)
    by_document = [influence[documents == name].sum() for name in range(80)]
    assert error == pytest.approx(np.sqrt(np.square(by_document).sum() * 80 / 79), rel=1e-8)
    samples_of = [np.flatnonzero(documents == name) for name in range(80)]
    picks = [np.concatenate([samples_of[i] for i in generator.integers(0, 80, 80)]) for _ in range(400)]
    spread = np.std([r2_score(last[pick], predicted[pick]) for pick in picks])
    assert error == pytest.approx(spread, rel=0.2)


def test_a_single_sample_has_no_r2() -> None:
    state = torch.ones(1, 3)
    variation = Variation(state[0].double(), Clusters(np.zeros(1)))
    variation.add(state, slice(0, 1))
    r2 = ClusteredR2(variation)
    r2.add(2 * state, state, slice(0, 1))
    assert np.isnan(r2.result()).all()
