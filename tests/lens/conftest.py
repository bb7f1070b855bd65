"""A tiny model with shortcuts of several kinds, as objects and as a results folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jumps_at_random import trained
from torch import Tensor

from onejump.models.description import read_description
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.model_stage import describe
from onejump.models.transformer import Transformer
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.kinds.affine import Affine
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.shortcut import Shortcut

HIDDEN, BLOCKS, RANK = 32, 4, 3
SENTENCE = "The old farmer counted two heavy stones near the river ."


def random_shortcuts(kind: str) -> list[Shortcut]:
    """One random shortcut for each level, or a single one for all of them."""
    drawn = torch.Generator().manual_seed(11)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn) / HIDDEN**0.5

    makers: dict[str, Callable[[], Shortcut]] = {
        "jtc": lambda: JTC(normal(HIDDEN, HIDDEN)),
        "affine": lambda: Affine(normal(HIDDEN, HIDDEN), normal(HIDDEN), "rms", 1e-6),
        "n-njtc": lambda: NNJTC(
            normal(HIDDEN, RANK),
            normal(RANK, HIDDEN),
            1 + normal(HIDDEN),
            normal(HIDDEN),
            normal(HIDDEN),
            1 + normal(HIDDEN).abs(),
        ),
    }
    if kind in makers:
        return [makers[kind]() for _ in range(BLOCKS)]
    return [*trained(kind, BLOCKS, HIDDEN)]


@pytest.fixture(scope="session")
def tiny(tiny_model_folder: Path) -> Transformer:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="session")
def tokenizer(tiny_model_folder: Path) -> Any:
    return load_tokenizer(str(tiny_model_folder))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """results/tiny/tiny-llama/random, with shortcuts of several kinds."""
    pair = tmp_path_factory.mktemp("lens") / "results/tiny/tiny-llama/random"
    about = pair.parent / "model.json"
    describe(about, pair.parent / "head.safetensors", source=str(tiny_model_folder), device="cpu")
    digest = read_description(about).model_digest
    for kind in ("jtc", "affine", "n-njtc", "one-jump", "shortlist", "one-forward"):
        made = random_shortcuts(kind)
        one = len(made) == 1
        save_shortcuts(pair / "shortcuts" / kind, made, {}, levels=BLOCKS, one=one, model_digest=digest)
    return pair
