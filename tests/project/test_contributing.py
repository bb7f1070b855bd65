"""CONTRIBUTING.md: whoever touches exactly the files that it lists has added what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import ROOT, Project

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# The most files that an addition may touch.
MOST = {"shortcut kind": 7, "figure": 5, "experiment": 11, "model family": 3}
SCHEMA = "workflow/schemas/study.schema.json"

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def steps(addition: str) -> list[tuple[str, str, str]]:
    """The files that an addition touches: path, and the language and text of the example."""
    section = re.search(rf"^## Adding an? {addition}\n(.*?)(?=^## )", PAGE, re.M | re.S)
    assert section is not None, addition
    items = re.split(r"^(?=\d+\. `)", section[1], flags=re.M)[1:]
    found = []
    for item in items:
        path = re.match(r"\d+\. `([^`]+)`", item)
        example = re.search(r"^```(\w+)\n(.*?)^```$", item, re.M | re.S)
        assert path is not None, item
        found.append((path[1], *(example.groups() if example else ("", ""))))
    return found


def change(file: Path, diff: str) -> None:
    """Make the changes of a diff whose hunks say their place by the lines around them."""
    text = file.read_text(encoding="utf-8")
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] or "\n" for line in lines if line[0] != sign) for sign in "+-")
        assert text.count(before) == 1, f"{file}: once there should be\n{before}"
        text = text.replace(before, after)
    file.write_text(text, encoding="utf-8")


def add(folder: Path, addition: str) -> None:
    for path, language, example in steps(addition):
        file = folder / path
        if language == "diff":
            change(file, example)
        elif example:
            assert not file.exists(), path
            file.write_text(example, encoding="utf-8")
        else:
            assert file.is_file(), path  # one that a command writes again


def python(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished study in a checkout to which everything of the page was added since."""
    project = Project(tmp_path_factory.mktemp("contributing") / "project", finished.python)
    shutil.copytree(finished.folder, project.folder)
    shutil.copytree(ROOT / "tests", project.folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "docs"):
        copy: Callable[..., object] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, project.folder / name)
    for addition in MOST:
        add(project.folder, addition)
    schema = python(project.folder, "-c", "from onejump.cli.main import main; main(['schema'])")
    (project.folder / SCHEMA).write_text(schema, encoding="utf-8")
    return project


@pytest.mark.parametrize("addition", MOST)
def test_an_addition_touches_few_files(addition: str) -> None:
    paths = [path for path, _, _ in steps(addition)]
    assert len(set(paths)) == len(paths) <= MOST[addition]


def test_what_was_added_passes_the_tests_of_its_own_and_those_of_declarations(checkout: Project) -> None:
    own = [path for addition in MOST for path, _, _ in steps(addition) if path.startswith("tests/")]
    assert len(own) == len(MOST)
    python(
        checkout.folder, "-m", "pytest", "-p", "no:cacheprovider", "tests/project/test_declarations.py", *own
    )
