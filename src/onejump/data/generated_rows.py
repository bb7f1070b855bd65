"""Tells sentences and generated texts of a corpus apart: a mixture has both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


def generated_rows(texts: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which texts of a corpus' table are generated: ndarray of shape (texts,)."""
    if "tokens" not in texts.columns:
        return np.zeros(len(texts), bool)
    return np.array([tokens is not None for tokens in texts["tokens"]], bool)


def prompt_lengths(texts: pd.DataFrame) -> NDArray[np.int64]:
    """Count the tokens that are the prompt's in each text: ndarray of shape (texts,), 0 of a sentence."""
    generated = generated_rows(texts)
    found = np.zeros(len(texts), np.int64)
    if generated.any():
        found[generated] = texts.loc[generated, "prompt_tokens"].to_numpy(np.int64)
    return found


def tokens_of_rows(
    texts: pd.DataFrame, tokenised: Callable[[pd.DataFrame], Iterable[Sequence[int]]]
) -> list[list[int]]:
    """Give the token ids of each text: of a generated one those that were generated, prompt included.

    Parameters
    ----------
    texts : DataFrame
        Rows of a corpus' table.
    tokenised : function of rows that are sentences
        Gives the token ids of each of these.
    """
    generated = generated_rows(texts)
    of_sentences = iter(tokenised(texts[~generated]) if not generated.all() else ())
    return [
        list(map(int, texts["tokens"].iloc[row] if own else next(of_sentences)))
        for row, own in enumerate(generated)
    ]
