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

from onejump.base.errors import OneJumpError
from onejump.base.files import read_json, read_table, replacing, write_json, write_table
from onejump.base.format import Format
from onejump.base.scratch import scratch_path
from onejump.data.shard_writer import StoreOptions
from onejump.data.store import ActivationStore
from onejump.models.activations import extract
from onejump.models.loading import load_model
from onejump.models.prompts import Prompt
from onejump.shortcuts.files import save_shortcut, save_shortcuts
from onejump.shortcuts.kinds.jtc import JTC

PLAIN = Format("plain", 1)
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


def begun(folder: Path, owner: str, hours: float = 0) -> Path:
    """What a killed writer leaves, unchanged for some hours; its name as a shard's."""
    scratch = folder / f".shard[0].zarr.{owner}.part"
    (scratch / "shard[0].zarr").mkdir(parents=True)
    chunk = scratch / "shard[0].zarr" / "chunk"
    chunk.write_text("half")
    for entry in (chunk, chunk.parent, scratch):
        os.utime(entry, times=(0, time.time() - 3600 * hours))
    return scratch


def test_what_another_machine_began_is_removed_after_a_day(tmp_path: Path, only: Only) -> None:
    new, old = begun(tmp_path, f"00000000-{os.getpid()}-1-00000000", 1), begun(tmp_path, "without", 1)
    begun(tmp_path, "00000000-1-1-00000000", 25)
    begun(tmp_path, "nobody", 25)
    running = tmp_path / ".shard.zarr.00000000-2-1-00000000.part"
    running.mkdir()
    (running / "chunk").write_text("half")  # its folder is old, this is new
    os.utime(running, times=(0, 0))
    with replacing(tmp_path / "other.txt") as fresh:
        fresh.write_text("whole")
    assert only(tmp_path) == sorted([new.name, old.name, running.name, "other.txt"])


def test_what_a_dead_process_began_is_removed_at_once(tmp_path: Path, only: Only) -> None:
    mine = scratch_path(tmp_path / "shard[0].zarr").name
    place, process, started, number = mine.removeprefix(".shard[0].zarr.").removesuffix(".part").split("-")
    child = os.fork()
    if child == 0:
        begun(tmp_path, scratch_path(tmp_path / "shard[0].zarr").name.split(".")[-2])
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, but its number is not given to another yet
    alive = begun(tmp_path, f"{place}-{process}-{started}-{number}", 100)
    begun(tmp_path, f"{place}-{process}-{int(started) - 1}-{number}")  # its number was given to this process
    assert len(only(tmp_path)) == 3
    with replacing(tmp_path / "other.txt") as fresh:
        fresh.write_text("whole")
    assert only(tmp_path) == sorted([alive.name, "other.txt"])
    os.waitpid(child, 0)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_are_readable_as_the_umask_says(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_shortcut(tmp_path / "level.safetensors", JTC(torch.zeros(2, 2)), {})
        write_json(tmp_path / "a.json", {}, PLAIN)
        save_shortcuts(tmp_path / "jtc", [JTC(torch.zeros(2, 2))], {}, levels=1, one=False)
        write_table(tmp_path / "a.parquet", pd.DataFrame({"a": [1]}))
    finally:
        os.umask(before)
    entries = list(tmp_path.rglob("*"))
    assert len(entries) == 5
    for entry in entries:
        assert entry.stat().st_mode & 0o777 == (0o777 if entry.is_dir() else 0o666) & ~umask, entry


def test_all_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed, real = tmp_path / "folder", set(), os.fsync

    def fsync(opened: int) -> None:
        flushed.add((os.stat(opened).st_ino, path.exists()))
        real(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(path) as fresh:
        (fresh / "sub").mkdir(parents=True)
        (fresh / "sub" / "file").write_text("text")
    entries = [path, *path.rglob("*")]
    assert flushed == {(entry.stat().st_ino, False) for entry in entries} | {(tmp_path.stat().st_ino, True)}


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
    write_json(tmp_path / "a.json", content, PLAIN)
    assert read_json(tmp_path / "a.json", PLAIN) == content
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"score": float("nan")}, PLAIN)
    assert read_json(tmp_path / "a.json", PLAIN) == content
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
    store = StoreOptions(keepbits=None, compressor="none")
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
    save_shortcut(path, JTC(torch.zeros(700, 700)), {})


def write_big_json(path: Path) -> None:
    write_json(path, {"values": ["long" * 10] * 50_000}, PLAIN)


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
