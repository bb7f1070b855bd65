"""Half precision from loading to selection and evaluation, held against float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import documents

from onejump.base.files import read_table, write_table
from onejump.data.shard_writer import StoreOptions
from onejump.fitting.options import FitOptions
from onejump.fitting.shortcuts import fit_shortcuts
from onejump.models.activations import ActivationOptions, extract_shard
from onejump.models.description import read_description
from onejump.models.head import Head
from onejump.models.loading import load_model
from onejump.models.model_stage import describe
from onejump.scoring.evaluation import evaluate_method
from onejump.scoring.scores import score_jumps
from onejump.scoring.selection import select_jump
from onejump.shortcuts.files import ShortcutFolder

OPTIONS = ActivationOptions(positions=2, max_tokens=64, top_k=12, store=StoreOptions(keepbits=None))
# Of surprisal, relative to float32's.
CLOSE = {"float32": 0.0, "float16": 0.02, "bfloat16": 0.1}


@pytest.fixture
def folder_of(tiny_model_folder: Path, tiny_masked_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    return lambda family: tiny_model_folder if family == "llama" else tiny_masked_folder(family)


def all_stages(folder: Path, source: Path, dtype: str) -> pd.DataFrame:
    """Evaluation of identity, jumps and selected jump, after every stage that precision could reach."""
    sentences = [sentence for document in documents(24) for sentence in document]
    corpus = pd.DataFrame({"sentence": sentences, "sentence_id": range(120)})
    corpus["document"] = [f"d{i // 5}" for i in range(120)]
    corpus["split"] = ["training"] * 90 + ["validation"] * 30
    write_table(folder / "corpus.parquet", corpus)
    model, head = folder / "model.json", folder / "head.safetensors"
    describe(model, head, source=str(source), dtype=dtype, device="cpu")
    assert read_description(model).dtype == dtype
    given: dict[str, Any] = {
        "description": model,
        "sentences": folder / "corpus.parquet",
        "seed": 0,
        "shard": 0,
    }
    for split in ("training", "validation"):
        where = folder / f"{split}-0.zarr"
        extract_shard(where, split=split, shards=1, options=OPTIONS, device="cpu", batch_tokens=200, **given)
    training, validation = [folder / "training-0.zarr"], [folder / "validation-0.zarr"]
    fitted = folder / "n-njtc"
    fit_shortcuts(fitted, training, method="n-njtc", options=FitOptions(rank=3), seed=0, device="cpu")
    named = {"model": "tiny", "corpus": "stories", "device": "cpu"}
    score_jumps(folder / "scores.parquet", training, fitted, **named)
    scores, selected = folder / "scores.parquet", folder / "selection.json"
    select_jump(selected, scores, method="n-njtc", metric="signed-squared-cosine")
    tables = []
    for method, selection in (("identity", None), ("n-njtc", None), ("ojfa", selected)):
        shortcuts = None if method == "identity" else fitted
        output = folder / f"{method}.parquet"
        evaluate_method(
            *(output, validation, head),
            method=method,
            shortcuts=shortcuts,
            selection=selection,
            precision_at=(1, 5),
            **named,
        )
        tables.append(read_table(output))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_all_stages_of_half_precision_say_what_those_of_float32_say(
    folder_of: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    found = {}
    for dtype in CLOSE:
        (tmp_path / dtype).mkdir()
        table = all_stages(tmp_path / dtype, folder_of(family), dtype)
        found[dtype] = table.set_index(["method", "level", "metric"])["value"].xs("surprisal", level="metric")
    for dtype, close in CLOSE.items():
        assert np.isfinite(found[dtype]).all()
        if dtype != "float32":  # the selected jump may be another one
            for method in ("identity", "n-njtc"):
                np.testing.assert_allclose(found[dtype][method], found["float32"][method], rtol=close)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_models_own_states_go_through_jump_and_head(
    tiny_model_folder: Path, dtype: str, tmp_path: Path
) -> None:
    all_stages(tmp_path, tiny_model_folder, dtype)
    transformer = load_model(str(tiny_model_folder), dtype=dtype, device="cpu")
    every = torch.arange(6)
    states = transformer.states(every[None] + 5, torch.zeros_like(every), every)
    assert states.dtype == getattr(torch, dtype)
    head, folder = Head.load(tmp_path / "head.safetensors"), ShortcutFolder(tmp_path / "n-njtc")
    for level in range(4):
        jumped = folder.load(level)(states[level])
        assert jumped.dtype == torch.float32
        torch.testing.assert_close(head.logits(jumped), transformer.head.logits(jumped))
