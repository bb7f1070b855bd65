"""Damage to any file between two stages is noticed, and one line says which file and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from onejump.base.checksum import PLACEHOLDER, stamp, verify
from onejump.base.errors import DamagedFileError, MissingFileError, OneJumpError
from onejump.base.files import read_json, read_table, write_json, write_table
from onejump.base.format import Format
from onejump.base.tensors import read_tensors, write_tensors
from onejump.models.head import HEAD, Head, HeadConfig
from onejump.shortcuts.files import SHORTCUT, ShortcutFolder, load_shortcut, save_shortcut, save_shortcuts
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC

PLAIN = Format("plain", 1)
H, LEVELS = 6, 3


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is written, and how what is read of it is compared."""

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]


def some_table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=300)
    numbers[7] = np.nan
    words = [f"sentence {i} é" for i in range(300)]
    return pd.DataFrame({"id": np.arange(300), "value": numbers, "text": words}).assign(flag=numbers > 0)


def some_head() -> Head:
    return Head(HeadConfig("rms", 1e-5), torch.ones(H), torch.zeros(H), torch.randn(9, H))


def some_jump(level: int = 0) -> NNJTC:
    generator = torch.Generator().manual_seed(level)
    down, up = torch.randn(H, 2, generator=generator), torch.randn(2, H, generator=generator)
    return NNJTC(down, up, *(torch.full((H,), number) for number in (1.0, 2.0, 3.0, 4.0)))


