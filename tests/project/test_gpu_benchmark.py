"""The script for a machine with a GPU, tried where there is none: there it compares the CPU with itself."""

from __future__ import annotations

import sys

import pytest
from projects import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


def test_a_device_agrees_with_itself_in_every_stage(
    benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gpu.py", "--device", "cpu", "--shapes", "tiny", "--samples", "200"]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    printed = capsys.readouterr().out
    compared = [line for line in printed.splitlines() if "device against CPU" in line]
    stages = (
        *("extraction", "jtc", "n-njtc", "one-jump", "one-residual", "affine", "scores", "evaluation"),
        *("confidences", "verified", "trusted", "copied", "gate learned", "copied keys and values", "lens"),
        *("joint optimisation", "an encoder-decoder", "a classifier"),
    )
    assert all(any(stage in line for line in compared) for stage in stages)
    assert [line for line in compared if not line.startswith("ok")] == []
    for what in ("verified texts that are the model's own", "verified translations that are the model's own"):
        assert f"ok     {what}: 100%" in printed


def test_a_missing_gpu_is_said_in_one_line(benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cuda"])
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch finds no GPU here"):
        benchmark.main()
