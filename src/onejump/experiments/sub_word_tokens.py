"""The stage "sub-word tokens": every token of a model as a piece of words, and how often a text has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from onejump.base.files import read_table, write_table
from onejump.base.identity import model_digest_in
from onejump.data.generated_rows import prompt_lengths, tokens_of_rows
from onejump.models.description import read_description
from onejump.models.loading import load_described_tokenizer
from onejump.models.pieces import describe_pieces, family_of


def describe_tokens(table: Path, description: Path, sentences: Path, weights: Path | None = None) -> None:
    """The stage: describe all tokens, and count them in the training text.

    Parameters
    ----------
    table : Path
        To write, with a row for each token and columns token, text, opens, closes, word, unfinished (see
        `onejump.models.pieces.describe_pieces`), family (of the tokenizer), count and per_million (of the
        tokens of the training text).
    description : Path
        Of the model stage.
    sentences : Path
        Table of the corpus: of sentences, or of generated texts, of which only the generated part counts.
    weights : Path, optional
        The folder that a GGUF file was unpacked to.
    """
    described = read_description(description)
    tokenizer = load_described_tokenizer(described, weights)
    found = describe_pieces(tokenizer, described.vocabulary)
    found.insert(0, "token", np.arange(len(found)))
    counts = np.bincount(_tokens_of_text(tokenizer, read_table(sentences)), minlength=len(found))
    found = found.assign(family=family_of(tokenizer), count=counts[: len(found)])
    found["per_million"] = 1e6 * found["count"] / max(1, int(found["count"].sum()))
    write_table(table, found, model_digest=model_digest_in(description))


def _tokens_of_text(tokenizer: object, texts: pd.DataFrame) -> np.ndarray:
    """All tokens of the training text, without special ones: (n,), int64."""
    training = texts[texts["split"] == "training"]
    # Of a pair, the target is the text whose tokens are predicted.
    column = "target" if "target" in training else "sentence"

    def tokenised(plain: pd.DataFrame) -> list[list[int]]:
        found: list[list[int]] = tokenizer(plain[column].tolist(), add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        return found

    whole = tokens_of_rows(training, tokenised)
    parts = [tokens[prompt:] for tokens, prompt in zip(whole, prompt_lengths(training), strict=True)]
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(part, np.int64) for part in parts)])
