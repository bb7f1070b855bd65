"""Reading documents: files, folders, the standard library, datasets."""

from __future__ import annotations

import builtins
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from onejump.base.errors import CorpusError
from onejump.data import documents, text_files
from onejump.data.documents import read_dataset, read_documents, read_standard_library
from onejump.data.text_files import regular_files, standard_library_state
from onejump.models.source_files import digest_of_files

A, B = "A first text, long enough.", "A second text, long enough."


def read(path: Path, text: str = "text") -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in read_documents(path, text)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Reading files


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.TXT", f"\ufeff{A}\n{B}")) == [("a.TXT", f"{A}\n{B}")]


def test_json_lines_are_named_by_their_line(tmp_path: Path) -> None:
    lines = json.dumps({"body": A}) + "\n\n" + json.dumps({"body": B, "n": 1})
    assert read(write(tmp_path / "a.jsonl", lines), "body") == [("a.jsonl#1", A), ("a.jsonl#3", B)]


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ([{"text": A}, B], ["a.json#0", "a.json#1"]),
        ({"Beowulf": {"title": "Beowulf", "text": A}, "Moai": B}, ["a.json#Beowulf", "a.json#Moai"]),
    ],
)
def test_json_is_a_list_or_a_mapping(tmp_path: Path, content: Any, ids: list[str]) -> None:
    assert read(write(tmp_path / "a.json", json.dumps(content))) == list(zip(ids, (A, B), strict=True))


def test_parquet_rows_run_on_over_batches(tmp_path: Path) -> None:
    texts = [f"Text number {number}." for number in range(70_000)]
    pd.DataFrame({"other": 0, "text": texts}).to_parquet(tmp_path / "a.parquet")
    documents = read(tmp_path / "a.parquet")
    assert documents == [(f"a.parquet#{number}", text) for number, text in enumerate(texts)]


def test_a_folder_is_read_recursively_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", ".hidden.txt", ".git/c.txt", "notes.md"):
        write(tmp_path / name, name)
    write(tmp_path / "a" / "c.json", json.dumps([A]))
    (tmp_path / "folder.txt").mkdir()
    assert read(tmp_path) == [("a/c.json#0", A), ("a/z.txt", "a/z.txt"), ("b.txt", "b.txt")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "text",
            r"a\.csv: suffix '\.csv' given; accepted are \.txt, \.py, \.jsonl, \.json, \.parquet",
        ),
        ("a.txt", b"good \xff bad", r"a\.txt: no UTF-8 at byte 5"),
        ("a.json", b'["\xff"]', r"a\.json: no UTF-8 at byte 2"),
        ("a.jsonl", b'"good"\n"\xff"\n', r"a\.jsonl: no UTF-8 at byte 8"),
        ("a.json", '[\n"a",\n?]', r"a\.json: no JSON at line 3: Expecting value"),
        ("a.json", "[" * 100_000, r"a\.json: no JSON at line 1"),
        ("a.jsonl", '"a"\n{"text": \n', r"a\.jsonl: no JSON at line 2"),
        ("a.json", '"text"', r"a\.json: str given, a list or a mapping"),
        ("a.json", '[{"title": "", "extract": ""}]', r"a\.json#0: no 'text'; there is: title, extract"),
        ("a.jsonl", '"a"\n{}', r"a\.jsonl#2: no 'text'; there is: nothing"),
        ("a.json", '{"Moai": {"text": 3}}', r"a\.json#Moai: 'text' holds int, a string was expected"),
        ("a.json", '[{"text": null}]', r"a\.json#0: 'text' holds NoneType"),
        ("a.json", "[3]", r"a\.json#0: int given, an object with 'text' or a string"),
        ("a.parquet", "no parquet", r"a\.parquet: unreadable parquet after row 0"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        read(write(tmp_path / name, content))


def test_a_wrong_parquet_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"title": [A], "number": [1]}).to_parquet(path)
    with pytest.raises(CorpusError, match="no column 'text'; there is: title, number"):
        read(path)
    with pytest.raises(CorpusError, match=r"a\.parquet#0: 'number' holds int"):
        read(path, "number")


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere: no such file or folder"):
        read(tmp_path / "nowhere")
    write(tmp_path / "notes.md", A)
    with pytest.raises(
        CorpusError, match=r"no readable file in this folder; accepted are \.txt, \.py, \.jsonl"
    ):
        read(tmp_path)


# Reading datasets


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets.Dataset.from_dict({"body": [A, B], "number": [1, 2]})


