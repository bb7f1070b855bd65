"""Files are the old ones or the whole new ones, and a full disk is said in plain words."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from onejump.activations import Prompt, extract
from onejump.errors import OneJumpError
from onejump.files import read_json, read_table, replacing, write_json, write_table
from onejump.loading import load_model
from onejump.maps import JTC, save_shortcut
from onejump.store import ActivationStore

Only = Callable[[Path], list[str]]


def test_a_file_is_replaced_when_whole(tmp_path: Path, only: Only) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with replacing(path) as fresh:
            assert fresh.suffix == path.suffix
            fresh.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
        assert only(path.parent) == ["a.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_the_old_file(
    failure: type[BaseException], existing: bool, tmp_path: Path, only: Only
) -> None:
    path = tmp_path / "out" / "a.txt"
    if existing:
        with replacing(path) as fresh:
            fresh.write_text("old")

    def fail() -> None:
        with replacing(path) as fresh:
            fresh.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail()
    assert only(path.parent) == (["a.txt"] if existing else [])
    if existing:
        assert path.read_text() == "old"


def test_folders_are_replaced_whole(tmp_path: Path, only: Only) -> None:
    path = tmp_path / "out" / "folder"
    for name in ("one", "two"):
        with replacing(path) as fresh:
            fresh.mkdir()
            (fresh / name).write_text(name)
        assert only(path) == [name]

    def fail() -> None:
        with replacing(path) as fresh:
            fresh.mkdir()
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert only(path) == ["two"]
    assert only(path.parent) == ["folder"]


def test_what_a_killed_process_began_is_removed_after_a_day(tmp_path: Path, only: Only) -> None:
    path, hour = tmp_path / "shard[0].zarr", 3600
    ages = {".shard[0].zarr.old.part": 25, ".shard[0].zarr.new.part": 1, ".shard[1].zarr.old.part": 25}
    for name, age in ages.items():
        begun = tmp_path / name / path.name
        begun.mkdir(parents=True)
        (begun / "chunk").write_text("half")
        for entry in (begun / "chunk", begun, begun.parent):
            os.utime(entry, times=(0, time.time() - age * hour))
    still_written = tmp_path / ".shard[0].zarr.running.part"
    still_written.mkdir()
    (still_written / "chunk").write_text("half")
    os.utime(still_written, times=(0, 0))
    with replacing(path) as fresh:
        fresh.write_text("whole")
    assert only(tmp_path) == sorted(
        [still_written.name, ".shard[0].zarr.new.part", ".shard[1].zarr.old.part", path.name]
    )


def test_a_block_that_writes_nothing_keeps_the_old_folder(tmp_path: Path, only: Only) -> None:
    path = tmp_path / "folder"
    with replacing(path) as fresh:
        fresh.mkdir()
    (path / "kept").write_text("kept")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert only(path) == ["kept"]


def test_json_and_tables(tmp_path: Path, only: Only) -> None:
    content = {"jump": 3, "margin": None, "ranking": [1.5, "é"]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert read_json(tmp_path / "a.json") == content
    table = pd.DataFrame({"level": [0, 1], "value": [0.5, np.nan], "method": ["é", "b"]})
    write_table(tmp_path / "a.parquet", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "a.parquet"), table)
    assert only(tmp_path) == ["a.json", "a.parquet"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no mount here")
    if made.returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def extract_much(folder: Path, output: Path) -> None:
    """About 2 MB of activations."""
    transformer = load_model(str(folder), device="cpu")
    generator = np.random.default_rng(0)
    prompts = [Prompt(i, generator.integers(5, 190, size=20).tolist(), np.arange(20)) for i in range(160)]
    store = {"keepbits": None, "compressor": "none"}
    extract(transformer, prompts, output, batch_tokens=1000, top_k=3, store=store)


def test_a_full_disk_while_extracting(small_disk: Path, tiny_model_folder: Path, only: Only) -> None:
    with pytest.raises(
        OneJumpError, match=r"no space left on the disk that holds .*small while writing s\.zarr"
    ):
        extract_much(tiny_model_folder, small_disk / "s.zarr")
    assert only(small_disk) == []


def write_big_table(path: Path) -> None:
    write_table(path, pd.DataFrame({"value": np.random.default_rng(0).normal(size=300_000)}))


def write_big_shortcut(path: Path) -> None:
    with replacing(path) as fresh:
        save_shortcut(fresh, JTC(torch.zeros(700, 700)), {})


def write_big_json(path: Path) -> None:
    write_json(path, ["long" * 10] * 50_000)


@pytest.mark.parametrize("write", [write_big_table, write_big_shortcut, write_big_json])
def test_a_full_disk_while_writing(write: Callable[[Path], None], small_disk: Path, only: Only) -> None:
    (small_disk / "file").write_text("old")
    with pytest.raises(OneJumpError, match="no space left"):
        write(small_disk / "file")
    assert only(small_disk) == ["file"]
    assert (small_disk / "file").read_text() == "old"


def test_no_space_inside_zarr(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, only: Only
) -> None:
    from zarr.storage import LocalStore

    real = LocalStore.set

    async def full(self: Any, key: str, value: Any) -> None:
        if key.startswith("activations/c/2"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await real(self, key, value)

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(OneJumpError, match="no space left"):
        extract_much(tiny_model_folder, tmp_path / "out" / "s.zarr")
    assert only(tmp_path / "out") == []
    monkeypatch.undo()
    extract_much(tiny_model_folder, tmp_path / "out" / "s.zarr")
    assert ActivationStore([tmp_path / "out" / "s.zarr"]).samples == 3200
