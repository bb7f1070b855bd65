"""Tuning an encoder-decoder on pairs: the loss is the model's own, and training from scratch lowers it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from test_tuning import OPTIONS
from tiny_models import documents

from onejump.base.errors import CorpusError
from onejump.base.files import write_table
from onejump.experiments.pair_losses import losses_of_pairs
from onejump.fitting.joint_losses import Weights
from onejump.fitting.joint_trainer import JointLoss
from onejump.fitting.pair_batches import PairBatches, TokenPair
from onejump.fitting.tuning import tune
from onejump.models.live_head import LiveHead
from onejump.models.loading import load_model
from onejump.models.model_stage import describe
from onejump.models.pairs import decoder_inputs
from onejump.models.untrained import UntrainedOptions, make_untrained

SHAPES = UntrainedOptions("marian", blocks=3, encoder_blocks=1, hidden=32, heads=4, vocabulary=120)


@pytest.fixture(scope="module", params=["marian", "t5"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the stage reads: pairs whose target is their source in capital letters, and an untrained model."""
    folder = tmp_path_factory.mktemp(request.param)
    texts = [sentence for document in documents(20) for sentence in document]
    table = pd.DataFrame({"sentence": texts, "target": [text.upper() for text in texts]})
    table = table.assign(sentence_id=range(100), document="d", split="training")
    roles = ["fit"] * 80 + ["thresholds"] * 20
    write_table(folder / "sentences.parquet", table)
    write_table(folder / "documents.parquet", table[["sentence_id", "document"]].assign(role=roles))
    options = replace(SHAPES, architecture=request.param)
    make_untrained(folder / "start", folder / "sentences.parquet", options=options, seed=1)
    describe(folder / "model.json", folder / "h.safetensors", source=str(folder / "start"), device="cpu")
    return {
        "sentences": folder / "sentences.parquet",
        "documents": folder / "documents.parquet",
        "description": folder / "model.json",
    }


def pairs_of(folder: Path, texts: pd.DataFrame) -> list[TokenPair]:
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), load_model(str(folder), device="cpu").model
    found = []
    for source, target in zip(texts["sentence"], texts["target"], strict=True):
        labels = tokenizer(text_target=target)["input_ids"]
        taken = decoder_inputs(model, labels)
        found.append(TokenPair(*map(np.asarray, (tokenizer(source)["input_ids"], taken, labels))))
    return found


def own_loss(folder: Path, texts: pd.DataFrame) -> float:
    """Mean cross-entropy of the target's tokens, by transformers' own code."""
    model, tokenizer = (
        hf.AutoModelForSeq2SeqLM.from_pretrained(folder),
        hf.AutoTokenizer.from_pretrained(folder),
    )
    given = tokenizer(
        texts["sentence"].tolist(),
        text_target=texts["target"].tolist(),
        padding=True,
        return_tensors="pt",
        return_token_type_ids=False,
    )
    given["labels"] = given["labels"].masked_fill(given["labels"] == tokenizer.pad_token_id, -100)
    with torch.inference_mode():
        return float(model(**given).loss)


def test_the_loss_of_the_last_level_is_the_models_own(inputs: dict[str, Path]) -> None:
    folder = inputs["description"].parent / "start"
    texts = pd.read_parquet(inputs["sentences"]).head(6)
    transformer = load_model(str(folder), device="cpu")
    batches = PairBatches(
        pairs_of(folder, texts),
        Weights("final", 3, None),
        steps=1,
        batch_tokens=10_000,
        each=1,
        seed=0,
        padding=transformer.padding,
    )
    found, _ = JointLoss(transformer, LiveHead(transformer)).of(batches[0])
    assert float(found) == pytest.approx(own_loss(folder, texts), rel=1e-4)


def test_the_loss_of_all_levels_is_that_of_a_plain_loop(inputs: dict[str, Path]) -> None:
    folder = inputs["description"].parent / "start"
    texts = pd.read_parquet(inputs["sentences"]).head(3)
    transformer = load_model(str(folder), device="cpu")
    pairs = pairs_of(folder, texts)
    options = {"steps": 1, "batch_tokens": 10_000, "each": 2, "seed": 0, "padding": transformer.padding}
    batches = PairBatches(pairs, Weights("uniform", 3, None), **options)
    losses: list[list[torch.Tensor]] = [[] for _ in range(4)]
    for number in batches.batches[0]:
        source, taken, labels = (torch.tensor(of) for of in pairs[number])
        with torch.inference_mode():
            out = transformer.model(source[None], decoder_input_ids=taken[None], output_hidden_states=True)
        for level in range(4):
            logits = out.logits[0]
            if level < 3:
                logits = transformer.head.logits(out.decoder_hidden_states[level][0])
            losses[level].append(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
    of_levels = torch.stack([torch.cat(of_level) for of_level in losses])
    batch = batches[0]
    assert set(batch["level"].tolist()) == {0, 1, 2, 3}
    expected = (batch["share"] * of_levels[batch["level"], batch["of"]]).sum()
    found, _ = JointLoss(transformer, LiveHead(transformer)).of(batch)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_losses_of_pairs_are_the_models_own(inputs: dict[str, Path]) -> None:
    folder = inputs["description"].parent / "start"
    texts = pd.read_parquet(inputs["sentences"]).head(7)
    transformer, tokenizer = load_model(str(folder), device="cpu"), hf.AutoTokenizer.from_pretrained(folder)
    found = losses_of_pairs(transformer, tokenizer, texts, max_tokens=512, batch_tokens=150)
    assert found[:, 1].tolist() == [len(tokenizer(text_target=text)["input_ids"]) for text in texts["target"]]
    for number in range(7):
        mean = float(found[number, 0] / found[number, 1])
        assert mean == pytest.approx(own_loss(folder, texts.iloc[[number]]), rel=1e-4)


def test_training_from_scratch_lowers_the_loss(inputs: dict[str, Path], tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=60, batch_tokens=800, learning_rate=5e-3)
    tune(tmp_path / "tuned", **inputs, options=options, seed=0, device="cpu")
    texts = pd.read_parquet(inputs["sentences"])
    before = own_loss(inputs["description"].parent / "start", texts[80:])
    after = own_loss(tmp_path / "tuned", texts[80:])
    assert after < before - 1
    assert load_model(str(tmp_path / "tuned"), device="cpu").task == "seq2seq"


def test_texts_without_targets_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    write_table(tmp_path / "texts.parquet", pd.read_parquet(inputs["sentences"]).drop(columns="target"))
    given = inputs | {"sentences": tmp_path / "texts.parquet"}
    with pytest.raises(CorpusError, match="a corpus without targets given to tune"):
        tune(tmp_path / "tuned", **given, options=OPTIONS, seed=0, device="cpu")
