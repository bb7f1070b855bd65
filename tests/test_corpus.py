"""Documents, their sentences, and the split."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onejump.corpus import (
    Document,
    build_corpus,
    read_dataset,
    read_documents,
    read_standard_library,
    split_sentences,
)
from onejump.errors import CorpusError

A, B = "A first text, long enough.", "A second text, long enough."


def read(path: Path, text: str = "text") -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in read_documents(path, text)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def numbered(documents: int, sentences: int) -> list[Document]:
    return [
        Document(f"d{d}", " ".join(f"This is sentence {s} of document {d}." for s in range(sentences)))
        for d in range(documents)
    ]


def sentences_of(text: str, language: str = "en") -> list[str]:
    """Every sentence of a text: as many as can be asked for without an error."""
    found: list[str] = []
    while True:
        asked = len(found) + 1
        try:
            table = split_sentences(
                [Document("one", text)], training=0, validation=asked, language=language, min_characters=1
            )
        except CorpusError:
            return found
        found = table["sentence"].tolist()


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


# Sentences


def test_sentences_are_stripped_and_their_white_space_collapsed() -> None:
    assert sentences_of("One  line\n goes\ton. \n\n\u200d\u2060Next \u00adone!  ") == [
        "One line goes on.",
        "Next one!",
    ]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("CHAPTER I\n\nIt began at\nOxford. Then\nmore.", "en", ["It began at Oxford.", "Then more."]),
        ("It has one form:\n\nThis ends.\n\nIt is denoted by", "en", ["This ends."]),
        ('He said "no." It was (late.) Noted.[1][2]', "en", ['He said "no."', "It was (late.) Noted.[1][2]"]),
        (" = Heading = \n\nTokenised , as wikitext is . ", "en", ["Tokenised , as wikitext is ."]),
        ("今天很好。明天见！", "zh", ["今天很好。", "明天见！"]),
        ("สวัสดีครับ", "th", ["สวัสดีครับ"]),
        ("Τι κάνεις; Καλά είμαι.", "el-GR", ["Τι κάνεις;", "Καλά είμαι."]),
    ],
)
def test_what_is_a_sentence(text: str, language: str, expected: list[str]) -> None:
    assert sentences_of(text, language) == expected


def test_a_heading_before_an_unwrapped_paragraph_is_left_out() -> None:
    paragraph = "Before " + "and before " * 20 + "it was."
    assert sentences_of(f"Early era \n{paragraph}\nLater era\nShort end.") == [paragraph, "Short end."]
    assert sentences_of(f"{paragraph[:-1]} a\nlower line.") == [f"{paragraph[:-1]} a lower line."]


def test_the_limits_of_length_are_inclusive() -> None:
    text = "Four. Fives. Sixsix. Seven77."
    table = split_sentences(
        [Document("one", text)], training=0, validation=2, min_characters=6, max_characters=7
    )
    assert table["sentence"].tolist() == ["Fives.", "Sixsix."]
    with pytest.raises(CorpusError, match="2 sentences found in 1 documents"):
        split_sentences([Document("one", text)], training=0, validation=3, min_characters=6, max_characters=7)


@pytest.mark.parametrize("language", ["english", "", "f", "12", "\n"])
def test_a_language_is_a_code(language: str) -> None:
    with pytest.raises(CorpusError, match="ISO 639"):
        split_sentences(numbered(4, 4), training=1, validation=1, language=language)


@pytest.mark.parametrize("document", [Document("half \ud83d", A), Document("one", f"half \ud83d {A}")])
def test_a_lone_surrogate_is_an_error(document: Document) -> None:
    with pytest.raises(CorpusError, match="lone surrogate"):
        split_sentences([document], training=0, validation=1)


# The split

words = st.sampled_from(["Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta"])
sentence_texts = st.lists(words, min_size=4, max_size=8).map(lambda chosen: " ".join(chosen) + ".")
document_texts = st.lists(sentence_texts, max_size=6).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(st.lists(document_texts, max_size=12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
def test_the_split(texts: list[str], training: int, validation: int, seed: int) -> None:
    documents = [Document(f"d{number}", text) for number, text in enumerate(texts)]
    try:
        table = split_sentences(documents, training=training, validation=validation, seed=seed)
    except CorpusError:
        assume(False)
    assert list(table.columns) == ["sentence_id", "document", "sentence", "split"]
    assert table["sentence_id"].dtype == "int64"
    assert table["sentence_id"].tolist() == list(range(training + validation))
    assert table["split"].tolist() == ["training"] * training + ["validation"] * validation
    assert not table["sentence"].duplicated().any()
    sides = table.groupby("split")["document"].agg(set)
    assert sides["training"].isdisjoint(sides["validation"])
    by_id = dict(documents)
    assert all(s in by_id[d] for d, s in zip(table["document"], table["sentence"], strict=True))
    again = split_sentences(iter(documents), training=training, validation=validation, seed=seed)
    pd.testing.assert_frame_equal(table, again)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 10), st.integers(1, 10))
def test_the_split_fails_only_where_whole_documents_cannot_fill_it(
    documents: int, sentences: int, training: int, validation: int
) -> None:
    needed = -(-training // sentences) + -(-validation // sentences)
    try:
        split_sentences(numbered(documents, sentences), training=training, validation=validation)
    except CorpusError:
        assert needed > documents
    else:
        assert needed <= documents


def test_the_seed_decides() -> None:
    first, same, other = (
        split_sentences(numbered(30, 3), training=9, validation=9, seed=seed) for seed in (0, 0, 1)
    )
    assert first.equals(same)
    assert set(first["document"]) != set(other["document"])


def test_the_validation_sentences_do_not_depend_on_the_size_of_training() -> None:
    small, large = (
        split_sentences(numbered(30, 3), training=training, validation=10).query("split == 'validation'")
        for training in (1, 60)
    )
    assert small["sentence"].tolist() == large["sentence"].tolist()


def test_a_sentence_seen_in_any_document_counts_once() -> None:
    documents = [Document(f"d{d}", f"{A} This is document number {d}.") for d in range(4)]
    table = split_sentences(documents, training=3, validation=2)
    assert (table["sentence"] == A).sum() == 1


def test_no_more_documents_are_read_than_asked_for() -> None:
    def documents() -> Iterator[Document]:
        yield from numbered(4, 2)
        pytest.fail("a fifth document was read")

    assert len(split_sentences(documents(), training=4, validation=4, max_documents=4)) == 8


def test_no_more_documents_are_cut_than_needed() -> None:
    """Half of the documents would raise; the first in the seed's order do not."""
    good = split_sentences(numbered(20, 2), training=2, validation=2)["document"].tolist()
    documents = [d if d.id in good else Document(d.id, "\ud83d") for d in numbered(20, 2)]
    assert split_sentences(documents, training=2, validation=2)["document"].tolist() == good


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "0 sentences found in 0 documents, which fill 0 of the 3 asked .* 0 of the 5 for training"),
        (
            numbered(2, 4),
            "8 sentences found in 2 documents, which fill 3 of the 3 .* 4 of the 5 for training",
        ),
        (numbered(12, 1), r"7 sentences found in 7 documents \(max_documents: 7\)"),
    ],
)
def test_too_few_sentences_are_counted(documents: list[Document], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        split_sentences(documents, training=5, validation=3, max_documents=7)


def test_two_documents_with_one_id_are_refused() -> None:
    with pytest.raises(CorpusError, match="one id"):
        split_sentences([Document("one", A), Document("one", B)], training=1, validation=1)


# The stage


def test_the_stage_writes_a_table_from_files(tmp_path: Path) -> None:
    path = tmp_path / "wiki.json"
    write(path, json.dumps({d.id: {"extract": d.text} for d in numbered(10, 5)}))
    source = {"path": str(path), "text": "extract", "dataset": None}
    output = tmp_path / "results" / "sentences.parquet"
    build_corpus(output, source=source, training=20, validation=10, seed=3)
    table = pd.read_parquet(output)
    expected = split_sentences(read_documents(path, "extract"), training=20, validation=10, seed=3)
    pd.testing.assert_frame_equal(table, expected)
    assert table["document"].str.startswith("wiki.json#d").all()
    build_corpus(tmp_path / "again.parquet", source=source, training=20, validation=10, seed=3)
    assert (tmp_path / "again.parquet").read_bytes() == output.read_bytes()


def test_the_stage_writes_a_table_from_a_dataset(tmp_path: Path, dataset: Any) -> None:
    dataset.save_to_disk(tmp_path / "saved")
    source = {"path": None, "dataset": str(tmp_path / "saved"), "split": "train", "text": "body"}
    build_corpus(tmp_path / "out.parquet", source=source, training=1, validation=1)
    assert set(pd.read_parquet(tmp_path / "out.parquet")["sentence"]) == {A, B}


def test_the_stage_leaves_the_old_table_when_it_fails(tmp_path: Path) -> None:
    output = write(tmp_path / "out.parquet", "old")
    with pytest.raises(CorpusError, match="0 sentences"):
        build_corpus(output, source={"path": write(tmp_path / "a.txt", "")}, training=1, validation=1)
    with pytest.raises(
        CorpusError, match="source: text given, path, dataset or standard_library was expected"
    ):
        build_corpus(output, source={"text": "body", "path": None}, training=1, validation=1)
    assert output.read_text() == "old"


def test_paragraphs_keep_their_lines_and_indents() -> None:
    code = "import os\n\n\ndef first():\n    return os.name\n  \n\tdeep = 1\n\tdeeper = 2\n"
    documents = [Document("a.py", code), Document("b.py", "x = 1\ny = 2\n\nz = 3\n\nw = 4")]
    whole = split_sentences(documents, training=3, validation=3, unit="paragraph", min_characters=1)
    assert set(whole["sentence"]) == {
        "import os",
        "def first():\n    return os.name",
        "\tdeep = 1\n\tdeeper = 2",
        "x = 1\ny = 2",
        "z = 3",
        "w = 4",
    }


def test_other_units_are_refused() -> None:
    with pytest.raises(CorpusError, match="unit: 'word' given, accepted is one of sentence, paragraph"):
        split_sentences([Document("a", A)], training=1, validation=1, unit="word")


def test_standard_library_is_source_code_without_tests() -> None:
    documents = {document.id: document.text for document in read_standard_library()}
    assert documents["json/decoder.py"] == Path(json.decoder.__file__).read_text(encoding="utf-8")
    assert not [name for name in documents if "site-packages" in name or "/tests/" in name]


def test_source_code_makes_a_corpus(tmp_path: Path) -> None:
    write(tmp_path / "code" / "a.py", "def first():\n    return 1\n")
    write(tmp_path / "code" / "b.py", "def second():\n    return 2\n")
    source = {"path": str(tmp_path / "code"), "standard_library": None}
    build_corpus(tmp_path / "c.parquet", source=source, training=1, validation=1, unit="paragraph")
    assert set(pd.read_parquet(tmp_path / "c.parquet")["document"]) == {"a.py", "b.py"}
