"""Metrics by hand through the model's own norm and head, r2 by scikit-learn, errors by resampling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from sklearn.metrics import r2_score
from stage_files import select

from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.base.errors import OneJumpError
from onejump.data.shard_writer import StoreOptions
from onejump.data.store import ActivationStore
from onejump.fitting.options import FitOptions
from onejump.fitting.shortcuts import fit_shortcuts
from onejump.fitting.solvers import exact
from onejump.models.activations import extract
from onejump.models.head import Head
from onejump.models.loading import load_model
from onejump.models.prompts import Prompt
from onejump.models.transformer import Transformer
from onejump.scoring.evaluation import ArbitraryJumps, evaluate, evaluate_method
from onejump.scoring.parameters import count_parameters
from onejump.shortcuts.files import ShortcutFolder, save_shortcut, save_shortcuts, shortcut_path
from onejump.shortcuts.kinds.affine import Affine
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.njtc import NJTC
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.methods import arbitrary_jumps
from onejump.shortcuts.shortcut import Shortcut

MakeStore = Callable[..., ActivationStore]
Data = Callable[..., np.ndarray]
CPU = torch.device("cpu")
SAMPLES = 150


@pytest.fixture(scope="module")
def transformer(tiny_model_folder: Path) -> Transformer:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def store(transformer: Transformer, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    path = tmp_path_factory.mktemp("evaluation") / "s.zarr"
    generator = np.random.default_rng(0)
    prompts = [Prompt(i, generator.integers(5, 200, size=9).tolist(), np.array([8])) for i in range(SAMPLES)]
    extract(transformer, prompts, path, top_k=10, store=StoreOptions(keepbits=None, chunk_samples=64))
    return ActivationStore([path])


def shortcuts_of(store: ActivationStore, method: str) -> list[Shortcut]:
    if method == "identity":
        return [Identity()] * (store.levels - 1)
    return list(exact.fit(store, method, 3, device=CPU))


def value(table: pd.DataFrame, method: str, level: int, metric: str, column: str = "value") -> float:
    rows = table[(table["method"] == method) & (table["level"] == level) & (table["metric"] == metric)]
    assert len(rows) == 1
    return float(rows[column].iloc[0])


def by_hand(transformer: Transformer, predicted: np.ndarray, last: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each sample, one at a time, in float64, through the model's own norm and lm_head."""
    norm, lm_head = transformer.model.model.norm, transformer.model.lm_head
    with torch.inference_mode():
        p_logits = lm_head(norm(torch.from_numpy(last).float())).double().numpy()
        q_logits = lm_head(norm(torch.from_numpy(predicted).float())).double().numpy()
    found: dict[str, list[float]] = {name: [] for name in ("precision@1", "precision@5", "surprisal", "kl")}
    for p, q in zip(p_logits, q_logits, strict=True):
        p = np.exp(p - p.max()) / np.exp(p - p.max()).sum()
        q = np.exp(q - q.max()) / np.exp(q - q.max()).sum()
        order = np.argsort(-p)
        for k in (1, 5):
            found[f"precision@{k}"].append(float(q.argmax() in order[:k]))
        found["surprisal"].append(-np.log(q[order[0]]))
        found["kl"].append(float((p * np.log(p / q)).sum()))
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("part", [2**22, 3000])
@pytest.mark.parametrize("method", ["identity", "jtc", "njtc", "n-njtc"])
def test_metrics_are_those_of_the_models_own_head(
    method: str,
    part: int,
    transformer: Transformer,
    store: ActivationStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOGITS_TOGETHER, "cpu", part)  # 3000: many parts of 15 samples
    shortcuts = shortcuts_of(store, method)
    table = evaluate(store, transformer.head, {method: shortcuts.__getitem__}, precision_at=(1, 5))
    last = store.level(4)
    for level in range(4):
        with torch.inference_mode():
            predicted = shortcuts[level](torch.from_numpy(store.level(level))).numpy()
        for metric, values in by_hand(transformer, predicted, last).items():
            assert value(table, method, level, metric) == pytest.approx(values.mean(), rel=2e-4, abs=1e-5)
            stderr = value(table, method, level, metric, "stderr")
            assert stderr == pytest.approx(scipy.stats.sem(values), rel=1e-3, abs=1e-6)
        found = value(table, method, level, "r2")
        assert found == pytest.approx(r2_score(last, predicted, multioutput="uniform_average"), rel=1e-4)
    assert (table["n"] == SAMPLES).all()
    precision = table[table["metric"] == "precision@5"]["value"]
    assert precision.between(0.01, 0.999).any()


