"""A masked language model through the whole workflow: no stage but the model and the sampling knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from projects import Project
from safetensors import safe_open

from onejump.data.store import ActivationStore
from onejump.models.description import read_description
from onejump.models.head import Head
from onejump.models.loading import load_model, load_tokenizer
from onejump.shortcuts.files import ShortcutFolder

PAIR = Path("results/tiny/tiny-bert/stories")
METHODS = {"identity", "jtc", "n-njtc", "distilled", "one-jump", "affine", "ojfa", "ojfa-distilled"}
FIGURES = ("methods", "limit", "scores", "spaces", "ranks")

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("masked")]


@pytest.fixture(scope="module")
def masked(fresh_project: Callable[[], Project], tiny_masked_folder: Callable[[str], Path]) -> Project:
    project = fresh_project()
    shutil.copytree(tiny_masked_folder("bert"), project.folder / "tiny-bert")
    study = project.study
    named = {"blocks": "bert.encoder.layer"}
    study["models"] = {"tiny-bert": {"folder": "tiny-bert", "modules": named}}
    study["activations"]["skip_first"] = True
    brief = {"steps": 20, "batch": 32}
    study["shortcuts"] = {
        "identity": {},
        "jtc": {},
        "n-njtc": {"rank": 3},
        "distilled": {"rank": 3} | brief,
        "one-jump": {"rank": 3} | brief,
        "affine": brief,
    }
    others = dict.fromkeys(("selected", "alternatives", "parameters"), False)
    study["figures"] = {name: {} for name in FIGURES} | others
    project.study = study
    project.snakemake()
    return project


def test_every_stage_leaves_what_is_promised(masked: Project) -> None:
    pair = masked.folder / PAIR
    description = read_description(pair.parent / "model.json")
    assert not description.causal
    assert description.modules == {"blocks": "bert.encoder.layer", "norm": None, "head": None}
    evaluation = pd.read_parquet(pair / "evaluation.parquet")
    assert set(evaluation["method"]) >= METHODS
    assert evaluation["value"].notna().all()
    assert set(evaluation["level"]) == {0, 1, 2, 3}
    assert {path.name for path in (pair / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in FIGURES for suffix in ("svg", "png")
    }
    assert pd.read_parquet(pair / "analysis.parquet")["value"].notna().all()


def test_samples_are_masked_words_of_their_sentences(masked: Project) -> None:
    corpus = pd.read_parquet(masked.folder / "results/tiny/corpora/stories.parquet")
    text = corpus.set_index("sentence_id")["sentence"]
    tokenizer = load_tokenizer(str(masked.folder / "tiny-bert"))
    model = load_model(str(masked.folder / "tiny-bert"), device="cpu").model
    store = ActivationStore([masked.folder / PAIR / "activations" / "validation-0.zarr"])
    last = torch.from_numpy(store.level(store.levels - 1))
    logits = Head.load(masked.folder / PAIR.parent / "head.safetensors").logits(last)
    assert store.samples == 80
    for i in range(0, store.samples, 9):
        encoded = tokenizer(text[int(store.of_samples("sentence")[i])], return_tensors="pt")
        position = int(store.of_samples("position")[i])
        # Neither the first word nor a special token before or behind.
        assert 2 <= position < encoded["input_ids"].shape[1] - 1
        assert store.of_samples("token")[i] == encoded["input_ids"][0, position]
        encoded["input_ids"][0, position] = tokenizer.mask_token_id
        with torch.inference_mode():
            expected = model(**encoded).logits[0, position]
        assert (logits[i] - expected).abs().max() < 0.02 * expected.std()


def test_the_evaluation_is_that_of_jump_then_head(masked: Project) -> None:
    """Surprisal of the low-rank methods, whose exit head takes another way."""
    pair = masked.folder / PAIR
    with safe_open(pair.parent / "head.safetensors", framework="pt") as file:
        assert {"dense_weight", "dense_bias"} <= set(file.keys())
    head = Head.load(pair.parent / "head.safetensors")
    store = ActivationStore([pair / "activations" / "validation-0.zarr"])
    last = torch.from_numpy(store.level(store.levels - 1))
    first = head.logits(last).argmax(-1, keepdim=True)
    table = pd.read_parquet(pair / "evaluation.parquet").set_index(["method", "level", "metric"])["value"]
    for method in ("n-njtc", "distilled", "one-jump"):
        shortcuts = ShortcutFolder(pair / "shortcuts" / method)
        for level in range(4):
            with torch.inference_mode():
                states = shortcuts.load(level)(torch.from_numpy(store.level(level)))
                surprisal = -head.logits(states).log_softmax(-1).gather(1, first)
            found = float(table.loc[method, level, "surprisal"])
            assert found == pytest.approx(float(surprisal.mean()), rel=1e-4)