JSON = {"jump": 13, "scores": [0.5, -1.25, None], "by_metric": {"surprisal": 2}, "method": "n-njtc é"}
KINDS = [
    Kind("a.json", lambda path: write_json(path, JSON, PLAIN), lambda path: read_json(path, PLAIN)),
    Kind("a.parquet", lambda path: write_table(path, some_table()), lambda path: read_table(path).to_json()),
    Kind(
        "head.safetensors",
        lambda path: some_head().save(path),
        lambda path: str((head := Head.load(path)).config) + str(head.state_dict()),
    ),
    Kind(
        "level-00.safetensors",
        lambda path: save_shortcut(path, some_jump(), {"level": 0}),
        lambda path: str((jump := load_shortcut(path)).state_dict()) + str(jump),
    ),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@each_kind
def test_a_flipped_bit_is_noticed(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / kind.name
    kind.write(path)
    content, expected = path.read_bytes(), kind.read(path)
    generator = np.random.default_rng(0)
    for offset in generator.integers(len(content), size=300).tolist():
        damaged = bytearray(content)
        damaged[offset] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"(?s)delete .*run snakemake again") as caught:
            kind.read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert kind.read(path) == expected


@each_kind
def test_what_was_cut_off_or_added_is_noticed(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / kind.name
    kind.write(path)
    content = path.read_bytes()
    half = len(content) // 2
    wrong = [
        content[:-1],
        content[:half],
        content[:1],
        b"",
        content[1:],
        content + b"\n",
        b"\0" * len(content),
    ]
    for remains in [*wrong, content[:half] + b"\0" * half, content + content]:
        path.write_bytes(remains)
        with pytest.raises(DamagedFileError, match="run snakemake again"):
            kind.read(path)


@each_kind
def test_what_cannot_be_read_is_named(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / kind.name
    with pytest.raises(MissingFileError, match=f"{kind.name}: no such file") as caught:
        kind.read(path)
    # How Snakemake sees, while it plans, that a job will write the file.
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.filename == str(path)
    path.mkdir()
    with pytest.raises(OneJumpError, match=f"{kind.name}: cannot be read"):
        kind.read(path)


def test_files_of_an_older_onejump_are_refused(tmp_path: Path) -> None:
    save_file(
        {"matrix": torch.zeros(2, 2)}, tmp_path / "a.safetensors", metadata={"shortcut": '{"kind": "jtc"}'}
    )
    some_table().to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text('{"jump": 3}')
    for read, name in (
        (load_shortcut, "a.safetensors"),
        (read_table, "a.parquet"),
        (lambda path: read_json(path, PLAIN), "a.json"),
    ):
        with pytest.raises(
            OneJumpError, match=rf"{name}: no checksum in it.* older onejump .* snakemake again"
        ):
            read(tmp_path / name)


def test_a_checksum_is_that_of_the_whole_file_wherever_it_stands(tmp_path: Path) -> None:
    path, long = tmp_path / "file", b"x" * 3_000_000
    for content in (PLACEHOLDER.encode() + long, long + PLACEHOLDER.encode(), PLACEHOLDER.encode()):
        path.write_bytes(content)
        with pytest.raises(DamagedFileError):
            verify(path)
        stamp(path)
        verify(path)
        assert len(path.read_bytes()) == len(content)
    path.write_bytes(long + PLACEHOLDER.encode() + long)
    with pytest.raises(ValueError, match="no place for a checksum"):
        stamp(path)


def test_the_same_content_gives_the_same_file(tmp_path: Path) -> None:
    for kind in KINDS[:2] + KINDS[3:]:
        files = [tmp_path / str(i) / kind.name for i in range(2)]
        for file in files:
            kind.write(file)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_numbers_begin_alike_in_memory_whatever_is_said_about_them(tmp_path: Path) -> None:
    # Products of numbers that begin elsewhere round otherwise: a longer name must not change the last digits.
    for length in range(0, 64, 8):
        path = tmp_path / f"{length}.safetensors"
        write_tensors(path, PLAIN, {"a": torch.ones(3, 5)}, {"name": "x" * length})
        assert read_tensors(path, PLAIN).tensors["a"].data_ptr() % 64 == 0


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    some_head().save(tmp_path / "head.safetensors")
    save_shortcut(tmp_path / "jump.safetensors", some_jump(), {})
    with pytest.raises(OneJumpError, match=r"head\.safetensors: a shortcut was expected, .* name head"):
        load_shortcut(tmp_path / "head.safetensors")
    with pytest.raises(OneJumpError, match=r"jump\.safetensors: a head was expected, .* name shortcut"):
        Head.load(tmp_path / "jump.safetensors")
    write_tensors(tmp_path / "new.safetensors", SHORTCUT, {}, {"kind": "quantum", "config": {}})
    with pytest.raises(OneJumpError, match=r"kind 'quantum' given, accepted is one of affine, "):
        load_shortcut(tmp_path / "new.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    half = torch.ones(3, dtype=torch.float16)
    write_tensors(path, HEAD, {"gain": half, "norm_bias": torch.tensor([1.0, value])}, {})
    with pytest.raises(DamagedFileError, match=r"file\.safetensors: norm_bias: not all numbers are finite"):
        read_tensors(path, HEAD)
    save_shortcut(path, JTC(torch.full((2, 2), value)), {})
    with pytest.raises(DamagedFileError, match=r"file\.safetensors: matrix: not all numbers are finite"):
        load_shortcut(path)
    fits = [JTC(torch.eye(2)), JTC(torch.full((2, 2), value))]
    with pytest.raises(OneJumpError, match="the fit of jtc from level 1 is not finite"):
        save_shortcuts(tmp_path / "jtc", fits, {}, levels=2, one=False)
    assert not (tmp_path / "jtc").exists()


def test_a_folder_knows_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "n-njtc"
    save_shortcuts(folder, map(some_jump, range(LEVELS)), {}, levels=LEVELS, one=False)
    assert len(ShortcutFolder(folder).low_rank()) == LEVELS
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in content:  # the last one, the first one, one between
        (folder / name).unlink()
        message = f"n-njtc: {name}: missing .*3 levels .*: delete the folder .*n-njtc and run snakemake"
        with pytest.raises(DamagedFileError, match=message):
            ShortcutFolder(folder)
        (folder / name).write_bytes(content[name])
    (folder / "level-03.safetensors").write_bytes(content["level-02.safetensors"])
    with pytest.raises(DamagedFileError, match=r"level-03\.safetensors: too many"):
        ShortcutFolder(folder)
    (folder / "level-03.safetensors").unlink()
    (folder / "level-01.safetensors").write_bytes(content["level-02.safetensors"])
    with pytest.raises(DamagedFileError, match=r"level-01.*: the shortcut from level 2 of 3 is in it"):
        ShortcutFolder(folder).load(1)
    (folder / "level-01.safetensors").write_bytes(content["level-01.safetensors"][:-1])
    with pytest.raises(DamagedFileError, match=r"level-01.*delete the folder .*n-njtc and run snakemake"):
        ShortcutFolder(folder).numbers()


def test_as_many_shortcuts_as_announced(tmp_path: Path) -> None:
    for one, levels in ((False, 2), (True, 2)):
        with pytest.raises(ValueError, match="shortcuts were expected"):
            save_shortcuts(tmp_path / "folder", [Identity()] * 3, {}, levels=levels, one=one)
        assert not (tmp_path / "folder").exists()
