"""The script examples/lens.py, as a user runs it, on a tiny model."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from projects import ROOT

from onejump.lens.trajectory import Trajectory


def test_the_example_prints_the_table_and_writes_the_page(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "A young teacher painted"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lens.py", str(pair), text])
    runpy.run_path(str(ROOT / "examples" / "lens.py"), run_name="__main__")
    expected = Trajectory.from_results(pair, text, ["one-jump"])
    means = expected.surprisal()[:, :-1].mean(1).round(2)
    assert capsys.readouterr().out == f"{expected.to_text()}\n{means}\n"
    assert "Plotly.newPlot" in (tmp_path / "lens.html").read_text(encoding="utf-8")
