"""A file says what it is: another version, kind, key or model is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from stage_files import describe_as, select

from onejump.base import files
from onejump.base.errors import FormatError, MissingFileError, OneJumpError, OutdatedFileError
from onejump.base.files import read_json, read_table, write_json, write_table
from onejump.base.format import FORMAT, KIND, MODEL, SELECTION, TABLE, Format
from onejump.base.identity import model_digest_in, one_model
from onejump.base.tensors import write_tensors
from onejump.data import shard_layout, shard_writer
from onejump.data.corpus import SUMMARY
from onejump.data.shard_writer import ShardWriter
from onejump.data.store import ActivationStore
from onejump.models.description import known_description, read_description
from onejump.models.head import HEAD, Head, HeadConfig
from onejump.shortcuts.files import SHORTCUT, ShortcutFolder, load_shortcut, save_shortcut, save_shortcuts
from onejump.shortcuts.kinds.jtc import JTC

H = 4
ONE, OTHER = "sha256:" + 64 * "1", "commit:" + 40 * "2"


def some_head(model_digest: str | None = None) -> Head:
    head = Head(HeadConfig("rms", 1e-5), torch.ones(H), torch.zeros(H), torch.eye(H))
    head.model_digest = model_digest
    return head


def write_shard(path: Path, model_digest: str | None = None) -> None:
    stated = {} if model_digest is None else {"model_digest": model_digest}
    with ShardWriter(path, levels=2, samples=3, hidden=H, top_k=1, attributes=stated) as writer:
        one, wide = np.arange(3), np.zeros((3, 1))
        states = np.ones((2, 3, H), np.float32)
        of_samples = {"sentence": one, "position": one, "token": one, "logsumexp": one}
        writer.append(states, top_tokens=wide, top_logits=wide, **of_samples)


def write_folder(path: Path, model_digest: str | None = None) -> None:
    save_shortcuts(path, [JTC(torch.eye(H))], {}, levels=1, one=False, model_digest=model_digest)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is written and read."""

    name: str
    form: Format
    write: Callable[[Path, str | None], object]
    read: Callable[[Path], object]


def described(path: Path, model_digest: str | None) -> None:
    describe_as(path, **({} if model_digest is None else {"model_digest": model_digest}))


