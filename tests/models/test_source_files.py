"""Which files a model is read from, and that a change of them is seen."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from onejump.base.errors import ModelError
from onejump.models.description import read_description
from onejump.models.model_stage import describe
from onejump.models.source_files import (
    check_model_files,
    file_digest,
    folder_files,
    model_digest,
    model_files,
    remembered_digest,
    unpacked_name,
)


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def test_a_copy_has_the_same_digest_and_remarks_do_not_count(folder: Path, tiny_model_folder: Path) -> None:
    (folder / "README.md").write_text("A remark.", encoding="utf-8")
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / ".cache").write_bytes(b"hidden")
    (folder / "checkpoint-5").mkdir()
    assert model_digest(folder) == model_digest(tiny_model_folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_bit_of_weights_configuration_or_tokenizer_counts(folder: Path, name: str) -> None:
    before = model_digest(folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert model_digest(folder) != before


def test_names_count(folder: Path) -> None:
    before = model_digest(folder)
    (folder / "config.json").rename(folder / "configuration.json")
    assert model_digest(folder) != before


def test_files_of_folders(tmp_path: Path) -> None:
    for name in ("b.arrow", "a/c.json", ".git/x", "a/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert [str(file.relative_to(tmp_path)) for file in folder_files(tmp_path)] == ["a/c.json", "b.arrow"]
    assert [file.name for file in model_files(tmp_path)] == []
    assert file_digest(tmp_path / "b.arrow") == hashlib.sha256(b"1").hexdigest()


def test_the_model_stage_writes_the_digest_and_later_stages_hold_to_it(folder: Path, tmp_path: Path) -> None:
    describe(tmp_path / "model.json", tmp_path / "head.safetensors", source=str(folder), device="cpu")
    digest = read_description(tmp_path / "model.json").model_digest
    assert digest == model_digest(folder)
    check_model_files(digest, folder)
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="model's files have changed since the model stage"):
        check_model_files(digest, folder)


def test_of_a_hub_model_the_commit_counts() -> None:
    check_model_files("commit:0123abc", "someone/model")


def test_a_digest_is_remembered_until_a_file_changes(folder: Path, tmp_path: Path, only: Any) -> None:
    files, memory = model_files(folder), tmp_path / "memory"
    digest = remembered_digest(files, folder, memory)
    assert digest == model_digest(folder)
    (known,) = only(memory)
    (memory / known).write_text("remembered", encoding="utf-8")
    assert remembered_digest(files, folder, memory) == "remembered"
    weights, status = folder / "model.safetensors", (folder / "model.safetensors").stat()
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    assert remembered_digest(files, folder, memory) == digest


def test_unpacked_files_of_one_name_do_not_meet() -> None:
    names = {unpacked_name(path) for path in ("a/m.gguf", "b/m.gguf", "./a/m.gguf")}
    assert len(names) == 2
    assert all(name.startswith("m-") for name in names)
