"""Scores against a double loop over materialised predictions, and the choice against its definition."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from onejump.base.errors import OneJumpError
from onejump.base.files import write_table
from onejump.base.scores import OF_STATES
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.scoring.scores import score_jumps, score_matrix, surprisal_matrix
from onejump.scoring.selection import rank_jumps, select_jump
from onejump.shortcuts.files import save_shortcut, shortcut_path
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.kinds.njtc import NJTC
from onejump.shortcuts.shortcut import LowRank

LEVELS, SAMPLES, H, R = 5, 130, 10, 2
MakeStore = Callable[..., ActivationStore]
Data = Callable[..., np.ndarray]


def some_jumps(count: int, kind: str, seed: int = 0) -> list[LowRank]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    jumps: list[LowRank] = []
    for _ in range(count):
        down, up = normal(H, R), normal(R, H)
        if kind == "n-njtc":
            jumps.append(NNJTC(down, up, normal(H), normal(H), normal(H), 0.1 + normal(H).square()))
        elif kind == "distilled":
            jumps.append(Distilled(down, normal(R), up, normal(H), "rms", 1e-5))
        else:
            jumps.append(NJTC(down, up))
    return jumps


def naive(states: np.ndarray, jumps: Sequence[LowRank]) -> np.ndarray:
    """(metric, jump, level): the definition, prediction by prediction, in float64."""
    scores = np.zeros((3, len(jumps), len(states) - 1))
    for m, jump in enumerate(jumps):
        for level in range(len(states) - 1):
            with torch.no_grad():
                predictions = jump.double()(torch.from_numpy(states[level]).double()).numpy()
            jump.float()
            for prediction, last in zip(predictions, states[-1].astype(np.float64), strict=True):
                length = np.linalg.norm(prediction) * np.linalg.norm(last)
                cosine = prediction @ last / length if length else 0.0
                error = np.square(prediction - last).mean()
                scores[:, m, level] += np.sign(cosine) * cosine**2, cosine, error
    return scores


@pytest.mark.parametrize("kind", ["njtc", "n-njtc", "distilled"])
@pytest.mark.parametrize("sizes", [[SAMPLES], [100, 30]])
def test_the_matrix_is_the_double_loop(
    kind: str, sizes: list[int], make_store: MakeStore, levels_of_data: Data
) -> None:
    states = levels_of_data(LEVELS, SAMPLES, H)
    jumps = some_jumps(LEVELS - 1, kind)
    expected = naive(states, jumps)
    found = score_matrix(make_store(states, sizes=sizes, chunk_samples=33), jumps).numpy()
    assert found.shape == (3, LEVELS - 1, LEVELS - 1)
    assert expected[:2].min() < 0 < expected[:2].max()  # signs are at stake
    for metric in range(3):
        scale = np.abs(expected[metric]).max()
        np.testing.assert_allclose(found[metric], expected[metric], rtol=1e-4, atol=1e-5 * scale)


def test_surprisals_are_those_of_the_whole_head(
    make_store: MakeStore, make_head: Callable[..., Head], levels_of_data: Data
) -> None:
    head = make_head(H, 31, softcap=5.0)
    store = make_store(levels_of_data(LEVELS, SAMPLES, H), head=head, top_k=3)
    jumps, rows = some_jumps(2, "distilled"), torch.arange(0, SAMPLES, 3)
    found = surprisal_matrix(store, head, jumps, rows)
    first = torch.from_numpy(store.of_samples("top_tokens").astype(np.int64))[rows, 0]
    for number, jump in enumerate(jumps):
        for level in range(LEVELS - 1):
            logits = head.logits(jump(torch.from_numpy(store.level(level))[rows]))
            expected = torch.nn.functional.cross_entropy(logits.double(), first, reduction="sum")
            assert float(found[number, level]) == pytest.approx(float(expected), rel=1e-5)


def test_a_prediction_of_zero_has_cosine_zero(make_store: MakeStore, levels_of_data: Data) -> None:
    states = levels_of_data(3, 20, H)
    states[1, 4] = 0  # one zero state, and one jump that predicts nothing else
    jumps = [some_jumps(1, "njtc")[0], NJTC(torch.zeros(H, R), torch.eye(R, H))]
    found = score_matrix(make_store(states), jumps).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, naive(states, jumps), rtol=1e-4, atol=1e-4)
    assert (found[:2, 1] == 0).all()
    squares = np.square(states[-1].astype(np.float64)).sum() / H
    np.testing.assert_allclose(found[2, 1], squares, rtol=1e-5)


def test_a_target_of_zero_has_cosine_zero(make_store: MakeStore, levels_of_data: Data) -> None:
    states = levels_of_data(3, 20, H)
    states[-1, 3] = 0
    jumps = some_jumps(2, "n-njtc")
    found = score_matrix(make_store(states), jumps).numpy()
    np.testing.assert_allclose(found, naive(states, jumps), rtol=1e-4, atol=1e-3)


def test_perfect_jumps_score_one_a_sample(make_store: MakeStore, levels_of_data: Data) -> None:
    states = np.repeat(levels_of_data(1, 40, H), 4, axis=0)
    whole = NJTC(torch.eye(H), torch.eye(H))
    against = NJTC(-torch.eye(H), torch.eye(H))
    found = score_matrix(make_store(states), [whole, against]).numpy()
    np.testing.assert_allclose(found[:2, 0], 40, rtol=1e-5)
    np.testing.assert_allclose(found[:2, 1], -40, rtol=1e-5)
    np.testing.assert_allclose(found[2, 0], 0, atol=1e-3)


def score_table(totals: dict[str, list[list[float]]]) -> pd.DataFrame:
    rows = [
        ("model", "corpus", metric, jump, level, score, 10)
        for metric, matrix in totals.items()
        for jump, of_levels in enumerate(matrix)
        for level, score in enumerate(of_levels)
    ]
    return pd.DataFrame(rows, columns=["model", "corpus", "metric", "jump", "level", "score", "n"])


def select(tmp_path: Path, table: pd.DataFrame, metric: str) -> dict:
    write_table(tmp_path / "scores.parquet", table)
    select_jump(tmp_path / "selection.json", tmp_path / "scores.parquet", method="n-njtc", metric=metric)
    return json.loads((tmp_path / "selection.json").read_text())


@pytest.mark.parametrize(
    ("metric", "order", "margin"),
    [
        ("signed-squared-cosine", [1, 2, 0], 0.5),
        ("cosine", [2, 0, 1], 1.0),
        ("mse", [0, 1, 2], 1.5),
        ("surprisal", [2, 1, 0], 0.5),
    ],
)
def test_the_choice_is_the_best_mean_over_levels(
    metric: str, order: list[int], margin: float, tmp_path: Path
) -> None:
    table = score_table(
        {
            "signed-squared-cosine": [[5.0, -4.0], [2.0, 2.0], [9.0, -6.0]],
            "cosine": [[1.0, 1.0], [-1.0, 1.0], [-2.0, 6.0]],
            "mse": [[1.0, 1.0], [1.0, 4.0], [0.0, 9.0]],
            "surprisal": [[5.0, 2.0], [4.0, 2.0], [4.0, 1.0]],
        }
    ).sample(frac=1, random_state=3)  # rows in any order
    chosen = select(tmp_path, table, metric)
    means = table[table["metric"] == metric].groupby("jump")["score"].sum() / 2
    assert [entry["jump"] for entry in chosen["ranking"]] == order
    assert [entry["score"] for entry in chosen["ranking"]] == [means[jump] for jump in order]
    assert chosen["jump"] == order[0]
    assert chosen["score"] == means[order[0]]
    assert chosen["margin"] == margin
    assert chosen["computed_from"]["metric"] == metric
    assert chosen["computed_from"]["samples"] == 10
    assert chosen["computed_from"]["levels"] == 2
    winners = {"signed-squared-cosine": 1, "cosine": 2, "mse": 0, "surprisal": 2}
    assert chosen["by_metric"] == winners


@pytest.mark.parametrize("metric", OF_STATES)
def test_ties_go_to_the_smallest_jump(metric: str, tmp_path: Path) -> None:
    worse = 100.0 if metric == "mse" else -100.0
    matrix = [[worse], *[[1.0]] * 12, [worse]]
    chosen = select(tmp_path, score_table({metric: matrix}).iloc[::-1], metric)
    assert chosen["jump"] == 1
    assert chosen["margin"] == 0
    assert [entry["jump"] for entry in chosen["ranking"]] == [*range(1, 13), 0, 13]


def test_a_single_jump_has_no_margin(tmp_path: Path) -> None:
    chosen = select(tmp_path, score_table({"cosine": [[1.0, 2.0]]}), "cosine")
    assert (chosen["jump"], chosen["score"], chosen["margin"]) == (0, 1.5, None)


def test_the_stage_writes_the_matrix_and_its_argmax(
    tmp_path: Path, make_store: MakeStore, levels_of_data: Data
) -> None:
    states = levels_of_data(4, 60, H)
    jumps = some_jumps(3, "n-njtc")
    for level, jump in enumerate(jumps):
        save_shortcut(shortcut_path(tmp_path, level), jump, {})
    scores = tmp_path / "scores.parquet"
    score_jumps(scores, make_store(states).paths, tmp_path, model="m", corpus="c", device="cpu")
    table = pd.read_parquet(scores)
    expected = naive(states, jumps) / 60  # one scale for every score: mean over samples
    for i, metric in enumerate(OF_STATES):
        matrix = table[table["metric"] == metric].pivot_table(index="jump", columns="level", values="score")
        np.testing.assert_allclose(matrix.to_numpy(), expected[i], rtol=1e-3, atol=1e-4)
        means = expected[i].mean(1)
        best = means.argmin() if metric == "mse" else means.argmax()
        ranked = rank_jumps(table, metric)
        assert ranked.index[0] == best
        np.testing.assert_allclose(ranked.sort_index(), means, rtol=1e-3, atol=1e-4)
    assert (table["n"] == 60).all()


def test_jumps_that_predict_no_state_have_no_mse(
    tmp_path: Path, make_store: MakeStore, levels_of_data: Data
) -> None:
    states = levels_of_data(3, 40, H)
    jumps = some_jumps(2, "distilled")
    for level, jump in enumerate(jumps):
        save_shortcut(shortcut_path(tmp_path, level), jump, {})
    scores = tmp_path / "scores.parquet"
    score_jumps(scores, make_store(states).paths, tmp_path, model="m", corpus="c", device="cpu")
    assert set(pd.read_parquet(scores)["metric"]) == {"signed-squared-cosine", "cosine"}
    select_jump(tmp_path / "selection.json", scores, method="distilled", metric="cosine")
    chosen = json.loads((tmp_path / "selection.json").read_text())
    assert list(chosen["by_metric"]) == ["signed-squared-cosine", "cosine"]
    with pytest.raises(OneJumpError, match="metric 'mse' given, but distilled jumps are scored by signed-"):
        select_jump(tmp_path / "other.json", scores, method="distilled", metric="mse")
    assert not (tmp_path / "other.json").exists()


def test_only_low_rank_jumps_of_every_level_compete(
    tmp_path: Path, make_store: MakeStore, levels_of_data: Data
) -> None:
    paths = make_store(levels_of_data(3, 20, H)).paths
    save_shortcut(shortcut_path(tmp_path, 0), JTC(torch.eye(H)), {})
    with pytest.raises(OneJumpError, match="a low-rank jump for each of 2 levels was expected, 0 were found"):
        score_jumps(tmp_path / "scores.parquet", paths, tmp_path, model="m", corpus="c", device="cpu")
    assert not (tmp_path / "scores.parquet").exists()
