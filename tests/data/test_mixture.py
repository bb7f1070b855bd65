"""Mixtures of corpora: shares, sides, and what two parts have in common."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onejump.base.errors import CorpusError, OneJumpError
from onejump.base.files import read_json, read_table, write_table
from onejump.base.shares import divided
from onejump.data.corpus import SUMMARY, split_sentences
from onejump.data.document_roles import assign_documents
from onejump.data.documents import Document
from onejump.data.generated_rows import generated_rows, prompt_lengths, tokens_of_rows
from onejump.data.mixture import Part, mix_corpora, mixed


def written(documents: range, kind: str = "sentence") -> list[Document]:
    return [
        Document(f"d{d}", " ".join(f"This is {kind} {s} of document {d}." for s in range(4)))
        for d in documents
    ]


def corpus(documents: range, training: int, validation: int, kind: str = "sentence") -> pd.DataFrame:
    return split_sentences(written(documents, kind), training=training, validation=validation)


def generated_by(prompts: pd.DataFrame) -> pd.DataFrame:
    """A text for each prompt, as the stage "generated corpus" writes it."""
    tokens = [np.array([1, row, row + 1, 2], np.int32) for row in range(len(prompts))]
    return pd.DataFrame(
        {
            "sentence_id": range(len(prompts)),
            "document": prompts["document"],
            "sentence": "The same answer.",
            "split": prompts["split"],
            "prompt": prompts["sentence"],
            "prompt_id": prompts["sentence_id"],
            "greedy": True,
            "prompt_tokens": np.int32(2),
            "tokens": tokens,
        }
    )


def sides(table: pd.DataFrame) -> tuple[set[str], set[str]]:
    return tuple(set(table.loc[table["split"] == split, "document"]) for split in ("training", "validation"))


@pytest.mark.parametrize("shares", [[1, 1, 1], [0.1, 0.2, 0.7], [5, 3], [1e-9, 1], [0.3, 0.3, 0.4]])
@pytest.mark.parametrize("whole", [0, 1, 7, 10, 1001])
def test_shares_divide_a_whole_number(shares: list[float], whole: int) -> None:
    found = divided(shares, whole)
    assert sum(found) == whole
    for part, share in zip(found, shares, strict=True):
        assert abs(part - whole * share / sum(shares)) < 1 + 1e-9
    assert divided([share * 3 for share in shares], whole) == found


def test_a_mixture_has_its_shares_on_both_sides_and_the_first_texts_of_each_part() -> None:
    texts, other = corpus(range(80), 60, 20), corpus(range(100, 180), 60, 20, "line")
    found = mixed([texts, other], [Part("a", 2, "a"), Part("b", 1, "b")], training=45, validation=12)
    assert found["sentence_id"].tolist() == list(range(57))
    counts = Counter(zip(found["split"], found["part"], strict=True))
    assert counts == {
        ("training", "a"): 30,
        ("training", "b"): 15,
        ("validation", "a"): 8,
        ("validation", "b"): 4,
    }
    assert (found["split"] == ["training"] * 45 + ["validation"] * 12).all()
    for part, table in (("a", texts), ("b", other)):
        rows = found[(found["part"] == part) & (found["split"] == "training")]
        assert rows["sentence"].tolist() == table["sentence"][: len(rows)].tolist()
    # The parts alternate: every shard, and every evenly spread choice of texts, has both.
    longest = max(len(list(run)) for _, run in itertools.groupby(found["part"][:45]))
    assert longest <= 2


def test_a_document_of_two_parts_is_on_one_side_and_has_one_role(tmp_path: Path) -> None:
    """Two corpora of one file, cut in different ways, and text generated from one of them."""
    texts = corpus(range(90), 60, 25)
    # The same documents with another text of theirs: a hash of that puts them on other sides.
    other = corpus(range(90), 60, 25, "line")
    on_both = sides(texts)[0] & sides(other)[1]
    assert len(on_both) > 5
    parts = [Part("texts", 1, "texts"), Part("other", 1, "texts"), Part("told", 1, "texts")]
    found = mixed([texts, other, generated_by(texts)], parts, training=60, validation=15)
    training, validation = sides(found)
    assert not training & validation
    assert len(training) < 60, "parts share documents"
    write_table(tmp_path / "corpus.parquet", found)
    roles = tmp_path / "documents.parquet"
    assign_documents(roles, tmp_path / "corpus.parquet", stopping=0.2, thresholds=0.3, seed=0)
    merged = read_table(roles).merge(found[["sentence_id", "document", "part"]], on="sentence_id")
    assert (merged.groupby("document_y")["role"].nunique() == 1).all()
    assert (merged.groupby("document_y")["part"].nunique() > 1).any()
    # Documents of different sources are different ones, whatever their names.
    apart = mixed([texts, other], [Part("a", 1, "a"), Part("b", 1, "b")], training=40, validation=20)
    assert not set(apart[apart["part"] == "a"]["document"]) & set(apart[apart["part"] == "b"]["document"])


def test_a_sentence_of_two_parts_counts_once() -> None:
    few, many = corpus(range(60), 20, 10), corpus(range(60), 80, 30)
    parts = [Part("few", 1, "few"), Part("many", 1, "few")]
    found = mixed([few, many], parts, training=40, validation=16)
    assert found["sentence"].is_unique
    with pytest.raises(
        CorpusError, match=r"^many: a mixture takes 20 of its training texts, and 0 were found"
    ):
        mixed([few, few], parts, training=40, validation=10)


def test_generated_texts_keep_their_tokens(tmp_path: Path) -> None:
    texts = corpus(range(60), 30, 12)
    told = generated_by(texts)
    paths = [tmp_path / "texts.parquet", tmp_path / "told.parquet"]
    write_table(paths[0], texts)
    write_table(paths[1], told, model_digest="sha256:a")
    table, summary = tmp_path / "corpus.parquet", tmp_path / "corpus.json"
    parts = [Part("texts", 1, "texts"), Part("told", 1, "texts")]
    mix_corpora(table, summary, paths, parts=parts, training=20, validation=8)
    found = read_table(table)
    own = generated_rows(found)
    assert (own == (found["part"] == "told")).all()
    assert own.sum() == 14, "texts that are equal are texts of their own if they are generated"
    for _, row in found[own].iterrows():
        (same,) = (told.loc[place] for place in told.index if told["prompt_id"][place] == row["prompt_id"])
        assert row["tokens"].tolist() == same["tokens"].tolist()
        assert row["document"] == f"texts: {same['document']}"
    assert prompt_lengths(found).tolist() == [2 if of else 0 for of in own]
    ids = tokens_of_rows(found, lambda plain: [[len(sentence)] for sentence in plain["sentence"]])
    for of_text, sentence, tokens in zip(ids, found["sentence"], found["tokens"], strict=True):
        assert of_text == ([len(sentence)] if tokens is None else tokens.tolist())
    assert read_json(summary, SUMMARY)["training"]["sentences"] == 20
    write_table(paths[0], told, model_digest="sha256:b")
    with pytest.raises(OneJumpError, match="different models"):
        mix_corpora(table, summary, paths, parts=parts, training=20, validation=8)


@pytest.mark.parametrize(("column", "said"), [("target", "pairs"), ("label", "texts with labels")])
def test_pairs_and_labels_are_no_part(column: str, said: str) -> None:
    texts = corpus(range(40), 20, 8)
    with pytest.raises(CorpusError, match=f"^b: {said} given"):
        mixed(
            [texts, texts.assign(**{column: "x"})],
            [Part("a", 1, "a"), Part("b", 1, "b")],
            training=4,
            validation=2,
        )
