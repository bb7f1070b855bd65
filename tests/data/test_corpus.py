"""The stage: sentences of both splits, and how they spread over documents."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onejump.base.errors import CorpusError
from onejump.base.files import read_json
from onejump.data.corpus import (
    SUMMARY,
    SentenceOptions,
    TextSource,
    build_corpus,
    describe_splits,
    split_sentences,
    warnings_of_splits,
)
from onejump.data.documents import Document, read_documents

A, B = "A first text, long enough.", "A second text, long enough."


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def numbered(documents: int, sentences: int) -> list[Document]:
    return [
        Document(f"d{d}", " ".join(f"This is sentence {s} of document {d}." for s in range(sentences)))
        for d in range(documents)
    ]


def test_the_limits_of_length_are_inclusive() -> None:
    documents = [Document(f"d{d}", f"{d:02d}ur. {d:02d}ves. {d:02d}xsix. {d:02d}ven77.") for d in range(60)]
    table = split_sentences(documents, training=10, validation=10, min_characters=6, max_characters=7)
    assert set(table["sentence"].str.slice(2)) == {"ves.", "xsix."}


@pytest.mark.parametrize("language", ["english", "", "f", "12", "\n", "qq", "xx-US"])
def test_a_language_is_a_code(language: str) -> None:
    with pytest.raises(CorpusError, match="ISO 639"):
        split_sentences(numbered(4, 4), training=1, validation=1, language=language)


# The split

words = st.sampled_from(["Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta"])
sentence_texts = st.lists(words, min_size=4, max_size=8).map(lambda chosen: " ".join(chosen) + ".")
document_texts = st.lists(sentence_texts, max_size=6).map(" ".join)


@settings(deadline=None, max_examples=100)
@given(st.lists(document_texts, max_size=12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 9))
def test_the_split(texts: list[str], training: int, validation: int, seed: int) -> None:
    # The drawn ones may be too few for a split: the numbered ones are enough.
    documents = [Document(f"t{number}", text) for number, text in enumerate(texts)] + numbered(25, 5)
    table = split_sentences(documents, training=training, validation=validation, seed=seed)
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


def test_the_seed_decides() -> None:
    first, same, other = (
        split_sentences(numbered(60, 3), training=9, validation=9, seed=seed) for seed in (0, 0, 1)
    )
    assert first.equals(same)
    assert set(first["document"]) != set(other["document"])


def test_the_validation_sentences_do_not_depend_on_the_size_of_training() -> None:
    small, large = (
        split_sentences(numbered(90, 3), training=training, validation=10).query("split == 'validation'")
        for training in (1, 60)
    )
    assert small["sentence"].tolist() == large["sentence"].tolist()


def test_no_more_documents_are_read_than_asked_for() -> None:
    def documents() -> Iterator[Document]:
        yield from numbered(40, 2)
        pytest.fail("another document was read")

    assert len(split_sentences(documents(), training=4, validation=4, max_documents=40)) == 8


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            [],
            "0 of the 5 sentences asked for training, in 0 documents and 0 of the 3 .* found in 0 documents",
        ),
        (numbered(12, 40), r"of the 1000 sentences .* found in 7 documents \(max_documents: 7\).*give more"),
    ],
)
def test_too_few_sentences_are_counted(documents: list[Document], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        split_sentences(documents, training=1000 if documents else 5, validation=3, max_documents=7)


# How the sentences spread


def test_how_the_sentences_spread_over_documents() -> None:
    rows = [("a", "training")] * 3 + [("b", "training")] + [("c", "validation")] * 2
    described = describe_splits(pd.DataFrame(rows, columns=["document", "split"]))
    assert described == {
        "training": {"sentences": 4, "documents": 2, "largest_share": 0.75},
        "validation": {"sentences": 2, "documents": 1, "largest_share": 1.0},
    }


def test_few_documents_and_large_ones_are_warned_of() -> None:
    enough = {"sentences": 300, "documents": 100, "largest_share": 0.01}
    assert warnings_of_splits({"training": enough}) == []
    few, large = enough | {"documents": 6}, enough | {"largest_share": 0.53}
    assert [line[:47] for line in warnings_of_splits({"training": few, "validation": large})] == [
        "training: 300 sentences of 6 documents: under 3",
        "validation: 300 sentences of 100 documents, 53%",
    ]


# The stage


def test_the_stage_writes_a_table_from_files(tmp_path: Path) -> None:
    path = tmp_path / "wiki.json"
    write(path, json.dumps({d.id: {"extract": d.text} for d in numbered(30, 5)}))
    source = TextSource(path=str(path), text="extract")
    options = SentenceOptions(training=20, validation=10)
    output = tmp_path / "results" / "sentences.parquet"
    build_corpus(output, source=source, options=options, seed=3)
    table = pd.read_parquet(output)
    expected = split_sentences(read_documents(path, "extract"), training=20, validation=10, seed=3)
    pd.testing.assert_frame_equal(table, expected)
    assert table["document"].str.startswith("wiki.json#d").all()
    build_corpus(
        tmp_path / "again.parquet", source=TextSource(text="extract"), options=options, file=path, seed=3
    )
    assert (tmp_path / "again.parquet").read_bytes() == output.read_bytes()


def test_the_stage_writes_a_table_from_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    texts = [document.text for document in numbered(20, 3)]
    datasets.Dataset.from_dict({"body": texts}).save_to_disk(tmp_path / "saved")
    source = TextSource(dataset=str(tmp_path / "saved"), text="body")
    build_corpus(tmp_path / "out.parquet", source=source, options=SentenceOptions(training=3, validation=3))
    assert pd.read_parquet(tmp_path / "out.parquet")["document"].str.startswith("train#").all()


def test_the_stage_leaves_the_old_table_when_it_fails(tmp_path: Path) -> None:
    output = write(tmp_path / "out.parquet", "old")
    options = SentenceOptions(training=1, validation=1)
    with pytest.raises(CorpusError, match="too little text: 0 of the 1 sentences"):
        build_corpus(output, source=TextSource(path=str(write(tmp_path / "a.txt", ""))), options=options)
    with pytest.raises(
        CorpusError, match="source: nothing given, path, dataset or standard_library was expected"
    ):
        build_corpus(output, source=TextSource(text="body"), options=options)
    assert output.read_text() == "old"


def test_other_units_are_refused() -> None:
    with pytest.raises(CorpusError, match="unit: 'word' given, accepted is one of sentence, paragraph"):
        split_sentences([Document("a", A)], training=1, validation=1, unit="word")


def test_source_code_makes_a_corpus(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(20):
        write(
            tmp_path / "code" / f"{number}.py",
            f"def first():\n    return {number}\n\nnumber = {number}000000000000",
        )
    source = TextSource(path=str(tmp_path / "code"))
    options = SentenceOptions(training=3, validation=1, unit="paragraph")
    summary = tmp_path / "c.json"
    with caplog.at_level(logging.INFO):
        build_corpus(tmp_path / "c.parquet", summary, source=source, options=options)
    table = pd.read_parquet(tmp_path / "c.parquet")
    assert table["document"].str.endswith(".py").all()
    assert read_json(summary, SUMMARY) == describe_splits(table)
    assert "training: 3 sentences of 3 documents, at most 33% of one" in caplog.text
    assert "validation: 1 sentences of 1 documents: under 30 documents" in caplog.text
