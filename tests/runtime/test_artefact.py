"""A kept jump as a folder: what comes back, which models it fits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import onejump
from onejump.models.head import Head
from onejump.shortcuts.results import load_shortcuts


@pytest.mark.parametrize("method", ["one-jump", "joint", "ojfa"])
def test_a_jump_comes_back_bit_for_bit(studied: Path, tmp_path: Path, method: str) -> None:
    jump = onejump.OneJump.from_study(studied, method)
    jump.save_pretrained(tmp_path / "kept")
    loaded = onejump.OneJump.from_pretrained(tmp_path / "kept")
    assert loaded.config == jump.config
    assert list(loaded.levels) == [0, 1, 2, 3]
    head = Head.load(studied.parent / "head.safetensors")
    of_the_study = load_shortcuts(studied, method)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    for level in loaded.levels:
        expected = head.logits(of_the_study.at(level)(states))
        assert torch.equal(head.logits(loaded.at(level)(states)), expected)