def test_a_dataset_saved_to_disk(tmp_path: Path, dataset: Any) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    documents = list(read_dataset(str(tmp_path / "saved"), None, "train", "body"))
    assert documents == [("train#0", A), ("train#1", B)]


def test_a_split_of_a_dataset_dict_saved_to_disk(tmp_path: Path, dataset: Any) -> None:
    import datasets

    both = datasets.DatasetDict({"train": dataset, "test": dataset.select([1])})
    both.save_to_disk(tmp_path / "saved")
    assert list(read_dataset(str(tmp_path / "saved"), None, "test", "body")) == [("test#0", B)]
    with pytest.raises(CorpusError, match="no split 'dev'; there is: train, test"):
        next(read_dataset(str(tmp_path / "saved"), None, "dev", "body"))


def test_a_dataset_in_a_folder_of_parquet_files(tmp_path: Path, dataset: Any) -> None:
    (tmp_path / "files").mkdir()
    dataset.to_parquet(tmp_path / "files" / "train-00000-of-00001.parquet")
    assert [d.text for d in read_dataset(str(tmp_path / "files"), None, "train", "body")] == [A, B]
    assert [d.text for d in read_dataset(str(tmp_path / "files"), None, "train[1:]", "body")] == [B]
    with pytest.raises(CorpusError, match=r"dataset .*files \(subset None, split dev\): .*[^\n]*train"):
        next(read_dataset(str(tmp_path / "files"), None, "dev", "body"))


def test_a_wrong_column_of_a_dataset(tmp_path: Path, dataset: Any) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    with pytest.raises(CorpusError, match="no column 'text'; there is: body, number"):
        next(read_dataset(str(tmp_path / "saved"), None, "train", "text"))
    with pytest.raises(CorpusError, match="train#0: 'number' holds int"):
        next(read_dataset(str(tmp_path / "saved"), None, "train", "number"))


def test_a_dataset_that_is_not_there_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(CorpusError, match=r"^dataset x/y \(subset z, split train\): no route to the hub$"):
        next(read_dataset("x/y", "z", "train", "text"))


def test_a_missing_datasets_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_datasets(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(CorpusError, match=r"pip install 'onejump\[hub\]'"):
        next(read_dataset("x/y", None, "train", "text"))


def test_standard_library_is_source_code_without_tests() -> None:
    documents = {document.id: document.text for document in read_standard_library()}
    assert documents["json/decoder.py"] == Path(json.decoder.__file__).read_text(encoding="utf-8")
    assert not [name for name in documents if "site-packages" in name or "/tests/" in name]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe would be waited for, and a device never ends; the suffix does not help."""
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    for name in ("pipe.txt", "zero.txt"):
        with pytest.raises(CorpusError, match=f"{name}: a pipe, socket or device"):
            read(tmp_path / name)
    write(tmp_path / "a.txt", A)
    assert read(tmp_path) == [("a.txt", A)]


def test_links_between_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "b.txt", B)
    write(tmp_path / "texts" / "a.txt", A)
    (tmp_path / "texts" / "again").symlink_to(tmp_path / "texts")
    (tmp_path / "texts" / "there").symlink_to(tmp_path / "elsewhere")
    assert read(tmp_path / "texts") == [("a.txt", A), ("there/b.txt", B)]
    (tmp_path / "texts" / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"gone\.txt: a link that leads nowhere"):
        read(tmp_path / "texts")


def test_names_of_any_bytes_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff{a}.txt")
    write(tmp_path / name, A)
    (document,) = read(tmp_path)
    assert document == ("\\udcff{a}.txt", A)
    assert digest_of_files(list(regular_files(tmp_path).values()), tmp_path).startswith("sha256:")


def test_a_document_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 1 << 20)
    line = json.dumps("word " * 200_000)
    assert read(write(tmp_path / "a.jsonl", line))[0][1].startswith("word word")
    for name, content in (("b.jsonl", f'"{A}"\n' + line * 2), ("b.txt", "word " * 300_000)):
        with pytest.raises(CorpusError, match=r"b\.\w+(, line 2)?: a document of more than 1 MiB; .* cut it"):
            read(write(tmp_path / name, content))


def test_the_state_of_the_standard_library_is_that_of_a_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = standard_library_state()
    assert before == standard_library_state()
    monkeypatch.setattr(text_files.sys, "version", "3.99.1 (main)")
    other_version = standard_library_state()
    write(tmp_path / "json.py", A)
    monkeypatch.setattr(text_files.sysconfig, "get_path", lambda _: str(tmp_path))
    assert len({before, other_version, standard_library_state()}) == 3
