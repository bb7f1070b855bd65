"""Tuning a classifier on texts with labels: its loss is its own, and early levels learn to classify."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from families import disturb
from sklearn.metrics import accuracy_score, log_loss
from test_tuning import OPTIONS
from tiny_models import documents

from onejump.base.errors import CorpusError
from onejump.base.files import read_table, write_table
from onejump.data.shard_writer import StoreOptions
from onejump.data.store import ActivationStore
from onejump.experiments.joint_optimisation import _loss
from onejump.experiments.level_predictions import measure_level_predictions
from onejump.fitting.joint_losses import Weights
from onejump.fitting.joint_trainer import JointLoss
from onejump.fitting.text_batches import TextBatches
from onejump.fitting.tuning import Adapters, tune
from onejump.models.activations import ActivationOptions, extract_shard
from onejump.models.head import Head
from onejump.models.live_head import LiveHead
from onejump.models.loading import load_model
from onejump.models.model_stage import describe
from onejump.models.prompts import encoded_texts
from onejump.models.untrained import UntrainedOptions, make_untrained
from onejump.scoring.evaluation import evaluate
from onejump.shortcuts.kinds.identity import Identity

SHAPES = UntrainedOptions("bert", blocks=3, encoder_blocks=1, hidden=32, heads=4, vocabulary=120)
NAMES = ["inside", "outside"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the stage reads: texts whose place is their label, and an untrained model of both labels."""
    folder = tmp_path_factory.mktemp("texts")
    texts = [sentence for document in documents(40) for sentence in document]
    labels = [NAMES["river" in text or "road" in text] for text in texts]
    table = pd.DataFrame({"sentence": texts, "label": labels, "document": [f"d{at}" for at in range(200)]})
    table = table.assign(sentence_id=range(200), split=["training"] * 150 + ["validation"] * 50)
    roles = ["fit"] * 140 + ["thresholds"] * 10 + ["validation"] * 50
    known = table[["sentence_id", "split"]].assign(document=range(200), role=roles)
    write_table(folder / "sentences.parquet", table)
    write_table(folder / "documents.parquet", known)
    make_untrained(folder / "start", folder / "sentences.parquet", options=SHAPES, seed=1)
    describe(folder / "model.json", folder / "h.safetensors", source=str(folder / "start"), device="cpu")
    return {
        "sentences": folder / "sentences.parquet",
        "documents": folder / "documents.parquet",
        "description": folder / "model.json",
    }


def by_level(folder: Path, texts: pd.DataFrame) -> list[np.ndarray]:
    """Probabilities of the labels at each level: transformers' own states, pooler and classifier."""
    model, tokenizer = (
        hf.AutoModelForSequenceClassification.from_pretrained(folder),
        hf.AutoTokenizer.from_pretrained(folder),
    )
    second = texts["text_pair"].tolist() if "text_pair" in texts else None
    given = tokenizer(texts["sentence"].tolist(), second, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**given, output_hidden_states=True).hidden_states
        return [model.classifier(model.bert.pooler(level)).double().softmax(-1).numpy() for level in states]


def numbers(texts: pd.DataFrame) -> list[int]:
    return [NAMES.index(label) for label in texts["label"]]


def test_an_untrained_classifier_knows_the_labels_of_its_corpus(inputs: dict[str, Path]) -> None:
    model = load_model(str(inputs["description"].parent / "start"), device="cpu")
    assert (model.task, model.reads, len(model.blocks), model.hidden) == ("classification", "first", 3, 32)
    assert model.model.config.id2label == dict(enumerate(NAMES))
    tokenizer = hf.AutoTokenizer.from_pretrained(inputs["description"].parent / "start")
    tokens = tokenizer("Our doctor counted the green boat.")["input_ids"]
    assert (tokens[0], tokens[-1]) == (tokenizer.cls_token_id, tokenizer.eos_token_id)


def batches_of(folder: Path, texts: pd.DataFrame, weights: Weights, each: int = 1) -> TextBatches:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    encoded = encoded_texts(texts, tokenizer, 512)
    options = {"steps": 1, "batch_tokens": 10_000, "each": each, "seed": 0, "padding": 0}
    return TextBatches(encoded, [0] * len(encoded), numbers(texts), weights, **options)


def test_the_loss_is_the_mean_over_levels_of_the_models_own(inputs: dict[str, Path]) -> None:
    folder = inputs["description"].parent / "start"
    texts = pd.read_parquet(inputs["sentences"]).head(7)
    transformer = load_model(str(folder), device="cpu")
    loss = JointLoss(transformer, LiveHead(transformer))
    own = [log_loss(numbers(texts), level, labels=[0, 1]) for level in by_level(folder, texts)]
    found, _ = loss.of(batches_of(folder, texts, Weights("final", 3, None))[0])
    assert float(found) == pytest.approx(own[-1], rel=1e-4)
    # With many draws for each text, each early level is drawn in nearly the same proportion.
    found, _ = loss.of(batches_of(folder, texts, Weights("uniform", 3, None), each=3 * 20)[0])
    assert float(found) == pytest.approx(np.mean(own), rel=5e-3)


