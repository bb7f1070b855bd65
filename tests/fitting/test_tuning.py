"""The stage "tuning": what it trains on, that a killed one goes on, and that a plain model comes out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from onejump.base.errors import CorpusError, OneJumpError
from onejump.base.files import write_table
from onejump.fitting import joint_trainer
from onejump.fitting.joint_losses import Weights
from onejump.fitting.tuning import Adapters, TuningOptions, tune
from onejump.fitting.tuning_batches import Batches, cut_into_batches
from onejump.models.model_stage import describe
from onejump.models.source_files import model_digest

OPTIONS = TuningOptions(
    loss="next-token",
    weights="uniform",
    early=None,
    levels=1,
    steps=10,
    batch_tokens=64,
    learning_rate=3e-3,
    adapters=None,
)


class Killed(Exception):
    """Stands for the signal that ends a job."""


@pytest.fixture
def make_inputs(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """make_inputs(model folder, dtype="float32"): what the stage reads. One of 4 documents is trained on."""

    def make(folder: Path, dtype: str = "float32") -> dict[str, Path]:
        from tiny_models import documents

        where = tmp_path / "inputs"
        rows = [
            (f"{number}", sentence)
            for number, document in enumerate(documents(4, 8))
            for sentence in document
        ]
        table = pd.DataFrame(rows, columns=["document", "sentence"]).assign(split="training")
        table["sentence_id"] = np.arange(len(table)) + 100
        roles = {"0": "fit", "1": "stopping", "2": "thresholds", "3": "validation"}
        given = {name: where / f"{name}.parquet" for name in ("sentences", "documents")}
        write_table(given["sentences"], table)
        write_table(
            given["documents"], table[["sentence_id", "document"]].assign(role=table["document"].map(roles))
        )
        given["description"] = where / "model.json"
        describe(given["description"], where / "head.safetensors", source=str(folder), dtype=dtype)
        return given

    return make


def mean_loss(folder: Path, sentences: Any) -> float:
    """Cross-entropy of the last level, by transformers' own code."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        losses = [
            float(model(ids, labels=ids).loss)
            for ids in (torch.tensor([tokenizer(sentence)["input_ids"]]) for sentence in sentences)
        ]
    return float(np.mean(losses))


@pytest.mark.parametrize("loss", ["next-token", "distilled"])
@pytest.mark.parametrize("adapters", [None, Adapters(4, 8.0)])
def test_a_killed_tuning_goes_on_and_gives_the_same_bits(
    make_inputs: Callable[..., dict[str, Path]],
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
    adapters: Adapters | None,
) -> None:
    if adapters is not None:
        pytest.importorskip("peft")
    inputs = make_inputs(tiny_model_folder)
    options = replace(OPTIONS, loss=loss, adapters=adapters)
    tune(tmp_path / "whole" / "weights", **inputs, options=options, seed=1)

    steps_run = []
    plain = joint_trainer.JointLoss.of

    def killed_at_the_sixth(self: Any, batch: Any) -> Any:
        steps_run.append(1)
        if len(steps_run) == 6:
            raise Killed
        return plain(self, batch)

    monkeypatch.setattr(joint_trainer.JointLoss, "of", killed_at_the_sixth)
    resumed = tmp_path / "resumed" / "weights"
    with pytest.raises(Killed):
        tune(resumed, **inputs, options=options, seed=1)
    assert not resumed.exists()
    (kept,) = (tmp_path / "resumed" / ".tuning").iterdir()
    assert [path.name for path in kept.iterdir()] == ["checkpoint-4"]
    # A kill while a checkpoint is written leaves a part of it.
    shutil.copytree(kept / "checkpoint-4", kept / "checkpoint-6")
    (kept / "checkpoint-6" / "complete").unlink()
    (kept / "checkpoint-6" / "optimizer.pt").write_bytes(b"")

    tune(resumed, **inputs, options=options, seed=1)
    assert len(steps_run) == 6 + 6  # steps 5 to 10
    assert model_digest(resumed) == model_digest(tmp_path / "whole" / "weights")
    assert sorted(path.name for path in resumed.parent.iterdir()) == ["weights"]


