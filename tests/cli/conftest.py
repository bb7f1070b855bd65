"""A kept jump of the tiny model, for the commands that use one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onejump.models.loading import load_model
from onejump.runtime.artefact import OneJump
from onejump.runtime.jump_config import JumpConfig
from onejump.runtime.weight_hash import weight_hashes
from onejump.shortcuts.kinds.njtc import NJTC


@pytest.fixture(scope="session")
def kept_jump(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A jump of the tiny model that leaves out 4 of 32 directions; its gate "95%" lets about half exit."""
    transformer = load_model(str(tiny_model_folder), device="cpu")
    drawn = torch.Generator().manual_seed(3)
    directions, _ = torch.linalg.qr(torch.randn(32, 28, generator=drawn))
    shortcut = NJTC(directions, directions.T)
    config = JumpConfig(
        method="ojfa",
        kind=shortcut.kind,
        rank=28,
        level=2,
        base_model="tiny-llama",
        architecture="LlamaForCausalLM",
        causal=True,
        blocks=4,
        hidden=32,
        vocabulary=200,
        norm="rms",
        unembedding=weight_hashes(transformer.head.unembedding, "float32"),
        study="tiny",
        model="tiny-llama",
        corpus="random",
        gates={
            "95%": {"kind": "top-probability", "levels": [1, 3], "thresholds": [0.05, 0.03]},
            "99%": {"kind": "top-probability", "levels": [2], "thresholds": [1.0]},
        },
    )
    folder = tmp_path_factory.mktemp("kept") / "jump"
    OneJump(config, shortcut).save_pretrained(folder)
    return folder
