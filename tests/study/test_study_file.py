"""A study file as YAML: lines, repeated keys, bounds; and what it is merged with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from onejump.base.errors import StudyError
from onejump.study.file import merge, read_setting, read_study_file
from onejump.study.reading import load_study

STUDY = """\
study: mine
models:
  m: {folder: weights}
  quantised: {gguf: /far/away.gguf}
corpora:
  c: {path: ../text, training: 10, validation: 5}
shortcuts:
  n-njtc:
    rank: 2
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study in a folder of it."""
    work = tmp_path / "work"
    (work / "studies").mkdir(parents=True)
    (work / "studies/mine.yaml").write_text(STUDY, encoding="utf-8")
    monkeypatch.chdir(work)
    return work


def refused(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StudyError) as error:
        load_study(path)
    assert len(str(error.value)) < 1000
    return str(error.value)


def test_a_file_is_what_yaml_reads(here: Path) -> None:
    content = read_study_file("studies/mine.yaml")
    assert content.values == yaml.safe_load(STUDY)
    assert content.places["shortcuts", "n-njtc", "rank"] == "studies/mine.yaml, line 9"


def test_a_mistake_is_told_with_its_line(here: Path) -> None:
    said = refused(here / "bad.yaml", STUDY.replace("rank: 2", "rank: 0"))
    assert said.startswith(f"{here}/bad.yaml, line 9: shortcuts.n-njtc.rank: 0 given, accepted is a rank")
    said = refused(here / "bad.yaml", STUDY.replace("training: 10, ", ""))
    assert said.startswith(f"{here}/bad.yaml, line 6: corpora.c.training: missing")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: not readable as YAML: the key 'a' stands on line 1 already"),
        ("s: {x: 1, y: {z: 1, z: 2}}", "line 1: not readable as YAML: the key 'z'"),
        ("a: 1\n  b: 2\n", "line 2: not readable as YAML: mapping values are not allowed here"),
        ("a:\n\t- 1\n", "line 2: not readable as YAML"),
        (
            "models:\n  no: {hub: x}\n",
            "line 2: not readable as YAML: a key has to be text; this one is read as bool",
        ),
        ("1: 2", "read as int: write '1' in quotes"),
        ("? [a, b]\n: 1\n", "a key has to be text"),
        ("a: !!python/object/apply:os.system [exit 1]", "could not determine a constructor"),
        ("a: *b", "undefined alias"),
        ("a: &x [*x]", "inside its own anchor"),
        ("a: 1\n---\nb: 2\n", "line 2: not readable as YAML: expected a single document"),
        ("", "nothing was found"),
        ("# all commented out\n", "nothing was found"),
        ("just words", "a text was found"),
        ("- a\n- b", "a list was found"),
        ("[" * 5000, "nested more than 20 deep"),
        ("{a: " * 5000, "nested more than 20 deep"),
        ("a: " + "9" * 5000, "not readable as YAML"),
        (b"a: \xff\xfe", "UTF-8 text was expected, byte 4 is none"),
        (b"a: \x00", "not readable as YAML"),
        (b"a: 1\n" * 300_000, "a study has at most 1,000,000"),
        ("a: [" + "1," * 60_000 + "]", "more than 50,000 values"),
    ],
    ids=lambda value: None if len(value) > 60 else str(value),
)
def test_what_is_no_study_is_one_line(here: Path, content: str | bytes, said: str) -> None:
    assert said in refused(here / "bad.yaml", content)


def test_aliases_are_bounded_by_what_they_stand_for(here: Path) -> None:
    bomb = "a0: &a0 [lol, lol]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    assert "more than 50,000 values, aliases written out" in refused(here / "bomb.yaml", bomb)
    inside = STUDY.replace("rank: 2", "rank: &r 2").replace("rank: &r 2", "rank: &r [x, y]")
    assert "['x', 'y'] given" in refused(here / "bad.yaml", inside)


def test_anchors_and_merged_mappings_are_what_yaml_says(here: Path) -> None:
    text = STUDY + "  joint: &j {rank: 3}\n  njtc:\n    <<: *j\n    solver: exact\n"
    (here / "mine.yaml").write_text(text, encoding="utf-8")
    assert read_study_file("mine.yaml").values == yaml.safe_load(text)
    assert load_study("mine.yaml").shortcuts.options("njtc")["rank"] == 3


def test_numbers_with_an_exponent_are_numbers(here: Path) -> None:
    text = STUDY.replace("rank: 2", "{rank: 1e-2}").replace("  n-njtc:\n    {", "  n-njtc: {")
    (here / "mine.yaml").write_text(text, encoding="utf-8")
    assert load_study("mine.yaml").shortcuts.options("n-njtc")["rank"] == 0.01


def test_what_is_no_regular_file_is_not_opened(here: Path) -> None:
    os.mkfifo(here / "pipe")
    for path, said in (("pipe", "pipe or device"), ("studies", "a folder"), ("/dev/zero", "pipe or device")):
        with pytest.raises(StudyError, match=f"{path}: a study file was expected, this is .*{said}"):
            load_study(path)


def test_paths_in_a_study_are_relative_to_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("studies/mine.yaml")
    assert study.models["m"].folder == "studies/weights"
    assert study.models["quantised"].gguf == "/far/away.gguf"
    assert study.corpora["c"].path == "text"
    assert load_study(here / "studies/mine.yaml") == study
    elsewhere = here.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    study = load_study("../work/studies/mine.yaml")
    assert study.models["m"].folder == str(here / "studies/weights")
    monkeypatch.chdir(here / "studies")
    assert load_study("mine.yaml").models["m"].folder == "weights"


def test_a_dataset_is_a_folder_beside_the_study_or_a_name(here: Path) -> None:
    text = STUDY.replace("path: ../text", "dataset: stories")
    (here / "studies/mine.yaml").write_text(text, encoding="utf-8")
    assert load_study("studies/mine.yaml").corpora["c"].dataset == "stories"
    (here / "studies/stories").mkdir()
    assert load_study("studies/mine.yaml").corpora["c"].dataset == "studies/stories"


def test_settings_are_yaml_and_win_over_the_file(here: Path) -> None:
    study = load_study(
        "studies/mine.yaml",
        settings=["seed=4", "shortcuts.n-njtc.rank=3", "selection={metric: mse}", "figures={scores: {}}"],
    )
    assert (study.seed, study.selection.metric, study.models["m"].folder) == (4, "mse", "studies/weights")
    assert study.shortcuts.options("n-njtc")["rank"] == 3
    with pytest.raises(StudyError, match=r"^--config: seed: 'x' given, accepted is a whole number$"):
        load_study("studies/mine.yaml", settings=["seed=x"])
    with pytest.raises(StudyError, match=r"^--config: shortcuts\.n-njtc\.rank: 0 given"):
        load_study("studies/mine.yaml", settings=["shortcuts={n-njtc: {rank: 0}}"])
    for wrong in ("seed", "=3", "a..b=3", "a." * 5000 + "b=3"):
        with pytest.raises(StudyError, match="KEY=VALUE such as seed=3"):
            read_setting(wrong)


def test_files_are_merged_in_order() -> None:
    merged = merge([read_setting("a={b: 1, c: 2}"), read_setting("a={b: 3}"), read_setting("d=[1]")])
    assert merged.values == {"a": {"b": 3, "c": 2}, "d": [1]}
