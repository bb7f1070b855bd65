"""Confidences against the head in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from simulated_exits import some_shortcuts

from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.data.store import ActivationStore
from onejump.exits.confidences import Confidences
from onejump.exits.measuring import confidences
from onejump.models.head import Head
from onejump.scoring.evaluation import evaluate

MakeStore = Callable[..., ActivationStore]
MakeHead = Callable[..., Head]
Data = Callable[..., np.ndarray]
H, V, LEVELS, SAMPLES = 8, 40, 4, 150


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
    shortcuts = some_shortcuts(kind, H, LEVELS)
    chosen = torch.from_numpy(np.random.default_rng(0).random(SAMPLES) < 0.4)
    for samples in (None, chosen):
        table = confidences(store, head, {"m": shortcuts.__getitem__}, samples=samples)
        rows = np.arange(SAMPLES) if samples is None else samples.numpy().nonzero()[0]
        teacher = softmax_by_hand(head, torch.from_numpy(store.level(LEVELS)).double()).argmax(1)[rows]
        measured = ["token", "probability", "margin", "entropy", "hit"]
        assert list(table) == ["method", "sample", "document", "position", "level", *measured]
        kinds = table.dtypes.astype(str).drop("method").tolist()
        assert kinds == ["int32", "int64", "int32", "int16", "int32", *["float32"] * 3, "bool"]
        assert len(table) == LEVELS * len(rows)
        for level in range(LEVELS):
            found = table[table["level"] == level]
            states = torch.from_numpy(store.level(level)[rows]).double()
            with torch.no_grad():
                probabilities = softmax_by_hand(head, shortcuts[level].double()(states))
            shortcuts[level].float()
            np.testing.assert_array_equal(found["sample"], rows)
            np.testing.assert_array_equal(found["position"], store.of_samples("position")[rows])
            np.testing.assert_array_equal(found["token"], probabilities.argmax(1))
            np.testing.assert_allclose(found["probability"], probabilities.max(1), rtol=1e-4)
            second, most = np.sort(probabilities, 1)[:, -2:].T
            np.testing.assert_allclose(found["margin"], most - second, atol=1e-5)
            evenness = scipy.stats.entropy(probabilities, axis=1) / np.log(V)
            np.testing.assert_allclose(found["entropy"], 1 - evenness, atol=1e-5)
            np.testing.assert_array_equal(found["hit"], probabilities.argmax(1) == teacher)


def test_coordinates_are_what_a_low_rank_jump_predicts_from(
    make_head: MakeHead, make_store: MakeStore, levels_of_data: Data
) -> None:
    head = make_head(H, V)
    store = make_store(levels_of_data(LEVELS + 1, SAMPLES, H), sizes=[80, 70], head=head)
    chosen = torch.arange(SAMPLES) % 3 == 1
    for kind in ("distilled", "n-njtc", "jtc"):
        jumps = some_shortcuts(kind, H, LEVELS)
        methods = {"m": jumps.__getitem__}
        plain = confidences(store, head, methods, samples=chosen)
        table = confidences(store, head, methods, samples=chosen, coordinates=True)
        pd.testing.assert_frame_equal(table[plain.columns], plain)
        names = [name for name in table.columns if name not in plain.columns]
        if kind == "jtc":
            assert not names
            continue
        assert names == [f"z{at}" for at in range(len(jumps[0].up))]
        for level in range(LEVELS):
            expected = jumps[level].reduce(torch.from_numpy(store.level(level))[chosen])
            found = table.loc[table["level"] == level, names].to_numpy()
            np.testing.assert_allclose(found, expected.detach(), rtol=1e-5, atol=1e-6)


def test_hits_are_precision_at_1_of_the_evaluation(
    make_head: MakeHead, make_store: MakeStore, levels_of_data: Data
) -> None:
    head = make_head(H, V)
    store = make_store(levels_of_data(LEVELS + 1, SAMPLES, H), head=head)
    methods = {kind: some_shortcuts(kind, H, LEVELS).__getitem__ for kind in ("identity", "jtc", "distilled")}
    table = confidences(store, head, methods)
    measured = evaluate(store, head, methods, precision_at=(1,))
    measured = measured[measured["metric"] == "precision@1"].set_index(["method", "level"])["value"]
    hits = table.groupby(["method", "level"])["hit"].mean()
    pd.testing.assert_series_equal(hits, measured.sort_index(), check_names=False, check_index_type=False)


def test_the_accuracy_of_exits_is_that_of_each_text_at_its_own_level(
    make_head: MakeHead, make_store: MakeStore, levels_of_data: Data
) -> None:
    head = make_head(H, 11)
    store = make_store(levels_of_data(LEVELS + 1, SAMPLES, H), head=head, attributes={"labelled": True})
    chosen = torch.from_numpy(np.random.default_rng(0).random(SAMPLES) < 0.4)
    shortcuts = some_shortcuts("distilled", H, LEVELS)
    found = Confidences.of(confidences(store, head, {"m": shortcuts.__getitem__}, samples=chosen))
    rows = chosen.numpy().nonzero()[0]
    exits = np.random.default_rng(1).integers(0, LEVELS + 1, len(rows))
    right, of_full = [], []
    for row, level in zip(rows, exits, strict=True):
        label = row % 11
        last = torch.from_numpy(store.level(LEVELS)[row]).double()[None]
        of_full.append(softmax_by_hand(head, last).argmax() == label)
        if level == LEVELS:
            right.append(of_full[-1])
            continue
        state = torch.from_numpy(store.level(int(level))[row]).double()[None]
        with torch.no_grad():
            predicted = softmax_by_hand(head, shortcuts[int(level)].double()(state)).argmax()
        shortcuts[int(level)].float()
        right.append(predicted == label)
    measured = found.accuracy_of(exits)
    np.testing.assert_array_equal(measured["accuracy"], np.array(right, float))
    np.testing.assert_array_equal(
        measured["accuracy_change"], np.array(right, float) - np.array(of_full, float)
    )
    assert 0 < sum(right) < len(rows)
    assert right != of_full
