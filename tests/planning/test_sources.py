"""What a study reads, looked at before anything runs."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from stage_files import describe_as

from onejump.base.errors import ModelError, StudyError
from onejump.models.gguf_header import read_gguf_sizes
from onejump.planning.sources import check_known_sizes, check_sources
from onejump.study.reading import parse_study


def write_gguf(path: Path, blocks: int = 3, hidden: int = 8) -> Path:
    """A GGUF file as gguf itself writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_array("tags", ["a", "b"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_block_count(blocks)
    writer.add_embedding_length(hidden)
    writer.add_token_list(["x"] * 10)
    writer.add_tensor("t", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text and a model's folder of 3 blocks and H = 8."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("Words.", encoding="utf-8")
    (tmp_path / "tiny").mkdir()
    sizes = {"num_hidden_layers": 3, "hidden_size": 8}
    (tmp_path / "tiny/config.json").write_text(json.dumps(sizes), encoding="utf-8")
    return tmp_path


def mistakes(
    model: dict[str, Any] | None = None, corpus: dict[str, Any] | None = None, **sections: Any
) -> list[str]:
    study = {
        "study": "mine",
        "models": {"m": model or {"folder": "tiny"}},
        "corpora": {"c": (corpus or {"path": "text"}) | {"training": 2, "validation": 1}},
        "shortcuts": {"n-njtc": None},
    }
    try:
        check_sources(parse_study(study | sections))
    except StudyError as error:
        return str(error).splitlines()
    return []


def test_what_is_there_passes(here: Path) -> None:
    assert mistakes() == []
    assert mistakes({"gguf": str(write_gguf(here / "tiny.gguf"))}, {"path": "text/a.txt"}) == []
    assert mistakes({"hub": "some/model"}, {"dataset": "some/text"}) == []
    assert mistakes({"wheel": "x==1", "file": "not/yet/fetched.gguf"}) == []


def test_a_dataset_of_a_folder_has_no_subset_or_revision(here: Path) -> None:
    (here / "saved").mkdir()
    (here / "saved/dataset_info.json").write_text("{}", encoding="utf-8")
    assert mistakes(corpus={"dataset": "saved", "subset": "x", "revision": "main"}) == [
        "corpora.c.subset: 'x' given, but it has no effect on a folder's dataset: leave it out",
        "corpora.c.revision: 'main' given, but it has no effect on a folder's dataset: leave it out",
    ]


def test_what_is_missing_is_named_by_its_key(here: Path) -> None:
    os.mkfifo(here / "pipe")
    (here / "empty").mkdir()
    (here / "empty.txt").touch()
    for path, said in (
        ("nowhere", "there is no such file or folder"),
        ("pipe", "that is a pipe or device"),
        ("empty", "that folder is empty"),
        ("empty.txt", "that file is empty"),
    ):
        [line] = mistakes(corpus={"path": path})
        assert line.startswith(f"corpora.c.path: '{path}' given, but {said}")
    for model, said in (
        ({"folder": "nowhere"}, "models.m.folder: 'nowhere' given, but there is no such folder"),
        ({"folder": "text/a.txt"}, "models.m.folder: 'text/a.txt' given, but that is no folder"),
        ({"folder": "text"}, "models.m.folder: 'text' given, but it holds no config.json"),
        ({"gguf": "nowhere.gguf"}, "models.m.gguf: 'nowhere.gguf' given, but there is no such file"),
        ({"gguf": "pipe"}, "models.m.gguf: 'pipe' given, but that is no file"),
        ({"gguf": "text/a.txt"}, "models.m.gguf: 'text/a.txt' given, but text/a.txt: a GGUF file"),
        ({"hub": "tiny"}, "models.m.hub: 'tiny' given, but a file or folder of that name lies here"),
    ):
        [line] = mistakes(model)
        assert line.startswith(said)
    [line] = mistakes(corpus={"dataset": "../data/saved/text"})
    assert line.startswith("corpora.c.dataset: '../data/saved/text' given, but there is no such folder")
    assert len(mistakes({"folder": "nowhere"}, {"path": "nowhere"})) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 100_000, "\0"], ids=["empty", "cut", "list", "deep", "nul"]
)
def test_a_configuration_that_is_none_is_one_line(here: Path, content: str) -> None:
    (here / "tiny/config.json").write_text(content, encoding="utf-8")
    [line] = mistakes()
    assert line.startswith("models.m.folder: 'tiny' given, but its config.json is not readable: ")


@pytest.mark.parametrize(
    "stated",
    [
        {"num_hidden_layers": 3, "hidden_size": 8},
        {"n_layer": 3, "n_embd": 8},
        {"n_layers": 3, "dim": 8},
        {"hidden_size": 99, "text_config": {"num_hidden_layers": 3, "hidden_size": 8}},
    ],
    ids=["llama", "gpt2", "distilbert", "gemma3"],
)
def test_ranks_and_levels_are_held_against_what_the_files_state(here: Path, stated: dict[str, Any]) -> None:
    (here / "tiny/config.json").write_text(json.dumps(stated), encoding="utf-8")
    asked = {
        "shortcuts": {"n-njtc": {"rank": 9}},
        "evaluation": {"arbitrary": [2, 3]},
        "experiments": {"rank-sweep": {"ranks": [0.5, 10]}, "early-exit": {"from_level": 4}},
    }
    assert mistakes(**asked) == [
        "shortcuts.n-njtc.rank: 9 given, 1 to H = 8 accepted for m, or a part of H below 1",
        "experiments.rank-sweep.ranks: 10 given, 1 to H = 8 accepted for m, or a part of H below 1",
        "evaluation.arbitrary: level 3 given, 0 to 2 accepted for m",
        "experiments.early-exit.from_level: level 4 given, 0 to 2 accepted for m",
    ]
    assert mistakes({"gguf": str(write_gguf(here / "tiny.gguf"))}, **asked) == mistakes(**asked)
    (here / "resources/x==1").mkdir(parents=True)
    write_gguf(here / "resources/x==1/f.gguf")
    assert mistakes({"wheel": "x==1", "file": "f.gguf"}, **asked) == mistakes(**asked)


def test_sizes_of_an_earlier_run_are_known(here: Path) -> None:
    study = parse_study(
        {
            "study": "mine",
            "models": {"m": {"hub": "some/model"}},
            "corpora": {"c": {"path": "text", "training": 2, "validation": 1}},
            "shortcuts": {"n-njtc": {"rank": 9}},
        }
    )
    check_known_sizes(study, here / "results")
    describe_as(here / "results/mine/m/model.json", blocks=3, hidden=8)
    with pytest.raises(StudyError, match=r"shortcuts\.n-njtc\.rank: 9 given, 1 to H = 8"):
        check_known_sizes(study, here / "results")


def test_a_masked_model_generates_no_text(here: Path, tiny_masked_folder: Callable[[str], Path]) -> None:
    generated = {"generated": {"prompts": "c"}, "training": 2, "validation": 1}
    corpora = {"c": {"path": "text", "training": 2, "validation": 1}, "g": generated}
    said = (
        "corpora.g.generated: m is a masked language model; accepted are causal ones, which can generate "
        "text: give it a study of its own"
    )
    masked = {"folder": str(tiny_masked_folder("bert"))}
    assert mistakes(masked, corpora=corpora) == [said]
    assert mistakes(masked) == []
    assert mistakes(corpora=corpora) == []
    known = {"study": "mine", "models": {"m": {"hub": "some/model"}}, "shortcuts": {"n-njtc": None}}
    study = parse_study(known | {"corpora": corpora})
    describe_as(here / "results/mine/m/model.json")
    check_known_sizes(study, here / "results")
    describe_as(here / "results/mine/m/model.json", task="masked")
    with pytest.raises(StudyError, match=r"corpora\.g\.generated: m is a masked language model"):
        check_known_sizes(study, here / "results")


def test_a_gguf_header_is_read_as_gguf_writes_it(tmp_path: Path) -> None:
    assert read_gguf_sizes(write_gguf(tmp_path / "tiny.gguf", 30, 576)) == (30, 576)


def test_every_cut_and_every_flipped_length_of_a_gguf_header_is_one_line(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    end = whole.index(b"embedding_length") + len(b"embedding_length") + 8
    damaged = tmp_path / "damaged.gguf"
    for length in range(end):
        damaged.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"damaged\.gguf: "):
            read_gguf_sizes(damaged)
    for place in range(24, end - 8):
        huge = bytearray(whole)
        huge[place : place + 8] = b"\xff" * 8
        damaged.write_bytes(huge)
        with suppress(ModelError):  # a float or a word of other bytes is a float or a word all the same
            read_gguf_sizes(damaged)
    damaged.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60))
    with pytest.raises(ModelError, match="this is not one"):
        read_gguf_sizes(damaged)
