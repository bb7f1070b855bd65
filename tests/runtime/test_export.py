"""The stage "export": it gathers what other stages wrote, of one model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from jumps_at_random import trained
from simulated_exits import some_shortcuts

from onejump.base.errors import ModelError, OneJumpError
from onejump.base.files import read_json, write_json, write_table
from onejump.base.format import SELECTION
from onejump.exits.gates import Margin
from onejump.models.description import read_description
from onejump.models.loading import load_model
from onejump.models.model_stage import describe
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.export import CALIBRATION, export_jump
from onejump.shortcuts.files import save_shortcuts


@pytest.fixture
def given(studied: Path, tmp_path: Path) -> dict[str, Any]:
    """The arguments of the stage, for the selected jump."""
    return {
        "folder": tmp_path / "kept",
        "description": studied.parent / "model.json",
        "head": studied.parent / "head.safetensors",
        "shortcuts": studied / "shortcuts/n-njtc",
        "selection": studied / "selection.json",
        "evaluation": studied / "evaluation.parquet",
        "parameters": studied / "parameters.parquet",
        "method": "ojfa",
        "study": "tiny",
        "model": "tiny-llama",
        "corpus": "random",
    }


def test_calibrated_gates_are_taken_along(given: dict[str, Any], studied: Path, tmp_path: Path) -> None:
    gates = {"95%": Margin({0: 0.5, 2: 0.25})}
    content = {
        "gates": {name: gate.to_dict() for name, gate in gates.items()},
        "measured": {"95%": {"agreement": 0.953, "blocks_saved": 0.125, "n": 2000}},
        "expected": {"95%": {"0": {"exits": 0.25, "kept": 0.5}, "2": {"exits": 0.75, "kept": 1.0}}},
        "samples": "another key of that stage",
    }
    digest = read_description(given["description"]).model_digest
    calibration = tmp_path / "calibration.json"
    write_json(calibration, content, CALIBRATION, model_digest=digest)
    export_jump(**given, calibration=calibration, license="mit")
    kept = OneJump.from_pretrained(given["folder"])
    assert dict(kept.gates) == gates
    assert kept.config.measured == {"95%": {"agreement": 0.953, "blocks_saved": 0.125, "n": 2000.0}}
    assert kept.config.expected == {"95%": {0: {"exits": 0.25, "kept": 0.5}, 2: {"exits": 0.75, "kept": 1.0}}}
    assert "| 95% | margin | 0, 2 | 95.3% | 12.5% | 2,000 |" in kept.card
    assert kept.config.level == read_json(studied / "selection.json", SELECTION)["jump"]


def test_a_jump_with_gates_is_the_fit_that_they_belong_to(
    given: dict[str, Any], studied: Path, tmp_path: Path
) -> None:
    pair = Path(shutil.copytree(studied, tmp_path / "results/tiny/tiny-llama/random"))
    for name in ("model.json", "head.safetensors"):
        shutil.copy(studied.parent / name, pair.parent)
    known = read_description(given["description"])
    again = pair / "early-exit/shortcuts/n-njtc"
    made = some_shortcuts("n-njtc", known.hidden, known.blocks)
    digest = known.model_digest
    save_shortcuts(again, made, {}, levels=known.blocks, one=False, model_digest=digest)
    plain = OneJump.from_study(pair, "ojfa")
    assert not plain.config.fitted_again
    assert "fitted again" not in plain.card
    content = {"gates": {"95%": Margin({0: 0.5}).to_dict()}}
    write_json(pair / "calibration/ojfa.json", content, CALIBRATION, model_digest=known.model_digest)
    gated = OneJump.from_study(pair, "ojfa")
    assert gated.config.fitted_again
    assert "fitted again, without the documents that gates" in gated.card
    assert torch.equal(gated.at(0).up, made[gated.config.level].up)
    assert not torch.equal(gated.at(0).up, plain.at(0).up)
    export_jump(**given | {"shortcuts": again}, fitted_again=True)
    assert OneJump.from_pretrained(given["folder"]).config == replace(
        gated.config, gates={}, study="tiny", corpus="random"
    )


def test_drafting_begins_with_what_the_calibration_of_its_gate_expects(
    given: dict[str, Any], tiny: Callable[..., Transformer]
) -> None:
    export_jump(**given)
    plain = OneJump.from_pretrained(given["folder"])
    gates = {"95%": Margin({0: 0.5, 2: 0.25}), "90%": Margin({0: 0.4, 2: 0.25})}
    jump = plain.with_gates(
        gates, expected={"95%": {0: {"exits": 0.25, "kept": 0.125}, 2: {"exits": 0.75, "kept": 1.0}}}
    )
    for gate, exits, kept in (("95%", [0.25, 0.75], [0.125, 1.0]), ("90%", [0.5, 0.5], [0.5, 0.5])):
        engine = EarlyExit(tiny(), jump, gate=gate, packed=False)
        chosen = engine._exits(1)
        assert chosen is not None
        assert chosen.policy.acceptance.exits().tolist() == exits
        assert chosen.policy.acceptance.kept()[0][0].tolist() == kept
        assert chosen.policy is engine._exits(1).policy
        engine.gate = gates["90%"]
        assert engine._exits(1).policy.levels == (0, 2)
    with pytest.raises(OneJumpError, match=r"expected.95%: level 1 with exits, kept given"):
        plain.with_gates(gates, expected={"95%": {1: {"exits": 0.25, "kept": 0.5}}})


def test_files_of_another_model_are_refused(given: dict[str, Any], tmp_path: Path) -> None:
    calibration = tmp_path / "calibration.json"
    write_json(calibration, {"gates": {}}, CALIBRATION, model_digest="sha256:" + 64 * "1")
    with pytest.raises(OneJumpError, match="belong to different models"):
        export_jump(**given, calibration=calibration)
    write_json(calibration, {"thresholds": {}}, CALIBRATION)
    with pytest.raises(OneJumpError, match=r"calibration\.json: it has no key 'gates'"):
        export_jump(**given, calibration=calibration)
    assert not given["folder"].exists(), "nothing is half-written"


def test_a_damaged_head_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    head = Path(shutil.copy(given["head"], tmp_path))
    content = head.read_bytes()
    head.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(OneJumpError, match=r"head\.safetensors: damaged"):
        export_jump(**given | {"head": head})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_masked_model_keeps_its_jump_too(
    tiny_masked_folder: Callable[[str], Path], tmp_path: Path, dtype: str
) -> None:
    """Its head has a transform before the norm, and its study may load it in bfloat16."""
    pair = tmp_path / "results/masked/tiny-bert/random"
    about, head = pair.parent / "model.json", pair.parent / "head.safetensors"
    describe(about, head, source=str(tiny_masked_folder("bert")), dtype=dtype, device="cpu")
    digest = read_description(about).model_digest
    save_shortcuts(
        pair / "shortcuts/one-jump", trained("one-jump", 4, 32), {}, levels=4, one=True, model_digest=digest
    )
    measured = [("one-jump", level, "precision@1", 0.5, 10, 5) for level in range(4)]
    columns = ["method", "level", "metric", "value", "n", "documents"]
    write_table(pair / "evaluation.parquet", pd.DataFrame(measured, columns=columns))
    write_table(pair / "parameters.parquet", pd.DataFrame({"method": ["one-jump"], "numbers": [1]}))
    OneJump.from_study(pair).save_pretrained(tmp_path / "kept")
    jump = OneJump.from_pretrained(tmp_path / "kept")
    assert (jump.config.causal, jump.config.norm) == (False, "layer")
    assert "predicts a masked token" in jump.card
    for loaded in ("float32", "bfloat16"):
        jump.check_fits(load_model(str(tiny_masked_folder("bert")), dtype=loaded, device="cpu"))
    with pytest.raises(ModelError, match="unembedding: "):
        jump.check_fits(load_model(str(tiny_masked_folder("roberta")), device="cpu"))
