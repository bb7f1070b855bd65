"""Which side, training or validation, a document and a sentence can be on, and which sentences are drawn.

A document's side follows from its text and the seed, and so does a sentence's from its own text. A sentence
is drawn where both are on one side. Nothing else counts: not the sizes of the splits, not the order, number
or names of the documents. So of two corpora of one seed, whatever documents they share, no document and no
sentence is in the training split of one and in the validation split of the other.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from onejump.documents import Document
from onejump.errors import CorpusError
from onejump.sentences import without_invisible

TRAINING_SHARE = 5 / 8
"""Of documents, and of sentences. As both have to agree, 25 of 64 sentences can serve training and 9 of 64
validation, about three to one, as in the papers (9,000 and 3,000 sentences)."""

# More of the drawn are kept than wanted, so that they are seldom sorted.
_SLACK = 1000


class Place(NamedTuple):
    """Where a text belongs by its content."""

    side: str
    """training or validation."""
    order: bytes
    """Texts of one seed have an order by these."""
    digest: bytes
    """Texts that differ in white space, case and invisible characters only have the same."""


class Drawn(NamedTuple):
    """A sentence that was drawn."""

    turn: int
    """Before it, so many sentences of its document were drawn."""
    document_order: bytes
    document: str
    """The document's id."""
    sentence: str


def place(text: str, kind: str, seed: int) -> Place:
    """Side and order of a text.

    Parameters
    ----------
    text : str
    kind : {"document", "sentence"}
        A document of one sentence has not the side of that sentence.
    seed : int
    """
    normal = " ".join(without_invisible(unicodedata.normalize("NFKC", text)).split()).casefold()
    content = f"{kind} {seed}\n".encode() + normal.encode(errors="surrogatepass")
    digest = hashlib.blake2b(content, digest_size=32).digest()
    training = int.from_bytes(digest[:8], "big") < TRAINING_SHARE * 2**64
    return Place("training" if training else "validation", digest[8:16], digest[16:])


class _Draw:
    """The first `wanted` different sentences of a side, of all that are offered; memory for twice as many."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._found: dict[bytes, Drawn] = {}
        self._last: Drawn | None = None

    def may_take(self, document_order: bytes) -> bool:
        """Whether any sentence of a document can still be drawn."""
        return self._wanted > 0 and (self._last is None or (0, document_order) <= self._last[:2])

    def offer(self, digest: bytes, drawn: Drawn) -> None:
        if self._last is not None and drawn > self._last:
            return
        before = self._found.get(digest)
        if before is None or drawn < before:
            self._found[digest] = drawn
        if len(self._found) > 2 * self._wanted + _SLACK:
            self._keep_first()

    def _keep_first(self) -> None:
        first = sorted(self._found.items(), key=lambda item: item[1])[: self._wanted]
        self._found = dict(first)
        self._last = first[-1][1] if first else None

    def result(self) -> list[Drawn]:
        """Those drawn, in order: a sentence of each document, then a second one of each, and so on."""
        self._keep_first()
        return list(self._found.values())


def draw(
    documents: Iterable[Document],
    wanted: Mapping[str, int],
    *,
    cut: Callable[[str], Iterable[str]],
    seed: int,
) -> dict[str, list[Drawn]]:
    """Draw sentences for each side, by turns over the side's documents.

    A side takes one sentence of each of its documents before it takes a second one of any: the most documents
    that can be had, and the least of each. Documents come in the order of their hashes, and so do the
    sentences of a document. More sentences wanted adds to those drawn and changes none.

    Parameters
    ----------
    documents : iterable of Document
        Read once, and held one at a time.
    wanted : mapping of side -> int
        Sentences, at most; both sides are named.
    cut : callable
        Gives the sentences of a text that may be drawn.
    seed : int

    Returns
    -------
    dict of side -> list of Drawn
        Fewer than wanted where there are no more.

    Raises
    ------
    CorpusError
        If two documents that differ have one id.
    """
    draws = {side: _Draw(count) for side, count in wanted.items()}
    for document in documents:
        side, order, _ = place(document.text, "document", seed)
        if not draws[side].may_take(order):
            continue
        found: dict[bytes, tuple[bytes, str]] = {}
        for sentence in cut(document.text):
            of_sentence = place(sentence, "sentence", seed)
            if of_sentence.side == side:
                found.setdefault(of_sentence.digest, (of_sentence.order, sentence))
        in_order = sorted(found.items(), key=lambda item: item[1])
        for turn, (digest, (_, sentence)) in enumerate(in_order):
            draws[side].offer(digest, Drawn(turn, order, document.id, sentence))
    drawn = {side: found.result() for side, found in draws.items()}
    orders: dict[str, bytes] = {}
    for row in (row for rows in drawn.values() for row in rows):
        if orders.setdefault(row.document, row.document_order) != row.document_order:
            raise CorpusError(
                f"two documents have one id, {row.document!r}, so that nothing tells them apart"
            )
    return drawn
