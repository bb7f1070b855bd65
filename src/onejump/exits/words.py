"""Whole words among samples: those whose pieces were all sampled, and that the model itself would write."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onejump.models.pieces import KINDS

_INITIAL, _CONTINUATION = KINDS.index("word-initial"), KINDS.index("continuation")


def whole_words(
    sentences: NDArray[Any],
    positions: NDArray[Any],
    tokens: NDArray[Any],
    predicted: NDArray[Any],
    kinds: NDArray[Any],
) -> list[list[int]]:
    """Find the whole words, each as the samples that predicted its pieces.

    A word begins with a sample that predicts a word-initial piece. It goes on as long as the next position of
    the sentence was sampled too, its token is the predicted one, and it predicts a continuation. It is whole
    if the position behind its last piece shows that no continuation follows.

    Parameters
    ----------
    sentences, positions, tokens : ndarray of shape (n,)
        Of the samples: the sentence, the position in it and the token there, which the prediction follows.
    predicted : ndarray of shape (n,)
        The full model's most likely next token.
    kinds : ndarray of shape (n,)
        The kind of the predicted token, an index of `onejump.models.pieces.KINDS`.

    Returns
    -------
    list of list of int
        Samples of each word, in order.
    """
    order = np.lexsort((positions, sentences))
    here, behind = order[:-1], order[1:]
    goes_on = (
        (sentences[here] == sentences[behind])
        & (positions[here] + 1 == positions[behind])
        & (predicted[here] == tokens[behind])
    )
    following = dict(zip(here[goes_on].tolist(), behind[goes_on].tolist(), strict=True))
    words = []
    for sample in order[kinds[order] == _INITIAL].tolist():
        word, then = [sample], following.get(sample)
        while then is not None and kinds[then] == _CONTINUATION:
            word.append(then)
            then = following.get(then)
        if then is not None:
            words.append(word)
    return words
