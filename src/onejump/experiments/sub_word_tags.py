"""The stage "sub-word tags": the part of speech of the word that each token of a text belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from onejump.base.files import read_table, write_table
from onejump.base.identity import model_digest_in
from onejump.data.generated_rows import tokens_of_rows
from onejump.data.parts_of_speech import OTHER, parts_of_speech
from onejump.models.description import read_description
from onejump.models.loading import load_described_tokenizer
from onejump.models.pieces import kinds_of


def tag_tokens(
    table: Path, tokens: Path, description: Path, sentences: Path, weights: Path | None = None
) -> None:
    """The stage: tag all tokens of the validation text.

    Parameters
    ----------
    table : Path
        To write, with columns sentence (its id), position (of the token in the sentence), token and part (of
        `onejump.data.parts_of_speech`; other for tokens that are part of no word).
    tokens : Path
        Table of `onejump.experiments.sub_word_tokens.describe_tokens`.
    description : Path
        Of the model stage.
    sentences : Path
        Table of the corpus: of sentences, or of generated texts.
    weights : Path, optional
        The folder that a GGUF file was unpacked to.

    Raises
    ------
    OneJumpError
        If the tagger is not installed.
    """
    texts, pieces = read_table(sentences), read_table(tokens)
    texts = texts[texts["split"] == "validation"]

    def tokenised(plain: pd.DataFrame) -> list[list[int]]:
        tokenizer = load_described_tokenizer(read_description(description), weights)
        found: list[list[int]] = tokenizer(plain["sentence"].tolist())["input_ids"]
        return found

    cut = tokens_of_rows(texts, tokenised)
    found = [
        pd.DataFrame(
            {"sentence": sentence, "position": np.arange(len(of_text)), "token": of_text}
            | {"part": parts_of_tokens(pieces, of_text)}
        )
        for sentence, of_text in zip(texts["sentence_id"], cut, strict=True)
    ]
    write_table(table, pd.concat(found, ignore_index=True), model_digest=model_digest_in(description))


def parts_of_tokens(pieces: pd.DataFrame, tokens: Sequence[int]) -> list[str]:
    """Give the part of speech of the word that each token belongs to.

    Parameters
    ----------
    pieces : DataFrame
        Of `onejump.models.pieces.describe_pieces`.
    tokens : sequence of int
        Of one text.
    """
    ids = np.asarray(tokens, np.int64)
    kinds = np.append(kinds_of(pieces, ids[:1], None), kinds_of(pieces, ids[1:], ids[:-1]))
    spelled = pieces["text"].to_numpy()[ids]
    words: list[str] = []
    place = []
    for kind, text in zip(kinds.tolist(), spelled, strict=True):
        # Spaces inside of a token would make two words of one.
        text = "".join(str(text).split())
        if kind == 1 and words:
            words[-1] += text
        elif text:
            words.append(text)
        place.append(len(words) - 1 if kind != 2 else -1)
    parts = [*parts_of_speech(words), OTHER]
    return [parts[at] for at in place]
