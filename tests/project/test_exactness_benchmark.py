"""The script that holds verified text against `model.generate`, on one small family."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from projects import ROOT

ARGUMENTS = [
    "exactness.py",
    "--prompts",
    "0",
    "--half",
    "0",
    "--of-family",
    "5",
    "--family",
    "Qwen2ForCausalLM",
]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", ARGUMENTS)
    import exactness

    monkeypatch.setattr(exactness.logging, "disable", lambda level: None)
    return exactness


def test_every_text_of_a_family_is_the_models_own(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("ok     texts equal, Qwen2ForCausalLM (Qwen2Config): 100%")
    assert [line for line in printed if "torch.bfloat16" in line or "torch.float16" in line] == printed[1:]


def test_a_text_that_differs_is_told_with_its_place_and_the_gap(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_text = benchmark.own_text

    def other(model: Any, prompt: list[int], arguments: dict[str, Any]) -> list[int]:
        first, *rest = own_text(model, prompt, arguments)
        return [first + 1 if first < 90 else first - 1, *rest]

    monkeypatch.setattr(benchmark, "own_text", other)
    benchmark.main()
    printed = capsys.readouterr().out
    assert "DIFFERS Qwen2ForCausalLM, torch.float32: token 0: " in printed
    assert "whose logit is larger by -" in printed  # as the true token has the largest logit
    assert "MISSED texts equal, Qwen2ForCausalLM (Qwen2Config): 0%" in printed
