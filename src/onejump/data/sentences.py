"""Cuts documents into sentences, or into the paragraphs of source code."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from sentencex import segment

# Soft hyphen, word joiner, byte order mark: a reader does not see them, but they change a model's tokens.
_INVISIBLE = "\u00ad\u2060\ufeff"
# Zero-width spaces and joiners belong inside the words of some scripts, never at the edge of a sentence.
_ZERO_WIDTH = "\u200b\u200c\u200d"
# What may follow the end mark: quotation marks, brackets and footnote marks such as [1].
_CLOSING = re.compile(r"""(\[\w+\]|["'”’»›」』)\]} ])+$""")
# A sentence ends in an end mark. In scripts without letter case, it may end in a letter or vowel sign
# instead.
_END_CATEGORIES = ("Po", "Lo", "Lm", "Mn", "Mc")
_NO_END = ",:%&*@#/\\"
_LONGEST_WRAPPED_LINE = 120
# Control characters except tab and line breaks, lone surrogates, and the character that decoders put in
# place of bytes that they cannot read. A sentence with one of these is damaged, or is not text.
_DAMAGED = re.compile("[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff\ufffd]")


def sentences(text: str, language: str) -> Iterator[str]:
    """Cut a text into sentences, and replace each run of white space in them by one space.

    What ends without an end mark is left out: headings, list items, lines cut short before a formula.

    Parameters
    ----------
    text : str
    language : str
        ISO 639 code, with two letters if the language has such a code.
    """
    lines = [line.strip() for line in _clean(text).splitlines()]
    in_long_lines = sum(len(line) for line in lines if len(line) > _LONGEST_WRAPPED_LINE)
    if 2 * in_long_lines > sum(map(len, lines)):
        # The text is not hard-wrapped: the end of a line is the end of a paragraph or heading, unless the
        # next line begins with a small letter.
        lines = [line if line[:1].islower() else f"\n{line}" for line in lines]
    for piece in segment(language, "\n".join(lines)):
        sentence = " ".join(piece.split()).strip(_ZERO_WIDTH + " ")
        # Only the end is searched, as the pattern is slow on a line of megabytes.
        last = _CLOSING.sub("", sentence[-100:])[-1:]
        if (
            last
            and last not in _NO_END
            and unicodedata.category(last) in _END_CATEGORIES
            and not _DAMAGED.search(sentence)
        ):
            yield sentence


def paragraphs(text: str, _: str) -> Iterator[str]:
    """Cut a text at its empty lines. The pieces keep their line breaks and indents."""
    for paragraph in re.split(r"\n\s*\n", _clean(text)):
        if paragraph.strip() and not _DAMAGED.search(paragraph):
            yield paragraph.strip("\n").rstrip()


def is_damaged(text: str) -> bool:
    """Whether a text holds control characters, or marks of bytes that could not be read."""
    return _DAMAGED.search(text) is not None


def without_invisible(text: str) -> str:
    """Remove the characters that a reader does not see."""
    for character in _INVISIBLE:  # far faster than `str.translate`
        text = text.replace(character, "")
    return text


def _clean(text: str) -> str:
    # sentencex fails on lone surrogates, so the character for unreadable bytes replaces them.
    return without_invisible(re.sub("[\ud800-\udfff]", "\ufffd", text))


UNITS: dict[str, Callable[[str, str], Iterator[str]]] = {"sentence": sentences, "paragraph": paragraphs}
"""For each `unit` of a study: the function that cuts a text of a language."""
