"""The code in README and docs runs as printed, on results of the shape that the default study leaves."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from projects import ROOT
from stage_files import describe_as

import onejump
from onejump.base.files import write_table
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.study.reading import parse_study

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
H, RANK, LEVELS = 12, 3, 30


def blocks(page: Path, language: str) -> list[str]:
    """What stands in a page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def results(
    tmp_path: Path,
    make_store: Callable[..., ActivationStore],
    make_head: Callable[..., Head],
    levels_of_data: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder results/ as the default study leaves it, as far as the pages use it."""
    model = tmp_path / "here" / "results" / "default" / "smollm2-135m"
    pair = model / "wikipedia-en"
    head = make_head(H, 31)
    store = make_store(levels_of_data(LEVELS + 1, 20, H), head=head)
    describe_as(model / "model.json", blocks=LEVELS, hidden=H)
    head.save(model / "head.safetensors")
    (pair / "activations").mkdir(parents=True)
    measured = [("one-jump", level, "precision@1", 0.5) for level in range(LEVELS)]
    evaluation = pd.DataFrame(measured, columns=["method", "level", "metric", "value"])
    write_table(pair / "evaluation.parquet", evaluation.assign(n=20, documents=20))
    write_table(pair / "parameters.parquet", pd.DataFrame({"method": ["one-jump"], "numbers": [100]}))
    shutil.copytree(store.paths[0], pair / "activations" / "validation-0.zarr")
    jump = OneJump(
        torch.randn(H, RANK),
        torch.randn(LEVELS, RANK),
        torch.randn(RANK, H),
        torch.randn(H),
        "rms",
        1e-5,
        mix=torch.randn(LEVELS, RANK, RANK),
    )
    save_shortcuts(pair / "shortcuts" / "one-jump", [jump], {}, levels=LEVELS, one=True)
    onejump.OneJump.from_study(pair).save_pretrained(pair / "export" / "one-jump")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "results"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs_as_printed(page: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    if page.name == "README.md":
        head, jump, states = names["head"], names["jump"], names["states"]
        assert capsys.readouterr().out == "Distilled(kind=distilled, hidden=12, rank=3, norm=rms, level=12)\n"
        # The two ways that README shows are one.
        expected = head.logits(jump(states)).topk(5).indices  # type: ignore[attr-defined, operator]
        assert torch.equal(names["tokens"], expected)  # type: ignore[arg-type]


def test_readme_has_snippets() -> None:
    assert blocks(PAGES[0], "python")


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "guide.md"], ids=lambda page: page.name)
def test_the_smallest_study_is_valid(page: Path) -> None:
    (study,) = [parse_study(yaml.safe_load(block)) for block in blocks(page, "yaml")]
    assert study.study == "mine"
    assert study.shortcuts.names() == ("identity", "n-njtc")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
