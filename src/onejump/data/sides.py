"""Decides which side, training or validation, a document is on, and which sentences are drawn.

A document's text and the seed alone decide its side. The sizes of the splits do not count, nor the order,
number or names of the documents. So two corpora with one seed never have the same document in the training
split of one and in the validation split of the other.

A sentence is on the side of its document. If documents of both sides have it, the sentence's own text
decides on which side it may be drawn.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from onejump.base.errors import CorpusError
from onejump.data.documents import Document
from onejump.data.sentences import without_invisible

TRAINING_SHARE = 3 / 4
"""Share of the documents. The papers have the same share of sentences (9,000 and 3,000)."""

# More sentences are kept than are wanted: some may be on both sides, and what is kept is sorted less often.
_SPARE, _SLACK = 0.1, 1000


class Place(NamedTuple):
    """The side and the order of a text, both from its content."""

    side: str
    """training or validation."""
    order: bytes
    """Texts are drawn in the order of these bytes."""
    digest: bytes
    """Equal for texts that differ only in white space, case and invisible characters."""


class Drawn(NamedTuple):
    """A sentence that was drawn."""

    turn: int
    """How many sentences of its document come before it in the draw."""
    document_order: bytes
    """The place of its document in the draw."""
    document: str
    """The document's id."""
    sentence: str


def normalised(text: str) -> str:
    """A form that is equal for texts that differ only in white space, case and invisible characters."""
    return " ".join(without_invisible(unicodedata.normalize("NFKC", text)).split()).casefold()


def place(text: str, kind: str, seed: int) -> Place:
    """Give the side and the order of a text.

    Parameters
    ----------
    text : str
    kind : {"document", "sentence"}
        What the text is. The same text as a document and as a sentence can be on different sides.
    seed : int
    """
    content = f"{kind} {seed}\n".encode() + normalised(text).encode(errors="surrogatepass")
    digest = hashlib.blake2b(content, digest_size=32).digest()
    training = int.from_bytes(digest[:8], "big") < TRAINING_SHARE * 2**64
    return Place("training" if training else "validation", digest[8:16], digest[16:])


class _Draw:
    """Keeps the first different sentences of a side, out of all that are offered."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._kept = wanted + int(_SPARE * wanted) + _SLACK
        self._found: dict[bytes, Drawn] = {}
        self._last: Drawn | None = None

    def may_take(self, document_order: bytes) -> bool:
        """Whether any sentence of a document can still be drawn."""
        return self._last is None or (0, document_order) <= self._last[:2]

    def offer(self, digest: bytes, drawn: Drawn) -> None:
        if self._last is not None and drawn > self._last:
            return
        before = self._found.get(digest)
        if before is None or drawn < before:
            self._found[digest] = drawn
        if len(self._found) > 2 * self._kept:
            self._keep_first()

    def _keep_first(self) -> None:
        first = sorted(self._found.items(), key=lambda item: item[1])[: self._kept]
        self._found = dict(first)
        self._last = first[-1][1] if first else None

    def candidates(self) -> dict[bytes, Drawn]:
        """The first sentences by their digest: somewhat more than are wanted."""
        self._keep_first()
        return self._found

    def result(self, elsewhere: Collection[bytes]) -> list[Drawn]:
        """The sentences that are drawn, in order: one of each document, then a second one of each, and so on.

        Parameters
        ----------
        elsewhere : collection of bytes
            Digests of sentences that the other side draws.
        """
        found = [drawn for digest, drawn in self.candidates().items() if digest not in elsewhere]
        return found[: self._wanted]


def draw(
    documents: Iterable[Document],
    wanted: Mapping[str, int],
    *,
    cut: Callable[[str], Iterable[str]],
    seed: int,
) -> dict[str, list[Drawn]]:
    """Draw sentences for each side. No sentence is drawn twice.

    A side takes one sentence of each of its documents before it takes a second one of any. So it has as many
    documents as possible, and as few sentences of each as possible. Documents come in the order of their
    hashes, and so do the sentences of a document. If more sentences are wanted, those that fewer would give
    are still drawn.

    Parameters
    ----------
    documents : iterable of Document
        Read once, one at a time.
    wanted : mapping of side -> int
        The most sentences to draw, for both sides.
    cut : callable
        Gives the sentences of a text that may be drawn.
    seed : int

    Returns
    -------
    dict of side -> list of Drawn
        Fewer than wanted if there are no more.

    Raises
    ------
    CorpusError
        If two different documents have one id.
    """
    draws = {side: _Draw(count) for side, count in wanted.items()}
    for document in documents:
        side, order, _ = place(document.text, "document", seed)
        if not draws[side].may_take(order):
            continue
        found: dict[bytes, tuple[bytes, str]] = {}
        for sentence in cut(document.text):
            of_sentence = place(sentence, "sentence", seed)
            found.setdefault(of_sentence.digest, (of_sentence.order, sentence))
        in_order = sorted(found.items(), key=lambda item: item[1])
        for turn, (digest, (_, sentence)) in enumerate(in_order):
            draws[side].offer(digest, Drawn(turn, order, document.id, sentence))
    on_both = set.intersection(*(set(found.candidates()) for found in draws.values()))
    sides = {
        digest: place(next(iter(draws.values())).candidates()[digest].sentence, "sentence", seed).side
        for digest in on_both
    }
    drawn = {
        side: found.result([digest for digest, own in sides.items() if own != side])
        for side, found in draws.items()
    }
    orders: dict[str, bytes] = {}
    for row in (row for rows in drawn.values() for row in rows):
        if orders.setdefault(row.document, row.document_order) != row.document_order:
            raise CorpusError(
                f"two documents have one id, {row.document!r}, so that nothing tells them apart"
            )
    return drawn
