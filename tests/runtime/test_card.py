"""The model card: what the hub reads, and what a reader sees."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

import onejump
from onejump.exits.gates import TopProbability
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.runtime.card import card_of, shown_levels
from onejump.runtime.jump_config import JumpConfig


@pytest.fixture(scope="module")
def config(studied: Path) -> JumpConfig:
    return OneJump.from_study(studied, "ojfa").config


def test_the_hub_reads_its_header(config: JumpConfig) -> None:
    data = ModelCard(card_of(config)).data
    assert (data.library_name, data.tags) == ("onejump", ["onejump", "early-exit", "ojfa"])
    assert (data.base_model, data.license) == (None, None), "a folder is no model on the hub"
    published = replace(config, base_model="user/model", revision="abc", license="apache-2.0")
    data = ModelCard(card_of(published)).data
    assert (data.base_model, data.license) == ("user/model", "apache-2.0")
    assert 'onejump.load_model("user/model", revision="abc")' in card_of(published)


def test_its_tables_hold_the_numbers_of_the_study(config: JumpConfig) -> None:
    card = card_of(config)
    rows = {
        cells[0]: cells[1:] for cells in re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", card, re.M)
    }
    metrics = ("precision@1", "surprisal")
    for level in range(4):
        assert rows[str(level)] == tuple(f"{config.scores[metric][level]:.3f}" for metric in metrics)
    assert rows["mean over all levels"] == tuple(f"{fmean(config.scores[metric]):.3f}" for metric in metrics)
    assert re.search(r"^\| \*\*ojfa\*\* \| 320 \| ", card, re.M)
    assert re.search(r"^\| identity \| 0 \| ", card, re.M)
    assert "**identity**" not in card
    for text in ("96 validation samples of 96 documents", config.model_digest, "arXiv:2504.13984"):
        assert str(text) in card


def test_it_shows_its_figures_and_nothing_that_is_not_there(config: JumpConfig) -> None:
    assert "## Figures" not in card_of(config)
    assert "## Gates" not in card_of(config)
    assert "](figures/selected.png)" in card_of(config, ["selected.png"])
    assert "## How good" not in card_of(replace(config, scores={}, compared={}))


@pytest.mark.parametrize("gated", [False, True])
def test_its_code_runs(
    studied: Path,
    tiny: Callable[..., Transformer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gated: bool,
) -> None:
    jump = OneJump.from_study(studied)
    if gated:
        jump = jump.with_gates({"95%": TopProbability({1: 0.0})})
    jump.save_pretrained(tmp_path / "kept")
    (code,) = re.findall(r"```python\n(.*?)```", jump.card, re.S)
    model = tiny()
    monkeypatch.setattr(onejump, "load_model", lambda name: model)
    tokens = torch.tensor([[5, 6, 7]])
    names = {"input_ids": tokens, "rows": torch.tensor([0]), "positions": torch.tensor([2])}
    exec(code.replace("THIS REPOSITORY OR FOLDER", str(tmp_path / "kept")), names)
    if not gated:
        states = model.states(tokens, names["rows"], names["positions"])
        assert torch.equal(names["logits"], model.head.logits(jump.at(2)(states[2])))


def test_the_code_of_a_forward_jump_drafts(
    kept_forward: Path, tiny: Callable[..., Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", OneJump.from_pretrained(kept_forward).card, re.S)
    model, tokens = tiny(), torch.tensor([[5, 6, 7]])
    monkeypatch.setattr(onejump, "load_model", lambda name: model)
    names: dict[str, Any] = {"input_ids": tokens}
    exec(code.replace("THIS REPOSITORY OR FOLDER", str(kept_forward)), names)
    assert names["early"].gate == TopProbability({0: 0.1})
    assert names["early"].recall == 2


@pytest.mark.parametrize("blocks", [1, 4, 16, 17, 30, 126])
def test_levels_of_a_table_are_spread_from_the_first_to_the_last(blocks: int) -> None:
    levels = shown_levels(blocks)
    assert (levels[0], levels[-1], len(levels)) == (0, blocks - 1, min(blocks, 16))
    gaps = {after - before for before, after in itertools.pairwise(levels)}
    assert not gaps or max(gaps) - min(gaps) <= 1