def test_the_teacher_predicts_itself(
    transformer: Transformer, make_store: MakeStore, levels_of_data: Data
) -> None:
    states = np.repeat(levels_of_data(1, 50, 32), 3, axis=0)
    store = make_store(states, head=transformer.head)
    table = evaluate(store, transformer.head, {"identity": lambda _: Identity()}, precision_at=(1, 3))
    for level in range(2):
        for metric, expected in {"precision@1": 1, "precision@3": 1, "kl": 0, "r2": 1}.items():
            assert value(table, "identity", level, metric) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("part", [2**22, 3000])
def test_samples_of_one_document_are_not_independent(
    part: int, transformer: Transformer, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every sample given twice, as of one document, all errors are those of the samples given once."""
    monkeypatch.setitem(LOGITS_TOGETHER, "cpu", part)
    (jump, *_) = shortcuts_of(store, "n-njtc")
    twice = ActivationStore([*store.paths, *store.paths])
    documents = np.tile(np.arange(SAMPLES), 2)
    methods = {"n-njtc": lambda _: jump}
    once = evaluate(store, transformer.head, methods, precision_at=(1,))
    given = evaluate(twice, transformer.head, methods, documents=documents, precision_at=(1,))
    assert set(once["n"]) == set(given["documents"]) == set(once["documents"]) == {SAMPLES}
    assert set(given["n"]) == {2 * SAMPLES}
    np.testing.assert_allclose(given["value"], once["value"], rtol=1e-5)
    np.testing.assert_allclose(given["stderr"], once["stderr"], rtol=1e-5)


def test_one_document_has_no_error_and_precisions_need_their_tokens(
    transformer: Transformer, store: ActivationStore
) -> None:
    methods = {"identity": lambda _: Identity()}
    table = evaluate(store, transformer.head, methods, documents=np.zeros(SAMPLES), precision_at=(1,))
    assert table["value"].notna().all()
    assert table["stderr"].isna().all()
    with pytest.raises(OneJumpError, match=r"precision_at: 11 given, but .* keeps the 10 most likely tokens"):
        evaluate(store, transformer.head, methods, precision_at=(1, 11))


def test_r2_is_scikit_learns_with_constant_coordinates(
    make_store: MakeStore, levels_of_data: Data, make_head: Callable[..., Head]
) -> None:
    head = make_head(8, 20)
    states = 1000 + levels_of_data(3, 100, 8)  # far off centre
    states[:, :, 2] = 1.5  # constant and predicted exactly
    states[-1, :, 4] = -0.25  # constant and not
    store = make_store(states, sizes=[60, 40], head=head)
    table = evaluate(store, head, {"identity": lambda _: Identity()}, precision_at=(1,))
    for level in range(2):
        expected = r2_score(states[-1].astype(np.float64), states[level].astype(np.float64))
        assert value(table, "identity", level, "r2") == pytest.approx(expected, rel=1e-6)


def test_standard_error_of_r2_is_the_linearised_ones_and_near_the_bootstraps(
    transformer: Transformer, store: ActivationStore
) -> None:
    shortcuts = shortcuts_of(store, "n-njtc")
    table = evaluate(store, transformer.head, {"n-njtc": shortcuts.__getitem__}, precision_at=(1,))
    last = store.level(4).astype(np.float64)
    generator = np.random.default_rng(0)
    for level in range(4):
        with torch.inference_mode():
            predicted = shortcuts[level](torch.from_numpy(store.level(level))).double().numpy()
        deviations = np.square(last - last.mean(0))
        errors, total = np.square(last - predicted), deviations.sum(0)
        ratios = errors.sum(0) / total
        influence = ((errors - ratios * deviations) / total).mean(1)
        found = value(table, "n-njtc", level, "r2", "stderr")
        variance = np.square(influence).sum() * SAMPLES / (SAMPLES - 1)  # each sentence is a document
        assert found == pytest.approx(np.sqrt(variance), rel=1e-4)
        picks = [generator.integers(0, SAMPLES, SAMPLES) for _ in range(300)]
        spread = np.std([r2_score(last[pick], predicted[pick]) for pick in picks])
        assert found == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("kind", ["distilled", "one-jump", "affine"])
def test_a_kind_that_predicts_no_state_has_no_r2(
    kind: str, transformer: Transformer, store: ActivationStore
) -> None:
    """The same jump made longer predicts the same tokens, so that no score may depend on the length."""
    normal = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    down, up, bias = normal[:, :3], normal[:3], normal[3]

    def longer(factor: float) -> Callable[[int], Shortcut]:
        if kind == "affine":
            return lambda _: Affine(factor * normal, factor * bias, "rms", 1e-5)
        if kind == "distilled":
            return lambda _: Distilled(down, torch.zeros(3), factor * up, factor * bias, "rms", 1e-5)
        return OneJump(down, torch.zeros(4, 3), factor * up, factor * bias, "rms", 1e-5).at

    methods = {"once": longer(1.0), "twice": longer(2.0), "identity": lambda _: Identity()}
    table = evaluate(store, transformer.head, methods, precision_at=(1,))
    assert set(table.loc[table["metric"] == "r2", "method"]) == {"identity"}
    once, twice = (table[table["method"] == name].reset_index(drop=True) for name in ("once", "twice"))
    np.testing.assert_allclose(once["value"], twice["value"], rtol=1e-3)


def test_arbitrary_jumps() -> None:
    choices = ["first", "middle", "last", 7]
    jumps = arbitrary_jumps(choices, 5, levels=30, chosen=12, seed=3)
    named = {"arbitrary-first": 0, "arbitrary-middle": 15, "arbitrary-last": 29, "arbitrary-7": 7}
    assert {name: jumps[name] for name in named} == named
    drawn = [jumps[f"arbitrary-random-{i}"] for i in range(1, 6)]
    assert len(jumps) == 9
    assert len({*drawn, 12, *named.values()}) == 10
    assert set(drawn) <= set(range(30))
    assert arbitrary_jumps(choices, 5, levels=30, chosen=12, seed=3) == jumps
    assert arbitrary_jumps(choices, 5, levels=30, chosen=12, seed=4) != jumps
    few = arbitrary_jumps(["first"], 9, levels=3, chosen=2, seed=0)
    assert few == {"arbitrary-first": 0, "arbitrary-random-1": 1}


@pytest.fixture
def fitted(store: ActivationStore, tmp_path: Path) -> dict[str, Path]:
    folders = {}
    for method in ("jtc", "njtc", "n-njtc", "joint"):
        options = FitOptions(rank=3)
        folders[method] = tmp_path / method
        fit_shortcuts(folders[method], store.paths, method=method, options=options, seed=0, device="cpu")
    select(tmp_path / "selection.json", jump=2, computed_from={"method": "n-njtc"})
    return folders


def run_stage(
    tmp_path: Path, store: ActivationStore, method: str, shortcuts: Path, **options: Any
) -> pd.DataFrame:
    evaluate_method(
        tmp_path / f"{method}.parquet",
        store.paths,
        tmp_path / "head.safetensors",
        method=method,
        shortcuts=shortcuts,
        precision_at=[1, 5],
        model="m",
        corpus="c",
        device="cpu",
        **options,
    )
    return pd.read_parquet(tmp_path / f"{method}.parquet")


def test_ojfa_is_the_selected_jump_at_every_level(
    transformer: Transformer, store: ActivationStore, fitted: dict[str, Path], tmp_path: Path
) -> None:
    transformer.head.save(tmp_path / "head.safetensors")
    own = run_stage(tmp_path, store, "n-njtc", fitted["n-njtc"])
    one = run_stage(tmp_path, store, "ojfa", fitted["n-njtc"], selection=tmp_path / "selection.json")
    at_chosen = own[own["level"] == 2].reset_index(drop=True)
    of_one = one[one["level"] == 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(at_chosen.drop(columns="method"), of_one.drop(columns="method"))
    # Elsewhere it is the selected jump's matrix on that level's states, not that level's own jump.
    jump = ShortcutFolder(fitted["n-njtc"]).load(2)
    for level in range(4):
        with torch.inference_mode():
            predicted = jump(torch.from_numpy(store.level(level))).numpy()
        assert value(one, "ojfa", level, "r2") == pytest.approx(r2_score(store.level(4), predicted), rel=1e-4)
    others = run_stage(
        tmp_path,
        store,
        "arbitrary",
        fitted["n-njtc"],
        selection=tmp_path / "selection.json",
        arbitrary=ArbitraryJumps(["first", 2], random=1),
    )
    assert set(others["method"]) == {"arbitrary-first", "arbitrary-2", "arbitrary-random-1"}
    assert value(others, "arbitrary-2", 1, "kl") == value(one, "ojfa", 1, "kl")
    assert value(others, "arbitrary-first", 0, "kl") == value(own, "n-njtc", 0, "kl")


def test_numbers_of_each_method(store: ActivationStore, fitted: dict[str, Path], tmp_path: Path) -> None:
    fitted["distilled"] = tmp_path / "distilled"
    normal = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    distilled = [Distilled(normal[:, :3], torch.zeros(3), normal[:3], normal[3], "rms", 1e-5)] * 4
    save_shortcuts(fitted["distilled"], distilled, {}, levels=4, one=False)
    selections = {}
    for kind in ("n-njtc", "distilled"):
        selections[kind] = tmp_path / f"{kind}.json"
        origin = {"method": kind, "levels": 4}
        select(selections[kind], jump=2, by_metric={"surprisal": 1}, computed_from=origin)
    made = {"ojfa": "n-njtc", "ojfa-normalised": "n-njtc", "ojfa-distilled": "distilled"}
    output = tmp_path / "parameters.parquet"
    count_parameters(
        output,
        list(fitted.values()),
        [selections[kind] for kind in made.values()],
        methods=list(fitted),
        selected=list(made),
        reference="n-njtc",
        model="m",
        corpus="c",
    )
    table = pd.read_parquet(output).set_index("method")
    h, r, levels = 32, 3, 4
    low, normalised, trained = 2 * h * r, 2 * h * r + 4 * h, 2 * h * r + r + h
    expected = {
        "identity": (0, 0),
        "jtc": (levels, levels * h * h),
        "njtc": (levels, levels * low),
        "n-njtc": (levels, levels * normalised),
        "joint": (1, normalised),
        "distilled": (levels, levels * trained),
        "ojfa": (1, normalised),
        # Mean and variance of each level, gamma and beta of one.
        "ojfa-normalised": (1, low + 2 * h + levels * 2 * h),
        "ojfa-distilled": (1, trained),
        "ojfa-distilled-surprisal": (1, trained),
    }
    kept = table[["shortcuts", "numbers"]].itertuples(index=True, name=None)
    assert {method: (shortcuts, numbers) for method, shortcuts, numbers in kept} == expected
    assert table.loc["ojfa", "reduction"] == levels
    assert table.loc["jtc", "reduction"] == pytest.approx(normalised / (h * h))
    assert np.isnan(table.loc["identity", "reduction"])


def test_scaling_a_low_rank_prediction_keeps_its_direction(
    transformer: Transformer, store: ActivationStore
) -> None:
    """The norm takes a prediction's length away, so that tokens depend on its direction only."""
    (jump, *_) = shortcuts_of(store, "njtc")
    assert isinstance(jump, NJTC)
    longer = NJTC(1000 * jump.down, jump.up)
    even_longer = NJTC(2000 * jump.down, jump.up)
    table = evaluate(
        store, transformer.head, {"a": lambda _: longer, "b": lambda _: even_longer}, precision_at=(1,)
    )
    for level in range(4):
        kl = value(table, "a", level, "kl")
        assert value(table, "b", level, "kl") == pytest.approx(kl, rel=1e-3)


def test_folders_are_as_the_stage_wrote_them(fitted: dict[str, Path], tmp_path: Path) -> None:
    assert sorted(path.name for path in fitted["njtc"].iterdir()) == [
        f"level-0{i}.safetensors" for i in range(4)
    ]
    assert [path.name for path in fitted["joint"].iterdir()] == ["all-levels.safetensors"]
    save_shortcut(shortcut_path(tmp_path, 0), Identity(), {})
    assert ShortcutFolder(tmp_path).levels == 1
