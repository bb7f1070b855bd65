"""Sides by hash, and the draw by turns: against an exhaustive draw, and between corpora that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onejump.base.errors import CorpusError
from onejump.data.documents import Document
from onejump.data.sides import Drawn, draw, place

# Few sentences, so that documents share many.
SENTENCES = [
    f"{a} {b}." for a, b in product(("Alpha", "Beta", "Gamma", "Delta"), ("one", "two", "three", "four"))
]
POOL = st.lists(st.lists(st.sampled_from(SENTENCES), max_size=6), max_size=20)


def cut(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def documents_of(pool: Sequence[Sequence[str]], prefix: str = "d") -> list[Document]:
    return [Document(f"{prefix}{number}", "\n".join(text)) for number, text in enumerate(pool)]


def drawn(
    documents: Sequence[Document], training: int, validation: int, seed: int = 0
) -> dict[str, list[Drawn]]:
    return draw(documents, {"training": training, "validation": validation}, cut=cut, seed=seed)


def spaced(text: str) -> str:
    """The same text to a reader: more white space, other line ends, a byte order mark."""
    return "\ufeff" + text.replace(" ", "  ").replace("\n", " \n") + "\n"


@settings(deadline=None, max_examples=300)
@given(POOL, st.data(), st.integers(0, 3))
def test_no_corpus_trains_on_a_document_that_another_validates_on(
    pool: list[list[str]], data: st.DataObject, seed: int
) -> None:
    """Whatever they share, in whatever order and size, under whatever names, with whatever white space."""
    corpora = []
    for name in ("a", "b"):
        some = data.draw(st.lists(st.sampled_from(pool), max_size=20)) if pool else []
        documents = documents_of(some, name)
        if name == "b":
            documents = [Document(document.id, spaced(document.text)) for document in documents]
        sizes = data.draw(st.tuples(st.integers(0, 12), st.integers(0, 12)))
        corpora.append((dict(documents), drawn(documents, *sizes, seed=seed)))
    for _, one in corpora:
        training = {" ".join(row.sentence.split()) for row in one["training"]}
        assert training.isdisjoint(" ".join(row.sentence.split()) for row in one["validation"])
    for (texts, first), (other_texts, other) in product(corpora, repeat=2):
        whole = {" ".join(texts[row.document].strip("\ufeff").split()) for row in first["training"]}
        assert whole.isdisjoint(
            " ".join(other_texts[row.document].strip("\ufeff").split()) for row in other["validation"]
        )


@settings(deadline=None, max_examples=200)
@given(POOL, st.integers(0, 8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_the_draw_is_that_of_all_sentences_in_order(
    pool: list[list[str]], training: int, validation: int, random: object
) -> None:
    """The bounded draw keeps what sorting everything would, in any order of the documents."""
    documents = documents_of(pool)
    offered: dict[str, list[tuple[int, bytes, str]]] = {"training": [], "validation": []}
    for document in documents:
        at = place(document.text, "document", 0)
        in_order = sorted(set(cut(document.text)), key=lambda s: place(s, "sentence", 0).order)
        offered[at.side] += [(turn, at.order, s) for turn, s in enumerate(in_order)]
    by_turns = {side: list(dict.fromkeys(s for *_, s in sorted(found))) for side, found in offered.items()}
    both = set(by_turns["training"]) & set(by_turns["validation"])
    expected = {
        side: [s for s in found if s not in both or place(s, "sentence", 0).side == side][:wanted]
        for (side, found), wanted in zip(by_turns.items(), (training, validation), strict=True)
    }
    shuffled = documents.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for order in (documents, shuffled):
        found = drawn(order, training, validation)
        assert {side: [row.sentence for row in rows] for side, rows in found.items()} == expected


def test_many_sentences_are_drawn_in_bounded_memory_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onejump.data.sides._SLACK", 0)
    documents = [
        Document(f"d{d}", "\n".join(f"Sentence {s} of {d % 190}." for s in range(d % 190 % 7)))
        for d in range(400)
    ]
    few, all_of_them = drawn(documents, 40, 30), drawn(documents, 10**6, 10**6)
    assert few == {side: all_of_them[side][: len(few[side])] for side in few}
    assert {side: len(rows) for side, rows in few.items()} == {"training": 40, "validation": 30}


def test_each_document_gives_one_before_any_gives_two() -> None:
    long = [Document(f"long{d}", "\n".join(f"Long {d} {s}." for s in range(500))) for d in range(4)]
    short = [Document(f"short{d}", "\n".join(f"Short {d} {s}." for s in range(8))) for d in range(160)]
    rows = drawn(long + short, 90, 0)["training"]
    per_document = [[row.document for row in rows].count(name) for name in {row.document for row in rows}]
    assert max(per_document) == 1


def test_three_of_four_documents_serve_training_with_all_their_sentences() -> None:
    documents = [Document(f"d{d}", "\n".join(f"Sentence {s} of {d}." for s in range(5))) for d in range(4000)]
    found = drawn(documents, 10**6, 10**6)
    assert sum(map(len, found.values())) == 20_000
    # Within four standard deviations of a binomial.
    share = len({row.document for row in found["training"]}) / 4000
    assert abs(share - 3 / 4) < 4 * (3 / 16 / 4000) ** 0.5


def test_seeds_split_anew() -> None:
    documents = [Document(f"d{d}", f"Sentence of {d}.") for d in range(200)]
    sides = [{d.id: place(d.text, "document", seed).side for d in documents} for seed in (0, 1)]
    moved = sum(sides[0][name] != sides[1][name] for name in sides[0])
    assert 40 < moved < 120


def test_a_document_under_two_names_is_one() -> None:
    text = "\n".join(f"Sentence {s}." for s in range(50))
    rows = drawn([Document("b", text), Document("a", spaced(text))], 100, 100)
    assert {row.document for side in rows.values() for row in side} == {"a"}


def test_two_documents_of_one_name_are_refused() -> None:
    documents = [Document("same", f"Sentence {d}.") for d in range(40)]
    with pytest.raises(CorpusError, match="two documents have one id, 'same'"):
        drawn(documents, 40, 40)
