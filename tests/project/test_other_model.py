"""Files of two models, as when a folder was copied between studies, are refused before a stage computes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from stage_files import describe_as, select

import onejump
from onejump.base.errors import OneJumpError
from onejump.base.files import write_table
from onejump.data.store import ActivationStore
from onejump.exits.measuring import measure_confidences
from onejump.experiments.criteria import compare_criteria
from onejump.experiments.early_exit import ExitOptions, compare_exits
from onejump.experiments.level_pairs import measure_level_pairs
from onejump.fitting.distillation import distil
from onejump.fitting.options import FitOptions
from onejump.fitting.shortcuts import fit_shortcuts
from onejump.models.head import Head
from onejump.scoring.analysis import analyse
from onejump.scoring.collection import collect
from onejump.scoring.evaluation import evaluate_method
from onejump.scoring.parameters import count_parameters
from onejump.scoring.scores import score_jumps
from onejump.scoring.selection import select_jump

H, LEVELS = 8, 3
NAMES: dict[str, Any] = {"model": "m", "corpus": "c"}
OURS, THEIRS = ("sha256:" + 64 * digit for digit in "12")


@pytest.fixture
def study(
    make_store: Callable[..., ActivationStore],
    levels_of_data: Callable[..., np.ndarray],
    make_head: Callable[..., Head],
    tmp_path: Path,
) -> Callable[[str, str], Path]:
    """study(name, model's digest): results/<model>/<corpus> of a study, by the stages' own functions."""

    def make(name: str, digest: str) -> Path:
        pair = tmp_path / name / "model" / "corpus"
        head = make_head(H, 40)
        head.model_digest = digest
        stated = {"model_digest": digest}
        shard = make_store(levels_of_data(LEVELS + 1, 60, H), head=head, attributes=stated).paths[0]
        shutil.copytree(shard, pair / "activations" / "0.zarr")
        head.save(pair.parent / "head.safetensors")
        describe_as(pair.parent / "model.json", model_digest=digest, blocks=LEVELS, hidden=H)
        options = FitOptions(rank=2)
        shortcuts, shards = pair / "shortcuts" / "n-njtc", [pair / "activations" / "0.zarr"]
        fit_shortcuts(shortcuts, shards, method="n-njtc", options=options, seed=0, device="cpu")
        score_jumps(pair / "scores.parquet", shards, shortcuts, **NAMES)
        select_jump(
            pair / "selection.json",
            pair / "scores.parquet",
            method="n-njtc",
            metric="signed-squared-cosine",
        )
        return pair

    return make


def test_the_model_travels_from_stage_to_stage(study: Callable[[str, str], Path]) -> None:
    pair = study("ours", OURS)
    made = [*pair.glob("*.*"), *pair.glob("*/*"), *pair.parent.glob("*.*")]
    assert len(made) == 6
    assert {onejump.base.identity.model_digest_in(path) for path in made} == {OURS}
    shortcuts = onejump.load_shortcuts(pair, "ojfa")
    assert (shortcuts.model_digest, shortcuts.at(0).model_digest) == (OURS, OURS)


def test_files_of_two_models_are_refused(study: Callable[[str, str], Path], tmp_path: Path) -> None:
    ours, theirs = study("ours", OURS), study("theirs", THEIRS)
    shards, out = [ours / "activations" / "0.zarr"], tmp_path / "out"
    head, their_head = (pair.parent / "head.safetensors" for pair in (ours, theirs))
    jumps, their_jumps = (pair / "shortcuts" / "n-njtc" for pair in (ours, theirs))
    selection, their_selection = (pair / "selection.json" for pair in (ours, theirs))
    tables = [pair / "scores.parquet" for pair in (ours, theirs)]
    documents = tmp_path / "documents.parquet"
    write_table(documents, pd.DataFrame({"sentence_id": [0], "document": [0], "role": ["fit"]}))
    evaluated: dict[str, Any] = {"method": "ojfa", "precision_at": [1], **NAMES}
    measured: dict[str, Any] = {"method": "ojfa"}
    compared: dict[str, Any] = {"precision_at": [1], **NAMES}
    distilled: dict[str, Any] = {"method": "distilled", "options": {}, "seed": 0}
    counted: dict[str, Any] = {"methods": ["n-njtc"], "selected": ["ojfa"], "reference": "n-njtc", **NAMES}
    paired: dict[str, Any] = {"methods": ["jtc"], "rank": 1, **NAMES}
    exits: dict[str, Any] = {"shortcuts": jumps, "selection": their_selection}
    refused: list[tuple[Callable[[], object], Path]] = [
        (lambda: evaluate_method(out, shards, their_head, shortcuts=jumps, **evaluated), their_head),
        (lambda: evaluate_method(out, shards, head, shortcuts=their_jumps, **evaluated), their_jumps),
        (lambda: evaluate_method(out, shards, head, **exits, **evaluated), their_selection),
        (lambda: measure_confidences(out, shards, their_head, shortcuts=jumps, **measured), their_head),
        (lambda: measure_confidences(out, shards, head, **exits, **measured), their_selection),
        (lambda: compare_exits(out, out, tables[:1], tables[1:], options=ExitOptions(), **NAMES), tables[1]),
        (lambda: score_jumps(out, shards, their_jumps, **NAMES), their_jumps),
        (lambda: analyse(out, shards, their_head, [jumps], methods=["n-njtc"], **NAMES), their_head),
        (lambda: analyse(out, shards, head, [their_jumps], methods=["n-njtc"], **NAMES), their_jumps),
        (lambda: compare_criteria(out, shards, head, jumps, their_selection, **compared), their_selection),
        (lambda: compare_criteria(out, shards, their_head, jumps, selection, **compared), their_head),
        (lambda: count_parameters(out, [their_jumps], [selection], **counted), their_jumps),
        (lambda: collect(out, tables), tables[1]),
        (lambda: distil(out, shards, their_head, documents, **distilled), their_head),
        (
            lambda: measure_level_pairs(out, shards, [theirs / "activations" / "0.zarr"], **paired),
            theirs / "activations",
        ),
    ]
    for stage, culprit in refused:
        with pytest.raises(OneJumpError, match="belong to different models") as caught:
            stage()
        assert str(ours.parents[1]) in str(caught.value)
        assert str(culprit) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not out.exists()


def test_a_copied_folder_is_refused_where_it_is_loaded(study: Callable[[str, str], Path]) -> None:
    ours, theirs = study("ours", OURS), study("theirs", THEIRS)
    jump = onejump.load_shortcuts(ours, "n-njtc").at(0)
    head, their_head = (Head.load(pair.parent / "head.safetensors") for pair in (ours, theirs))
    assert isinstance(jump, onejump.shortcuts.shortcut.LowRank)
    states = torch.zeros(2, jump.rank)
    own = onejump.ExitHead.of(head, jump).logits(states)
    torch.testing.assert_close(own, onejump.ExitHead(head, jump.up, jump.bias).logits(states))
    with pytest.raises(OneJumpError, match="the head and the shortcut belong to different models"):
        onejump.ExitHead.of(their_head, jump)
    shutil.rmtree(ours / "shortcuts" / "n-njtc")
    shutil.copytree(theirs / "shortcuts" / "n-njtc", ours / "shortcuts" / "n-njtc")
    for method in ("n-njtc", "ojfa"):
        with pytest.raises(OneJumpError, match=r"model\.json and .*n-njtc belong to different models"):
            onejump.load_shortcuts(ours, method)
    select(ours / "selection.json", model_digest=THEIRS, computed_from={"method": "n-njtc"})
    with pytest.raises(OneJumpError, match=r"model\.json and .*selection\.json belong to different"):
        onejump.load_shortcuts(ours, "ojfa")
