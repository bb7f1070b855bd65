"""The scripts of examples/, as a user runs them, on a tiny model and its jump."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from projects import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from onejump.runtime.artefact import OneJump


@pytest.fixture
def exported(studied: Path, tmp_path: Path) -> Path:
    OneJump.from_study(studied, "one-jump").save_pretrained(tmp_path / "jump")
    return tmp_path / "jump"


def test_generate_prints_the_models_own_text(
    exported: Path,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "w3 w14 w15"
    monkeypatch.setattr(sys, "argv", ["generate.py", str(tiny_model_folder), str(exported), text])
    runpy.run_path(str(ROOT / "examples" / "generate.py"), run_name="__main__")
    printed, counts = capsys.readouterr().out.strip().rsplit("\n", 1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokens = tokenizer(text, return_tensors="pt").input_ids
    own = AutoModelForCausalLM.from_pretrained(tiny_model_folder).generate(
        tokens, max_new_tokens=40, do_sample=False
    )
    assert printed == tokenizer.decode(own[0, tokens.shape[1] :])
    assert "drafts kept" in counts