def test_no_block_is_dropped_while_it_trains(
    make_inputs: Callable[..., dict[str, Path]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    # OPT leaves out blocks at random while it trains, if its configuration says so.
    from transformers import OPTConfig, OPTForCausalLM

    folder = tmp_path / "opt"
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    OPTForCausalLM(OPTConfig(**sizes, vocab_size=200, word_embed_proj_dim=32, layerdrop=0.9)).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    tune(tmp_path / "m" / "weights", **make_inputs(folder), options=replace(OPTIONS, steps=3), seed=0)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m" / "weights").config.layerdrop == 0.9


def test_checkpoints_of_another_tuning_are_not_used(
    make_inputs: Callable[..., dict[str, Path]],
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = make_inputs(tiny_model_folder)
    folder = tmp_path / "tuned" / "weights"
    plain = joint_trainer.JointLoss.of
    steps_run = []

    def count(self: Any, batch: Any) -> Any:
        steps_run.append(1)
        if len(steps_run) == 5:
            raise Killed
        return plain(self, batch)

    monkeypatch.setattr(joint_trainer.JointLoss, "of", count)
    with pytest.raises(Killed):
        tune(folder, **inputs, options=OPTIONS, seed=1)
    tune(folder, **inputs, options=replace(OPTIONS, learning_rate=1e-3), seed=1)
    assert len(steps_run) == 5 + 10


def test_tuning_lowers_the_loss_of_all_levels_of_text_to_train_on(
    make_inputs: Callable[..., dict[str, Path]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    inputs = make_inputs(tiny_model_folder)
    tune(tmp_path / "m" / "weights", **inputs, options=replace(OPTIONS, steps=40), seed=0)
    table = pd.read_parquet(inputs["sentences"])
    trained = table.loc[table["document"] == "0", "sentence"]
    assert mean_loss(tmp_path / "m" / "weights", trained) < 0.6 * mean_loss(tiny_model_folder, trained)


def test_distilled_with_no_early_levels_leaves_the_model_as_it_was(
    make_inputs: Callable[..., dict[str, Path]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    # The model is its own teacher: the gradient is zero but for rounding. Adam makes full steps of that,
    # in directions of noise.
    inputs = make_inputs(tiny_model_folder)
    options = replace(OPTIONS, loss="distilled", weights="final", learning_rate=1e-5)
    tune(tmp_path / "m" / "weights", **inputs, options=options, seed=0)
    table = pd.read_parquet(inputs["sentences"])
    before, after = (
        mean_loss(path, table["sentence"]) for path in (tiny_model_folder, tmp_path / "m" / "weights")
    )
    assert after == pytest.approx(before, abs=2e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_trained_in_single_and_saved_in_half(
    make_inputs: Callable[..., dict[str, Path]], tiny_model_folder: Path, tmp_path: Path, dtype: str
) -> None:
    inputs = make_inputs(tiny_model_folder, dtype)
    seen = set()
    plain = joint_trainer.states_of_pairs

    def watched(transformer: Any, *arguments: Any) -> Any:
        seen.add(transformer.model.dtype)
        return plain(transformer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_trainer, "states_of_pairs", watched)
        tune(tmp_path / "m" / "weights", **inputs, options=replace(OPTIONS, steps=2), seed=0)
    assert seen == {torch.float32}
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "m" / "weights")
    assert saved.dtype == getattr(torch, dtype)


def test_a_masked_model_is_tuned_on_masked_tokens(
    make_inputs: Callable[..., dict[str, Path]],
    tiny_masked_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = tiny_masked_folder("bert")
    inputs = make_inputs(folder)
    tune(tmp_path / "m" / "weights", **inputs, options=replace(OPTIONS, steps=60), seed=0)
    table = pd.read_parquet(inputs["sentences"])
    losses = []
    for path in (folder, tmp_path / "m" / "weights"):
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        of_model = []
        for sentence in table.loc[table["document"] == "0", "sentence"]:
            ids = torch.tensor([tokenizer(sentence)["input_ids"]])
            given = ids.clone()
            given[0, 2] = tokenizer.mask_token_id
            with torch.inference_mode():
                of_model.append(float(-model(given).logits[0, 2].log_softmax(-1)[ids[0, 2]]))
        losses.append(np.mean(of_model))
    assert losses[1] < 0.92 * losses[0]


def test_only_sentences_that_are_held_out_for_nothing_are_trained_on(
    make_inputs: Callable[..., dict[str, Path]],
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from onejump.fitting import tuning

    inputs = make_inputs(tiny_model_folder)
    given = []
    plain = tuning._encoded
    monkeypatch.setattr(
        tuning,
        "_encoded",
        lambda tokenizer, text, *others: (given.extend(text), plain(tokenizer, text, *others))[1],
    )
    tune(tmp_path / "m" / "weights", **inputs, options=replace(OPTIONS, steps=1), seed=0)
    table = pd.read_parquet(inputs["sentences"])
    assert given == table.loc[table["document"] == "0", "sentence"].tolist()
    told = json.loads((tmp_path / "m" / "weights" / "tuning.json").read_text())
    assert told["options"]["weights"] == "uniform"


def test_a_loss_that_is_not_finite_ends_the_tuning_in_one_line(
    make_inputs: Callable[..., dict[str, Path]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    inputs = make_inputs(tiny_model_folder)
    with pytest.raises(OneJumpError, match="the tuning diverged: a loss of nan at step"):
        tune(tmp_path / "m" / "weights", **inputs, options=replace(OPTIONS, learning_rate=math.inf), seed=0)
    assert not (tmp_path / "m" / "weights").exists()


def test_batches_hold_every_sentence_once_in_each_pass_and_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 500).tolist()
    steps = len(cut_into_batches(lengths, 1, 256, 0))
    assert steps == 1
    batches = cut_into_batches(lengths, 200, 256, 3)
    assert len(batches) == 200
    in_order = np.concatenate(batches)
    assert sorted(in_order[:500]) == list(range(500))
    assert not np.array_equal(in_order[:500], in_order[500:1000])
    sizes = np.asarray(lengths)
    padded = sum(len(batch) * sizes[batch].max() for batch in batches)
    assert all(len(batch) * sizes[batch].max() <= 256 for batch in batches)
    assert padded < 1.1 * sizes[in_order].sum()
    # A sentence beyond the original context runs alone.
    assert all(
        len(batch) == 1 for batch in cut_into_batches(lengths, 200, 256, 3, 30) if sizes[batch].max() > 30
    )


def test_of_a_large_corpus_only_what_the_steps_need_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    from onejump.fitting import tuning

    monkeypatch.setattr(tuning, "_ENCODED_TOGETHER", 10)
    seen: list[str] = []

    def tokenizer(some: list[str], **_: Any) -> dict[str, list[list[int]]]:
        seen.extend(some)
        return {"input_ids": [[1] * 8 for _ in some]}

    text = [f"sentence {number}" for number in range(1000)]
    found = tuning._encoded(tokenizer, text, replace(OPTIONS, steps=5, batch_tokens=64), 0)
    assert len(found) == len(seen) == len(set(seen)) == 40  # 320 tokens are needed, and sentences come by ten
    assert seen != text[:40]


def test_no_sentence_with_a_token_to_predict_is_refused() -> None:
    with pytest.raises(CorpusError, match="no sentence to tune the model on has a token to predict"):
        Batches([[1], []], Weights("final", 2), steps=1, batch_tokens=8, each=1, seed=0, padding=0)