KINDS = [
    Kind("model.json", MODEL, described, read_description),
    Kind(
        "selection.json",
        SELECTION,
        lambda path, digest: select(path, model_digest=digest),
        lambda path: read_json(path, SELECTION),
    ),
    Kind(
        "table.parquet",
        TABLE,
        lambda path, digest: write_table(path, pd.DataFrame({"a": [1]}), model_digest=digest),
        read_table,
    ),
    Kind("head.safetensors", HEAD, lambda path, digest: some_head(digest).save(path), Head.load),
    Kind(
        "level-00.safetensors",
        SHORTCUT,
        lambda path, digest: save_shortcut(path, JTC(torch.eye(H)), {}, model_digest=digest),
        load_shortcut,
    ),
    Kind("jtc", SHORTCUT, write_folder, lambda path: ShortcutFolder(path).load(0)),
    Kind("0.zarr", shard_layout.ACTIVATIONS, write_shard, lambda path: ActivationStore([path])),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@each_kind
@pytest.mark.parametrize("version", [None, 0, 99, "two"])
def test_another_version_is_told(
    kind: Kind, version: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / kind.name
    with monkeypatch.context() as other_onejump:
        stated = {KIND: kind.form.kind} | ({} if version is None else {FORMAT: version})
        other_onejump.setattr(Format, "statement", lambda *_: dict(stated))
        for module in (files, shard_writer):  # what it writes is in order for it
            other_onejump.setattr(module, "check_keys", lambda *_: None)
        kind.write(path, None)
    newer = version == 99
    with pytest.raises(FormatError if newer else OutdatedFileError) as caught:
        kind.read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    found = "no format" if version is None else f"format {version!r}"
    reads = f"{found} of the kind {kind.form.kind!r} found, this onejump reads format {kind.form.version}"
    assert reads in message
    assert ("update onejump, or" if newer else "so an older one wrote this file:") in message
    assert message.endswith("run snakemake again")
    assert "\n" not in message


@each_kind
def test_another_kind_of_file_is_told(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / kind.name
    with monkeypatch.context() as other:
        other.setattr(Format, "statement", lambda *_: {KIND: "pancake", FORMAT: 1})
        kind.write(path, None)
    with pytest.raises(FormatError, match=r"pancake"):
        kind.read(path)


@each_kind
def test_a_file_states_its_model(kind: Kind, tmp_path: Path) -> None:
    one, other, silent = (tmp_path / folder / kind.name for folder in ("one", "other", "silent"))
    for path in (one, other, silent):
        path.parent.mkdir()
    kind.write(one, ONE)
    kind.write(other, OTHER)
    assert (model_digest_in(one), model_digest_in(other)) == (ONE, OTHER)
    assert one_model(one, None, one) == ONE
    if kind.form is not MODEL:
        kind.write(silent, None)
        assert one_model(silent) is None
        assert one_model(silent, other, silent) == OTHER
    message = (
        f"{one} and {other} belong to different models (sha256:111111111111 and commit:222222222222), files "
        "of one model were expected: was one of them copied from another study?"
    )
    with pytest.raises(OneJumpError) as caught:
        one_model(one, one, other)
    assert str(caught.value) == message
    read = kind.read(one)
    assert getattr(read, "model_digest", ONE) == ONE
    with pytest.raises(MissingFileError):
        model_digest_in(tmp_path / "missing" / kind.name)


def test_an_unreadable_file_has_no_model(tmp_path: Path) -> None:
    for name in ("a.json", "a.parquet", "a.safetensors"):
        (tmp_path / name).write_text("[1]")
        with pytest.raises(OneJumpError, match=f"{name}: not readable, so its model is not known"):
            model_digest_in(tmp_path / name)


def test_unknown_and_missing_keys_are_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = dict.fromkeys(SELECTION.keys)
    for keys, said in (
        (content | {"colour": 1}, "unknown: colour"),
        ({key: None for key in content if key != "jump"}, "missing: jump"),
    ):
        write_json(path, keys, SELECTION)
        with pytest.raises(FormatError, match=rf"file: its keys are not .*{said}.*known: jump, score"):
            read_json(path, SELECTION)
    head = some_head()
    config = asdict(head.config)
    for kept, said in ((config | {"colour": 1}, "unknown: colour"), ({"norm": "rms"}, "missing: eps, scale")):
        write_tensors(path, HEAD, head.state_dict(), kept)
        with pytest.raises(FormatError, match=said):
            Head.load(path)
    write_tensors(path, HEAD, {**head.state_dict(), "colour": torch.ones(1)}, config)
    with pytest.raises(FormatError, match="unknown: colour"):
        Head.load(path)
    for about, said in (({"kind": "jtc"}, "missing: config"), ({"kind": "jtc", "config": {}, "x": 1}, "x")):
        write_tensors(path, SHORTCUT, {"matrix": torch.eye(H)}, about)
        with pytest.raises(FormatError, match=said):
            load_shortcut(path)
    with pytest.raises(FormatError, match="unknown: colour"):
        save_shortcut(path, JTC(torch.eye(H)), {"colour": 1})
    with pytest.raises(FormatError, match="unknown: colour"):
        ShardWriter(path / "s", levels=1, samples=1, hidden=1, top_k=1, attributes={"colour": 1})


def test_an_older_description_counts_as_missing_while_snakemake_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.json"
    assert known_description(path) is None
    with monkeypatch.context() as older:
        older.setattr(Format, "statement", lambda *_: {})
        describe_as(path)
    assert known_description(path) is None
    with pytest.raises(FileNotFoundError) as caught:
        read_description(path)
    assert caught.value.filename == str(path)  # by this Snakemake knows it
    describe_as(path, blocks=7)
    assert known_description(path) == read_description(path)
    write_json(path, {"training": {}}, SUMMARY)
    with pytest.raises(FormatError, match="'model' was expected, its kind is 'corpus-summary'"):
        known_description(path)


def test_one_file_of_another_model_in_a_folder_is_told(tmp_path: Path) -> None:
    jumps = [JTC(torch.eye(H)), JTC(torch.eye(H))]
    for name, digest in (("one", ONE), ("other", OTHER)):
        save_shortcuts(tmp_path / name, jumps, {}, levels=2, one=False, model_digest=digest)
    name = "level-01.safetensors"
    (tmp_path / "other" / name).replace(tmp_path / "one" / name)
    folder = ShortcutFolder(tmp_path / "one")
    assert folder.load(0).model_digest == ONE
    with pytest.raises(OneJumpError, match=rf"one and .*{name} belong to different models"):
        folder.load(1)
