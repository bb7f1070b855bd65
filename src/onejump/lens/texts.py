"""Tokens as a reader sees them: spaces and line breaks are visible, parts of a character are bytes."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable
from typing import Any

from onejump.models.pieces import BEFORE, decoded

SPACE = "·"
"""What stands for a space."""
_SIGNS = {" ": SPACE, "\n": "⏎", "\t": "⇥", "\r": "␍"}
# Categories of characters that are not seen, or that change how the characters around them are shown.
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
_UNFINISHED = "\ufffd"


def visible(text: str) -> str:
    r"""Give a text in which every character is seen.

    A space becomes "·", a line break "⏎", a tab "⇥", and any other character that is not seen its number.

    >>> visible(" a\n\u200b")
    '·a⏎\\u200b'
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) in _UNSEEN:
        code = ord(character)
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


class Readable:
    r"""Gives the tokens of a tokenizer as readable text.

    A token that puts a space between itself and the text before it begins with "·". A token that is only a
    part of a character is shown by its bytes, such as "\xe2\x80".

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = tokenizer(BEFORE, add_special_tokens=False)["input_ids"]
        self._base = decoded(tokenizer, [self._before])[0]
        self._known: dict[int, str] = {}

    def __call__(self, tokens: Iterable[int]) -> list[str]:
        """Give the text of each token. A token that the tokenizer does not know is its number in brackets."""
        tokens = [int(token) for token in tokens]
        new = [token for token in dict.fromkeys(tokens) if token not in self._known]
        within = [token for token in new if token < len(self._tokenizer)]
        behind = decoded(self._tokenizer, [[*self._before, token] for token in within])
        self._known |= {token: f"[{token}]" for token in new}
        for token, text in zip(within, behind, strict=True):
            self._known[token] = self._text(token, text)
        return [self._known[token] for token in tokens]

    def _text(self, token: int, behind: str) -> str:
        text = behind.removeprefix(self._base)
        if behind.startswith(self._base) and text and _UNFINISHED not in text:
            return visible(text)
        # Part of a character, or nothing that is decoded: the piece as the tokenizer keeps it.
        piece = str(self._tokenizer.convert_ids_to_tokens(token) or "")
        letters = _byte_letters()
        if piece and all(letter in letters for letter in piece):
            piece = bytes(letters[letter] for letter in piece).decode("utf-8", "backslashreplace")
        return visible(piece) or f"[{token}]"


@functools.cache
def _byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in the pieces of byte-level tokenizers (GPT-2's table)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
