"""The stages of early exit: confidences on both splits, thresholds, and what they save."""

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
from simulated_exits import simulate, some_confidences, some_shortcuts, strictest_first
from sklearn.linear_model import LinearRegression
from stage_files import select

from onejump.base.errors import OneJumpError, StudyError
from onejump.base.files import write_table
from onejump.data.document_roles import assign_documents
from onejump.data.held_out import samples_with_role
from onejump.data.store import ActivationStore
from onejump.exits.confidences import Confidences
from onejump.exits.measuring import confidences, measure_confidences
from onejump.exits.rules import RULES, rule_of
from onejump.exits.sweep import Sweep
from onejump.experiments.early_exit import ExitOptions, compare_exits
from onejump.fitting.options import FitOptions, GradientOptions
from onejump.fitting.shortcuts import fit_shortcuts
from onejump.models.head import Head
from onejump.shortcuts.files import load_shortcut, save_shortcuts

MakeStore = Callable[..., ActivationStore]
MakeHead = Callable[..., Head]
Data = Callable[..., np.ndarray]
H, V, LEVELS, SAMPLES = 8, 40, 4, 150


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
    options = FitOptions(rank=H)
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
    options = FitOptions("gradient", gradient=GradientOptions(epochs=1, batch=10, learning_rate=0.1))
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
        some_shortcuts("distilled", H, LEVELS),
        {},
        levels=len(some_shortcuts("distilled", H, LEVELS)),
        one=False,
    )
    select(tmp_path / "selection.json", jump=2, by_metric={"surprisal": 0})
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
        study["validation"], study["head"], {"m": lambda _: some_shortcuts("distilled", H, LEVELS)[2]}
    )["probability"]
    found = one[one["method"] == "ojfa-distilled"]["probability"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    curves, savings = tmp_path / "curves.parquet", tmp_path / "savings.parquet"
    compare_exits(
        curves,
        savings,
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        options=ExitOptions(targets=[0.9, 0.6], from_level=1),
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
    strict: dict[str, Any] = {"options": ExitOptions(targets=[1.0]), "model": "m", "corpus": "c"}
    compare_exits(tmp_path / "curves.parquet", savings, [path], [path], **strict)
    saving = pd.read_parquet(savings)
    assert not saving["reached"].any()
    assert (saving["threshold"] == np.inf).all()
    assert (saving["saved"] == 0).all()
    assert (saving["agreement"] == 1).all()
    assert (saving["agreement_stderr"] == 0).all()

    write_table(tmp_path / "other.parquet", table.assign(method="right"))
    both = [path], [tmp_path / "other.parquet"]
    with pytest.raises(OneJumpError, match=r"wrong.parquet holds wrong, but .*other.parquet holds right"):
        compare_exits(tmp_path / "curves.parquet", savings, *both, **strict)
    with pytest.raises(
        OneJumpError,
        match=r"1199 rows given, 1200 expected \(one for each of 600",
    ):
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
    options = ExitOptions(rules=["fixed"], targets=[0.95, 0.5])
    compare_exits(curves, savings, paths, paths, options=options, model="m", corpus="c")
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
    options = ExitOptions(from_level=1)
    compare_exits(
        tmp_path / "curves.parquet", savings, [path], [path], options=options, model="m", corpus="c"
    )
    notes = pd.read_parquet(savings).groupby("rule")["note"].unique().map(list)
    assert notes["fixed"] == notes["decaying"] == [""]
    assert notes["per-level"] == ["fewer than 5 held-out samples agree at level 1: its odds are a guess"]
