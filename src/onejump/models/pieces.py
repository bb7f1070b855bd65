"""Which tokens begin a word and which continue one, found from what the tokenizer itself makes of them.

A tokenizer cuts words into *pieces*. Whether a piece begins a word is seen from what the tokenizer decodes: a
token that puts a space between itself and the text before it begins a word. Tokenizers whose pieces say where
a word ends, and not where one begins, put a space behind them. So no family's marks have to be known:

| family | "unhappily" may become | what says so |
|---|---|---|
| byte-level BPE | `Ġunh`, `app`, `ily` | its pre-tokenizer or decoder |
| SentencePiece | `▁unh`, `app`, `ily` | its pre-tokenizer, normalizer or decoder |
| WordPiece | `unh`, `##app`, `##ily` | its model |
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

KINDS = ("word-initial", "continuation", "other")
"""Kinds of piece. Punctuation, spaces and special tokens are "other": they are part of no word."""

BEFORE = "a"
"""Between it and a token there is a space if that token begins a word."""
# What stands in the place of an unfinished character, in most cases a letter.
_UNFINISHED = "\ufffd"
# Of SentencePiece, for a space.
_SPACE_MARK = "▁"


def describe_pieces(tokenizer: Any, vocabulary: int) -> pd.DataFrame:
    """Describe every token as a piece of words.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    vocabulary : int
        V of the model. A model can have more tokens than its tokenizer knows.

    Returns
    -------
    DataFrame
        A row for each token, in their order. Columns

        - text: as the tokenizer decodes it behind other text, without space around it;
        - opens: whether it puts a space before itself; closes: whether it puts one behind itself;
        - word: whether it holds a letter, a digit or part of a character; always false for special tokens;
        - unfinished: whether its last character is one of these, so that the word may go on.
    """
    known = min(vocabulary, len(tokenizer))
    before = tokenizer(BEFORE, add_special_tokens=False)["input_ids"]
    base = decoded(tokenizer, [before])[0]
    behind = [
        text.removeprefix(base) for text in decoded(tokenizer, [[*before, token] for token in range(known)])
    ]
    opens = np.array([text[:1].isspace() for text in behind])
    word = np.array([any(map(_of_a_word, text)) for text in behind])
    word[[token for token in tokenizer.all_special_ids if token < known]] = False
    closes = np.array([text[-1:].isspace() for text in behind])
    if opens[word].all():
        # No piece goes on by itself: all are whole words, or a piece says whether its word ends with it.
        ahead = decoded(tokenizer, [[token, *before] for token in range(known)])
        closes = np.array([text.removesuffix(base.strip())[-1:].isspace() for text in ahead])
        opens[:] = False
    unfinished = word & np.array([_of_a_word(text[-1:]) for text in behind])
    beyond = vocabulary - known
    texts = [text.strip() for text in behind] + [""] * beyond
    marks = {"opens": opens, "closes": closes, "word": word, "unfinished": unfinished}
    return pd.DataFrame({"text": texts} | {name: np.pad(of, (0, beyond)) for name, of in marks.items()})


def kinds_of(pieces: pd.DataFrame, tokens: NDArray[Any], before: NDArray[Any] | None) -> NDArray[np.int8]:
    """Tell the kind of tokens: their index in `KINDS`.

    A token with a letter or digit begins a word if a space comes before it, or if the token before it is no
    unfinished word; otherwise it continues that word.

    Parameters
    ----------
    pieces : DataFrame
        Of `describe_pieces`.
    tokens : ndarray of int
    before : ndarray of int, optional
        The token before each one, an array that broadcasts to the tokens. Unless given, any word may come
        before.
    """
    opens, closes, word, unfinished = (
        pieces[name].to_numpy() for name in ("opens", "closes", "word", "unfinished")
    )
    begins = opens[tokens]
    if before is not None:
        begins = begins | closes[before] | ~unfinished[before]
    return np.where(word[tokens], np.where(begins, 0, 1), 2).astype(np.int8)


def family_of(tokenizer: Any) -> str:
    """Name the family of a tokenizer: by its parts, not by its name.

    Returns
    -------
    str
        byte-level BPE, SentencePiece, WordPiece, whole words; or the type of its model; "other" where its
        parts cannot be seen.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "SentencePiece" if hasattr(tokenizer, "sp_model") else "other"
    parts = json.loads(backend.to_str())
    model = str(parts["model"]["type"])
    around = [part for name in ("normalizer", "pre_tokenizer", "decoder") for part in _parts(parts.get(name))]
    types = {part["type"] for part in around if "type" in part}
    if model == "WordPiece":
        return model
    if "ByteLevel" in types:
        return "byte-level BPE" if model == "BPE" else f"byte-level {model}"
    if "Metaspace" in types or any(_SPACE_MARK in json.dumps(part, ensure_ascii=False) for part in around):
        return "SentencePiece"
    return "whole words" if model == "WordLevel" else model


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """Go through the parts of a part of a tokenizer: a sequence has several."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            for one in inner if isinstance(inner, list) else [inner]:
                yield from _parts(one)


def _of_a_word(character: str) -> bool:
    """Whether a character is a letter, a digit, a mark on a letter, or an unfinished one."""
    return bool(character) and (
        character.isalnum() or character == _UNFINISHED or unicodedata.category(character).startswith("M")
    )


def decoded(tokenizer: Any, tokens: Sequence[Sequence[int]]) -> list[str]:
    """Give the text of each sequence of tokens, special tokens included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # in one go; a tokenizer of transformers would take seconds
        return list(backend.decode_batch([list(one) for one in tokens], skip_special_tokens=False))
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return [tokenizer.decode(list(one), **options) for one in tokens]
