"""Before and after joint optimisation: distributions of levels, loss on text, gates and oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from transformers import AutoModelForCausalLM

from onejump.base.files import read_table, write_table
from onejump.experiments.joint_optimisation import compare_tuned
from onejump.experiments.level_predictions import levels_of, losses_of
from onejump.models.loading import load_model


def test_distributions_of_levels_are_those_of_scipy(levels_of_data, make_store, make_head) -> None:
    states = levels_of_data(4, 90, 8)
    head = make_head(8, 30, "layer", bias=True, softcap=3.0)
    store = make_store(states, sizes=[50, 40], head=head, chunk_samples=16)
    documents = np.arange(90) // 3
    found = levels_of(store, head, documents, torch.device("cpu"))
    with torch.no_grad():
        logits = head.double().logits(torch.from_numpy(states).double()).numpy()
    p = softmax(logits, -1)
    # scipy's is the square root of the divergence.
    apart = np.stack([jensenshannon(p[level], p[level + 1], axis=1) ** 2 for level in range(3)])
    agreement = p.argmax(-1) == p[-1].argmax(-1)
    expected = {
        "probability": p.max(-1),
        "entropy": entropy(p, axis=-1),
        "agreement": agreement.astype(float),
        "divergence": np.concatenate([apart, np.full((1, 90), np.nan)]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.mean(1), rtol=1e-4, err_msg=name)
        # Each document has three samples, so the standard error is that of the documents' means.
        means = values.reshape(4, 30, 3).mean(2)
        error = means.std(1, ddof=1) / 30**0.5
        np.testing.assert_allclose(found[f"{name}_stderr"], error, rtol=1e-3, atol=1e-9, err_msg=name)
    assert found["n"].tolist() == [90] * 4


def test_losses_are_those_of_transformers(tiny_model_folder: Path) -> None:
    transformer = load_model(str(tiny_model_folder))
    generator = np.random.default_rng(0)
    sequences = [generator.integers(0, 200, length).tolist() for length in (5, 12, 2, 9, 12)]
    first = [0, 3, 0, 0, 10]
    found = losses_of(transformer, sequences, first, 24)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    for (lost, count), sequence, start in zip(found.tolist(), sequences, first, strict=True):
        tokens = torch.tensor([sequence])
        labels = tokens.clone()
        labels[0, : start + 1] = -100
        with torch.no_grad():
            mean = float(model(tokens, labels=labels).loss)
        assert count == len(sequence) - 1 - start
        assert lost / count == pytest.approx(mean, rel=1e-5)


def write_confidences(path: Path, probabilities: np.ndarray, hits: np.ndarray) -> Path:
    samples, levels = probabilities.shape
    table = pd.DataFrame(
        {
            "method": "identity",
            "sample": np.tile(np.arange(samples), levels),
            "document": np.tile(np.arange(samples) // 2, levels),
            "position": 0,
            "level": np.repeat(np.arange(levels), samples),
            "probability": probabilities.T.reshape(-1),
            "hit": hits.T.reshape(-1),
        }
    )
    write_table(path, table)
    return path


def compare(folder: Path, probabilities: np.ndarray, hits: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    held_out = write_confidences(folder / "held-out.parquet", probabilities, hits)
    measured, losses = folder / "levels.parquet", [folder / "a.parquet", folder / "b.parquet"]
    columns = ("probability", "entropy", "agreement", "divergence")
    write_table(measured, pd.DataFrame({"level": range(5), **dict.fromkeys(columns, np.arange(5.0))}))
    lost = pd.DataFrame({"document": range(6), "loss": [9.0, 7, 5, 8, 6, 4], "tokens": [3.0, 2, 2, 3, 2, 1]})
    write_table(losses[0], lost)
    write_table(losses[1], lost.assign(loss=lost["loss"] + [1.0, 0.5, 0, 1, 0.2, 0.3]))
    options = {"weights": "linear", "loss": "distilled", "early": 0.25, "adapters": {"rank": 4, "alpha": 8.0}}
    compare_tuned(
        folder / "comparison.parquet",
        folder / "all-levels.parquet",
        [measured] * 2,
        losses,
        [held_out] * 2,
        [held_out] * 2,
        names=["base", "tuned"],
        tuned={"tuned": options},
        targets=[0.9],
        model="base",
        corpus="c",
    )
    return read_table(folder / "comparison.parquet"), read_table(folder / "all-levels.parquet")


def test_gate_is_compared_with_the_oracle(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    probabilities = np.sort(generator.uniform(0, 1, (400, 4)), 1)
    hits = generator.uniform(0, 1, (400, 4)) < probabilities
    table, levels = compare(tmp_path, probabilities, hits)
    row = table[table["rule"] == "fixed"].iloc[0]
    exits = [
        next((level for level in range(4) if of_sample[level] >= row["threshold"]), 4)
        for of_sample in probabilities
    ]
    oracle = [next((level for level in range(4) if of_sample[level]), 4) for of_sample in hits]
    agreed = [level == 4 or hits[sample, level] for sample, level in enumerate(exits)]
    assert row["agreement"] == pytest.approx(np.mean(agreed))
    assert row["agreement"] >= 0.9
    assert row["saved"] == pytest.approx(1 - np.mean(exits) / 4)
    assert row["oracle_saved"] == pytest.approx(1 - np.mean(oracle) / 4)
    assert row["on_time"] == pytest.approx(np.mean(np.equal(exits, oracle)))
    assert row["early"] == pytest.approx(np.mean(np.less(exits, oracle)))
    assert row["late"] == pytest.approx(np.mean(np.greater(exits, oracle)))
    assert table["how"].unique().tolist() == [
        "as it was",
        "distilled, linear, early 0.25, adapters of rank 4",
    ]
    assert row["probability"] == 1.5  # without level L
    assert levels["of"].tolist() == ["base"] * 5 + ["tuned"] * 5


def test_a_level_that_is_sure_and_wrong_stops_no_gate_with_a_threshold_for_each(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.uniform(0, 1, (400, 4))
    hits = generator.uniform(0, 1, (400, 4)) < probabilities
    # As where input and output embeddings are tied: level 0 repeats the token that it has read.
    probabilities[:, 0], hits[:, 0] = generator.uniform(0.99, 1, 400), False
    table, _ = compare(tmp_path, probabilities, hits)
    saved = table[table["of"] == "base"].set_index("rule")["saved"]
    assert saved["fixed"] <= 0.11  # one threshold spends the tenth that may disagree at level 0
    assert saved["per-level"] > 2 * saved["fixed"]
    assert (table["agreement"] >= 0.9).all()


def test_change_of_the_loss_and_its_error_are_of_documents(tmp_path: Path) -> None:
    table, _ = compare(tmp_path, np.full((200, 4), 0.5), np.ones((200, 4), bool))
    base, tuned = (rows.iloc[0] for _, rows in table.groupby("of", sort=False))
    assert (base["loss"], base["loss_change"], base["loss_change_stderr"]) == (3.0, 0.0, 0.0)
    assert tuned["perplexity"] == pytest.approx(np.exp(42 / 13))
    moved, tokens = np.array([1.0, 0.5, 0, 1, 0.2, 0.3]), np.array([3.0, 2, 2, 3, 2, 1])
    change = moved.sum() / tokens.sum()
    assert tuned["loss_change"] == pytest.approx(change)
    # The change is a ratio of sums over documents: the linearised ratio has this standard error.
    influence = (moved - change * tokens) / tokens.sum()
    assert tuned["loss_change_stderr"] == pytest.approx(np.sqrt(6 / 5 * np.square(influence).sum()))
