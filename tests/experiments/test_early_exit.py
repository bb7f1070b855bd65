"""Confidences by hand through the head in float64, and exits against a simulation sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression

from onejump.base.errors import OneJumpError, StudyError
from onejump.base.files import write_json, write_table
from onejump.data.document_roles import assign_documents
from onejump.data.held_out import samples_with_role
from onejump.data.store import ActivationStore
from onejump.experiments.early_exit import (
    RULES,
    Calibration,
    Confidences,
    Sweep,
    compare_exits,
    confidences,
    measure_confidences,
    rule_of,
)
from onejump.fitting.shortcuts import fit_shortcuts
from onejump.models.head import Head
from onejump.models.logit_parts import LOGITS_TOGETHER
from onejump.scoring.evaluation import evaluate
from onejump.shortcuts.files import load_shortcut, save_shortcuts
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.shortcut import Shortcut

MakeStore = Callable[..., ActivationStore]
MakeHead = Callable[..., Head]
Data = Callable[..., np.ndarray]
H, V, LEVELS, SAMPLES = 8, 40, 4, 150


def some_shortcuts(kind: str) -> list[Shortcut]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def one() -> Shortcut:
        if kind == "identity":
            return Identity()
        if kind == "jtc":
            return JTC(torch.eye(H) + 0.1 * normal(H, H))
        if kind == "n-njtc":
            return NNJTC(
                normal(H, 3), normal(3, H), normal(H), normal(H), normal(H), normal(H).square() + 0.1
            )
        return Distilled(normal(H, 3), normal(3), normal(3, H), normal(H), "rms", 1e-5)

    return [one() for _ in range(LEVELS)]


def softmax_by_hand(head: Head, states: torch.Tensor) -> np.ndarray:
    logits = head.double().logits(states).numpy()
    head.float()
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("part", [2**22, 7 * V])
@pytest.mark.parametrize("kind", ["identity", "jtc", "n-njtc", "distilled"])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_confidences_are_those_of_the_head(
    kind: str,
    norm: str,
    part: int,
    make_head: MakeHead,
    make_store: MakeStore,
    levels_of_data: Data,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOGITS_TOGETHER, "cpu", part)
    head = make_head(H, V, norm, bias=True, softcap=5.0)
    store = make_store(levels_of_data(LEVELS + 1, SAMPLES, H), sizes=[80, 70], head=head)
    shortcuts = some_shortcuts(kind)
    chosen = torch.from_numpy(np.random.default_rng(0).random(SAMPLES) < 0.4)
    for samples in (None, chosen):
        table = confidences(store, head, {"m": shortcuts.__getitem__}, samples=samples)
        rows = np.arange(SAMPLES) if samples is None else samples.numpy().nonzero()[0]
        teacher = softmax_by_hand(head, torch.from_numpy(store.level(LEVELS)).double()).argmax(1)[rows]
        assert list(table) == ["method", "sample", "document", "position", "level", "probability", "hit"]
        kinds = table.dtypes.astype(str).drop("method").tolist()
        assert kinds == ["int32", "int64", "int32", "int16", "float32", "bool"]
        assert len(table) == LEVELS * len(rows)
        for level in range(LEVELS):
            found = table[table["level"] == level]
            states = torch.from_numpy(store.level(level)[rows]).double()
            with torch.no_grad():
                probabilities = softmax_by_hand(head, shortcuts[level].double()(states))
            shortcuts[level].float()
            np.testing.assert_array_equal(found["sample"], rows)
            np.testing.assert_array_equal(found["position"], store.of_samples("position")[rows])
            np.testing.assert_allclose(found["probability"], probabilities.max(1), rtol=1e-4)
            np.testing.assert_array_equal(found["hit"], probabilities.argmax(1) == teacher)


def test_hits_are_precision_at_1_of_the_evaluation(
    make_head: MakeHead, make_store: MakeStore, levels_of_data: Data
) -> None:
    head = make_head(H, V)
    store = make_store(levels_of_data(LEVELS + 1, SAMPLES, H), head=head)
    methods = {kind: some_shortcuts(kind).__getitem__ for kind in ("identity", "jtc", "distilled")}
    table = confidences(store, head, methods)
    measured = evaluate(store, head, methods, precision_at=(1,))
    measured = measured[measured["metric"] == "precision@1"].set_index(["method", "level"])["value"]
    hits = table.groupby(["method", "level"])["hit"].mean()
    pd.testing.assert_series_equal(hits, measured.sort_index(), check_names=False, check_index_type=False)


def simulate(
    found: Confidences, exits: Callable[[int, int], bool]
) -> tuple[float, float, list[bool], list[int]]:
    """Agreement, mean blocks, and both of each sample, where `exits(sample, level)` says whether to stop."""
    agreed, blocks = [], []
    samples, levels = found.hits.shape
    for sample in range(samples):
        level = 0
        while level < levels and not exits(sample, level):
            level += 1
        blocks.append(level)
        agreed.append(True if level == levels else bool(found.hits[sample, level]))
    return sum(agreed) / samples, sum(blocks) / samples, agreed, blocks


def some_confidences(seed: int, samples: int = 40, levels: int = 5, coarse: bool = False) -> Confidences:
    """Hits the likelier the surer, and at the last level surer than is right."""
    generator = np.random.default_rng(seed)
    p = generator.beta(1, 1.5, size=(samples, levels)).clip(1e-4, 1 - 1e-6)
    right = p.copy()
    right[:, -1] **= 3
    if coarse:  # ties
        p = (p * 8).round() / 8
    positions = generator.integers(0, 30, samples).astype(np.int32)
    return Confidences(p, generator.random(p.shape) < right, positions, np.arange(samples))


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


def strictest_first(found: Confidences, target: float, from_level: int = 0) -> float:
    """The last of all thresholds, from the strictest on, before one misses the target."""
    p, chosen = found.probabilities, np.inf
    for threshold in sorted({*p[:, from_level:].ravel()}, reverse=True):
        agreement, *_ = simulate(found, lambda i, level: level >= from_level and p[i, level] >= threshold)  # noqa: B023
        if agreement < target:
            break
        chosen = threshold
    return chosen


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
        # The prior counts little among so many.
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


@pytest.fixture
def study(tmp_path: Path, make_head: MakeHead, make_store: MakeStore, levels_of_data: Data) -> dict[str, Any]:
    """Training and validation shards, a head, and the table of 30 training documents, 12 for thresholds."""
    head = make_head(H, V)
    head.save(tmp_path / "head.safetensors")
    training = make_store(levels_of_data(LEVELS + 1, 300, H), sizes=[170, 130], head=head)
    validation = make_store(levels_of_data(LEVELS + 1, SAMPLES, H, seed=1), head=head)
    documents, corpus = tmp_path / "documents.parquet", tmp_path / "corpus.parquet"
    ids = np.arange(300)
    table = pd.DataFrame({"sentence_id": ids, "document": [f"d{i // 10}" for i in ids], "split": "training"})
    write_table(corpus, table)
    assign_documents(documents, corpus, stopping=0.1, thresholds=0.4, seed=5)
    return {"training": training, "validation": validation, "documents": documents, "head": head}


@pytest.mark.parametrize("method", ["jtc", "joint"])
def test_shortcuts_without_the_held_out_documents(method: str, study: dict[str, Any], tmp_path: Path) -> None:
    store: ActivationStore = study["training"]
    options = {"solver": "exact", "rank": H}
    fit_shortcuts(
        tmp_path / method,
        store.paths,
        method=method,
        options=options,
        seed=3,
        documents=study["documents"],
        device="cpu",
    )
    kept = ~samples_with_role(store, study["documents"], "thresholds").numpy()
    assert kept.sum() == 180
    levels = [store.level(level).astype(np.float64)[kept] for level in range(LEVELS + 1)]
    x, y = (np.concatenate(levels[:-1]), np.concatenate([levels[-1]] * LEVELS))
    name = "all-levels.safetensors"
    if method == "jtc":
        x, y, name = levels[1], levels[-1], "level-01.safetensors"
    reference = LinearRegression(fit_intercept=method == "joint").fit(x, y)
    with torch.no_grad():
        predicted = load_shortcut(tmp_path / method / name).double()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(predicted, reference.predict(x), atol=2e-4 * np.abs(y).max())


def test_the_gradient_solver_holds_nothing_out(study: dict[str, Any], tmp_path: Path) -> None:
    options = {"solver": "gradient", "gradient": {"epochs": 1, "batch": 10, "learning_rate": 0.1}}
    with pytest.raises(StudyError, match=r"n-njtc: the gradient solver given.*exact is accepted"):
        fit_shortcuts(
            tmp_path / "n-njtc",
            study["training"].paths,
            method="n-njtc",
            options=options,
            seed=0,
            documents=study["documents"],
            device="cpu",
        )


def measured(study: dict[str, Any], tmp_path: Path, method: str, **options: Any) -> tuple[Path, Path]:
    """Tables of both splits."""
    paths = tmp_path / f"{method}-held-out.parquet", tmp_path / f"{method}-validation.parquet"
    head = tmp_path / "head.safetensors"
    drawn = {"documents": study["documents"], "role": "thresholds"}
    for path, split, more in zip(paths, ("training", "validation"), (drawn, {}), strict=True):
        measure_confidences(path, study[split].paths, head, method=method, device="cpu", **more, **options)
    return paths


def test_the_stage(study: dict[str, Any], tmp_path: Path) -> None:
    save_shortcuts(
        tmp_path / "distilled",
        some_shortcuts("distilled"),
        {},
        levels=len(some_shortcuts("distilled")),
        one=False,
    )
    write_json(tmp_path / "selection.json", {"jump": 2, "by_metric": {"surprisal": 0}})
    pairs = [
        measured(study, tmp_path, "identity", shortcuts=None),
        measured(
            study,
            tmp_path,
            "ojfa-distilled",
            shortcuts=tmp_path / "distilled",
            selection=tmp_path / "selection.json",
        ),
    ]
    held_out = samples_with_role(study["training"], study["documents"], "thresholds").numpy().nonzero()[0]
    assert len(held_out) == 120
    tables = [pd.read_parquet(path) for path in pairs[0]]
    assert sorted(tables[0]["sample"].unique()) == held_out.tolist()
    assert tables[1]["sample"].nunique() == SAMPLES
    # The selected jump at every level.
    one = pd.read_parquet(pairs[1][1])
    expected = confidences(
        study["validation"], study["head"], {"m": lambda _: some_shortcuts("distilled")[2]}
    )["probability"]
    found = one[one["method"] == "ojfa-distilled"]["probability"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    curves, savings = tmp_path / "curves.parquet", tmp_path / "savings.parquet"
    compare_exits(
        curves,
        savings,
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        targets=[0.9, 0.6],
        from_level=1,
        model="m",
        corpus="c",
    )
    curve, saving = pd.read_parquet(curves), pd.read_parquet(savings)
    methods = ["identity", "ojfa-distilled", "ojfa-distilled-surprisal"]
    about = ["model", "corpus", "method", "rule"]
    assert list(curve) == [*about, "split", "threshold", "agreement", "blocks", "n"]
    columns = ["agreement", "agreement_stderr", "blocks", "saved", "saved_stderr", "reached", "n"]
    columns += ["documents", "held_out_n", "held_out_documents", "note"]
    assert list(saving) == [*about, "target", "threshold", *columns]
    assert set(zip(saving["held_out_n"], saving["held_out_documents"], saving["documents"], strict=True)) == {
        (120, 12, SAMPLES)
    }
    every = {(method, rule) for method in methods for rule in RULES}
    assert set(curve.groupby(["method", "rule"]).groups) == every
    assert len(saving) == 2 * len(every)
    never = curve[np.isinf(curve["threshold"])]
    assert len(never) == 2 * len(every)
    assert (never["agreement"] == 1).all()
    assert (never["blocks"] == LEVELS).all()
    assert (curve.groupby(["method", "rule", "split"])["blocks"].diff().dropna() >= 0).all()
    assert curve.groupby("split")["n"].unique().map(list).to_dict() == {
        "held-out": [120],
        "validation": [150],
    }
    seen, unseen = (Confidences.of(table) for table in tables)
    for target in (0.9, 0.6):
        row = saving[
            (saving["method"] == "identity") & (saving["rule"] == "fixed") & (saving["target"] == target)
        ].iloc[0]
        threshold = row["threshold"]
        on_held_out = Sweep(rule_of("fixed", seen, from_level=1)(seen), seen.hits)
        chosen = on_held_out.exits(strictest_first(seen, target, from_level=1))
        np.testing.assert_array_equal(on_held_out.exits(threshold), chosen)
        agreement, blocks, agreed, of_samples = simulate(
            unseen,
            lambda i, at: at > 0 and unseen.probabilities[i, at] >= threshold,  # noqa: B023
        )
        assert row["agreement"] == pytest.approx(agreement)
        assert row["blocks"] == pytest.approx(blocks)
        assert row["saved"] == pytest.approx(1 - blocks / LEVELS)
        assert row["agreement_stderr"] == pytest.approx(scipy.stats.sem(agreed))
        assert row["saved_stderr"] == pytest.approx(scipy.stats.sem(np.array(of_samples) / LEVELS))
        assert row["reached"] == np.isfinite(threshold)


def test_a_target_out_of_reach_is_never_exiting(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    n = 600
    table = pd.DataFrame(
        {
            "method": "wrong",
            "sample": np.repeat(np.arange(n), 2),
            "document": np.repeat(np.arange(n), 2),
            "position": 0,
            "level": np.tile([0, 1], n),
            "probability": generator.random(2 * n).astype(np.float32),
            "hit": False,
        }
    )
    path, savings = tmp_path / "wrong.parquet", tmp_path / "savings.parquet"
    write_table(path, table)
    compare_exits(tmp_path / "curves.parquet", savings, [path], [path], targets=[1.0], model="m", corpus="c")
    saving = pd.read_parquet(savings)
    assert not saving["reached"].any()
    assert (saving["threshold"] == np.inf).all()
    assert (saving["saved"] == 0).all()
    assert (saving["agreement"] == 1).all()
    assert (saving["agreement_stderr"] == 0).all()

    write_table(tmp_path / "other.parquet", table.assign(method="right"))
    both = [path], [tmp_path / "other.parquet"]
    with pytest.raises(OneJumpError, match=r"wrong.parquet is of wrong, but .*other.parquet of right"):
        compare_exits(tmp_path / "curves.parquet", savings, *both, model="m", corpus="c")
    with pytest.raises(OneJumpError, match="1199 rows given, 600 samples at 2 levels expected"):
        Confidences.of(table.iloc[1:])


@pytest.mark.parametrize(
    ("samples", "documents", "reached"), [(99, 99, False), (100, 99, True), (400, 9, False), (400, 10, True)]
)
def test_no_threshold_is_chosen_on_too_few_samples_or_documents(
    samples: int, documents: int, reached: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All agree and are sure, so that any threshold seems to do."""
    table = pd.DataFrame(
        {
            "method": "sure",
            "sample": np.repeat(np.arange(samples), 2),
            "document": np.repeat(np.arange(samples) % documents, 2),
            "position": 0,
            "level": np.tile([0, 1], samples),
            "probability": np.float32(0.99),
            "hit": True,
        }
    )
    paths = [tmp_path / "sure.parquet"]
    write_table(paths[0], table)
    curves, savings = tmp_path / "curves.parquet", tmp_path / "savings.parquet"
    compare_exits(curves, savings, paths, paths, rules=["fixed"], targets=[0.95, 0.5], model="m", corpus="c")
    saving = pd.read_parquet(savings).set_index("target")
    assert saving.loc[0.95, "reached"] == reached
    assert saving.loc[0.95, "saved"] == float(reached)
    assert (saving.loc[0.95, "note"] == "") == reached
    assert saving.loc[0.5, "reached"] == (documents >= 10)
    said = f"sure: no threshold for an agreement of 0.95: there are {samples} held-out samples of {documents}"
    assert (said in caplog.text) is not reached
    assert "at least 100 samples of 10 documents are needed" in caplog.text or reached


def test_odds_that_rest_on_few_agreements_are_told(tmp_path: Path) -> None:
    found = some_confidences(0, samples=300, levels=3)
    hits = found.hits.copy()
    hits[4:, 1] = False
    table = pd.DataFrame(
        {
            "method": "m",
            "sample": np.tile(np.arange(300), 3),
            "document": np.tile(np.arange(300), 3),
            "position": 0,
            "level": np.repeat(np.arange(3), 300),
            "probability": found.probabilities.T.ravel(),
            "hit": hits.T.ravel(),
        }
    )
    path, savings = tmp_path / "m.parquet", tmp_path / "savings.parquet"
    write_table(path, table)
    compare_exits(tmp_path / "curves.parquet", savings, [path], [path], from_level=1, model="m", corpus="c")
    notes = pd.read_parquet(savings).groupby("rule")["note"].unique().map(list)
    assert notes["fixed"] == notes["decaying"] == [""]
    assert notes["per-level"] == ["fewer than 5 held-out samples agree at level 1: its odds are a guess"]
