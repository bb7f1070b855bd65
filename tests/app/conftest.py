"""A tiny model with a jump, as the page serves them, and the results of a small study."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from onejump.app.inputs import Limits
from onejump.app.served import Served
from onejump.base.files import write_table

# A page whose script says where it came from, to the server and to itself.
PAGE = """<!DOCTYPE html><html lang="en"><title>A lens</title><p id="said">nothing</p>
<script>document.getElementById("said").textContent = `drawn, from ${window.origin}`;</script></html>"""
# A picture of one pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def served(tiny_model_folder: Path, kept_jump: Path) -> Iterator[Served]:
    """The tiny model with its jump; a prompt may have 60 tokens, a text 60 new ones."""
    limits = Limits(new_tokens=60, prompt_tokens=60, shown_tokens=8, waiting=2)
    found = Served.load(str(tiny_model_folder), [str(kept_jump)], limits, device="cpu")
    yield found
    found.close()


@pytest.fixture(scope="module")
def forward(tiny_model_folder: Path, kept_jump: Path, kept_forward: Path) -> Iterator[Served]:
    """The tiny model with a forward jump, and another one."""
    found = Served.load(
        str(tiny_model_folder), [str(kept_forward), str(kept_jump)], Limits(new_tokens=60), device="cpu"
    )
    yield found
    found.close()


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/small: figures, tables and a page of one model and corpus, and a figure of the whole study."""
    study = tmp_path_factory.mktemp("app") / "results/small"
    pair = study / "tiny/plain-text"
    for folder in (study / "figures", pair / "figures", study / "logs", pair.parent / "logs"):
        folder.mkdir(parents=True)
    (pair.parent / "model.json").write_text("{}", encoding="utf-8")
    for file in ("figures/cross-scale.png", "tiny/plain-text/figures/selected.png"):
        (study / file).write_bytes(PIXEL)
    picture = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    )
    for name in ("selected", "methods"):
        (pair / f"figures/{name}.svg").write_text(picture, encoding="utf-8")
    (pair / "lens.html").write_text(PAGE, encoding="utf-8")
    (study / "report.html").write_text(PAGE, encoding="utf-8")
    table = pd.DataFrame({"method": "identity", "level": range(1500), "value": 1 / 3})
    write_table(pair / "evaluation.parquet", table)
    write_table(pair / "analysis.parquet", table.head(2))
    return study
