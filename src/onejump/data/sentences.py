"""What documents are cut into: sentences, or the paragraphs of source code."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from sentencex import segment

# Soft hyphen, word joiner, byte order mark: nothing to see, but other tokens to a model.
_INVISIBLE = "\u00ad\u2060\ufeff"
# Zero-width spaces and joiners belong inside the words of some scripts, never at the edge of a sentence.
_ZERO_WIDTH = "\u200b\u200c\u200d"
# What may follow the end mark: quotation marks, brackets and footnote marks such as [1].
_CLOSING = re.compile(r"""(\[\w+\]|["'”’»›」』)\]} ])+$""")
# An end mark, or a letter or vowel sign of a script without letter case, which may do without end marks.
_END_CATEGORIES = ("Po", "Lo", "Lm", "Mn", "Mc")
_NO_END = ",:%&*@#/\\"
_LONGEST_WRAPPED_LINE = 120
# Control characters but tab and line breaks, lone surrogates and what decoders put for bytes that they could
# not read: a text that has them there is damaged, or no text.
_DAMAGED = re.compile("[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff\ufffd]")


def sentences(text: str, language: str) -> Iterator[str]:
    """Cut a text into sentences, their white space collapsed.

    What ends without an end mark is left out: headings, list items, lines cut short before a formula.

    Parameters
    ----------
    text : str
    language : str
        ISO 639 code, two letters where there are two.
    """
    lines = [line.strip() for line in _clean(text).splitlines()]
    in_long_lines = sum(len(line) for line in lines if len(line) > _LONGEST_WRAPPED_LINE)
    if 2 * in_long_lines > sum(map(len, lines)):
        # Not hard-wrapped, so that a line ends a paragraph or a heading, unless the next one goes on with it.
        lines = [line if line[:1].islower() else f"\n{line}" for line in lines]
    for piece in segment(language, "\n".join(lines)):
        sentence = " ".join(piece.split()).strip(_ZERO_WIDTH + " ")
        # Of the end only: over a line of megabytes the pattern would take its time.
        last = _CLOSING.sub("", sentence[-100:])[-1:]
        if (
            last
            and last not in _NO_END
            and unicodedata.category(last) in _END_CATEGORIES
            and not _DAMAGED.search(sentence)
        ):
            yield sentence


def paragraphs(text: str, _: str) -> Iterator[str]:
    """Cut a text into what stands between empty lines, with its line breaks and indents."""
    for paragraph in re.split(r"\n\s*\n", _clean(text)):
        if paragraph.strip() and not _DAMAGED.search(paragraph):
            yield paragraph.strip("\n").rstrip()


def without_invisible(text: str) -> str:
    """A text without the characters that nobody sees."""
    for character in _INVISIBLE:  # far faster than `str.translate`
        text = text.replace(character, "")
    return text


def _clean(text: str) -> str:
    # The segmentation takes no lone surrogates; the mark for damage stands in for them.
    return without_invisible(re.sub("[\ud800-\udfff]", "\ufffd", text))


UNITS: dict[str, Callable[[str, str], Iterator[str]]] = {"sentence": sentences, "paragraph": paragraphs}
"""By the study's `unit`: text and language -> what the text is cut into."""