def test_the_loss_on_pairs_is_that_of_the_model_that_knows_their_parts(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(inputs["description"].parent / "start", tmp_path / "model")
    # Weights of real sizes: with those that a training begins with, all texts have nearly one loss.
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    disturb(model, 2)
    model.save_pretrained(folder)
    texts = pd.read_parquet(inputs["sentences"]).head(7)
    texts["text_pair"] = [" ".join(text.split()[at % 3 :]) for at, text in enumerate(texts["sentence"][::-1])]
    assert set(hf.AutoTokenizer.from_pretrained(folder)("a", "b")["token_type_ids"]) == {0, 1}
    transformer = load_model(str(folder), device="cpu")
    loss = JointLoss(transformer, LiveHead(transformer))
    found, _ = loss.of(batches_of(folder, texts, Weights("final", 3, None))[0])
    expected = log_loss(numbers(texts), by_level(folder, texts)[-1], labels=[0, 1])
    assert float(found) == pytest.approx(expected, rel=1e-3)


@pytest.fixture(scope="module")
def tuned(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tuned("final" or "uniform"): the folder of the model trained by its last level, or by all levels."""
    folder = tmp_path_factory.mktemp("tuned")

    def make(weights: str) -> Path:
        if not (folder / weights).exists():
            options = replace(OPTIONS, steps=60, batch_tokens=500, learning_rate=5e-3, weights=weights)
            tune(folder / weights, **inputs, options=options, seed=0, device="cpu")
        return folder / weights

    return make


def accuracies(folder: Path, texts: pd.DataFrame) -> list[float]:
    return [accuracy_score(numbers(texts), level.argmax(1)) for level in by_level(folder, texts)]


def test_training_by_all_levels_makes_early_levels_classify(
    inputs: dict[str, Path], tuned: Callable[[str], Path]
) -> None:
    unseen = pd.read_parquet(inputs["sentences"])[150:]
    folders = inputs["description"].parent / "start", tuned("final"), tuned("uniform")
    start, last, every = (accuracies(folder, unseen) for folder in folders)
    assert start[3] < 0.75
    assert last[3] > 0.9
    assert every[3] > 0.9
    # Level 0 holds only the token that the head reads, the same in all texts: there is nothing to learn.
    assert every[1] > start[1] + 0.2


def test_evaluation_and_comparison_measure_accuracy_as_scikit_learn_does(
    inputs: dict[str, Path], tuned: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tuned("final")
    describe(tmp_path / "m.json", tmp_path / "h.safetensors", source=str(folder), device="cpu")
    extract_shard(
        tmp_path / "0.zarr",
        inputs["sentences"],
        tmp_path / "m.json",
        split="validation",
        shard=0,
        shards=1,
        options=ActivationOptions(store=StoreOptions(chunk_samples=16)),
        seed=0,
        device="cpu",
    )
    texts = pd.read_parquet(inputs["sentences"])[150:]
    expected, store = accuracies(folder, texts), ActivationStore([tmp_path / "0.zarr"])
    head = Head.load(tmp_path / "h.safetensors")
    table = evaluate(store, head, {"identity": lambda _: Identity()}, precision_at=(1, 5))
    found = table.set_index(["metric", "level"])["value"]
    assert found["accuracy"].tolist() == pytest.approx(expected[:-1])
    assert found["accuracy-change"].tolist() == pytest.approx(np.array(expected[:-1]) - expected[-1])
    assert found["precision@5"].tolist() == [1.0] * 3
    agreed = [
        accuracy_score(by_level(folder, texts)[3].argmax(1), level.argmax(1))
        for level in by_level(folder, texts)[:3]
    ]
    assert found["precision@1"].tolist() == pytest.approx(agreed)
    measure_level_predictions(
        tmp_path / "levels.parquet",
        tmp_path / "losses.parquet",
        [tmp_path / "0.zarr"],
        tmp_path / "h.safetensors",
        inputs["documents"],
        inputs["sentences"],
        tmp_path / "m.json",
        samples=20,
        max_tokens=64,
        device="cpu",
    )
    assert read_table(tmp_path / "levels.parquet")["accuracy"].tolist() == pytest.approx(expected)
    losses = read_table(tmp_path / "losses.parquet")
    assert (len(losses), losses["right"].sum()) == (50, round(50 * expected[-1]))
    own = log_loss(numbers(texts), by_level(folder, texts)[-1])
    assert losses["loss"].sum() / 50 == pytest.approx(own, rel=2e-2, abs=1e-4)
    # A model that is wrong on ten texts more, one document each.
    worse = losses.assign(right=losses["right"].where(losses.index >= 10, 0.0))
    compared = _loss(worse, losses)
    lost = (losses["right"] - worse["right"]).to_numpy()
    assert compared["accuracy_change"] == pytest.approx(-lost.mean())
    assert compared["accuracy_change_stderr"] == pytest.approx(lost.std(ddof=1) / 50**0.5)


def test_adapters_and_distillation_tune_a_classifier(inputs: dict[str, Path], tmp_path: Path) -> None:
    write_table(tmp_path / "texts.parquet", pd.read_parquet(inputs["sentences"]).drop(columns="label"))
    given = inputs | {"sentences": tmp_path / "texts.parquet"}
    options = replace(OPTIONS, loss="distilled", adapters=Adapters(rank=2, alpha=4.0), steps=4)
    tune(tmp_path / "tuned", **given, options=options, seed=0, device="cpu")
    assert load_model(str(tmp_path / "tuned"), device="cpu").model.config.id2label[1] == "outside"
    with pytest.raises(CorpusError, match="a corpus without labels given to tune BertForSequenceClassif"):
        tune(tmp_path / "other", **given, options=OPTIONS, seed=0, device="cpu")
