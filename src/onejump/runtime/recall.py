"""Drafts that the text itself gives: what followed its last tokens when they stood in it before.

Texts repeat names, phrases and lines. A draft from there costs no block and no check (arXiv 2304.04487, and
prompt lookup in transformers). It takes the place of an exit's draft, and is verified in the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence


class Recall:
    """What followed each run of n tokens of one text, where it stood last.

    Parameters
    ----------
    length : int
        n, the tokens in a row that have to be the same.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._following: dict[tuple[int, ...], int] = {}
        self._seen = length

    def draft(self, tokens: Sequence[int], drafts: Sequence[int] = ()) -> int | None:
        """Give the token that followed the last n tokens before, or None where they are new.

        Parameters
        ----------
        tokens : sequence of int
            The text so far. From call to call it only grows.
        drafts : sequence of int
            Drafts behind it. They count as the last tokens, and are not remembered.
        """
        for place in range(self._seen, len(tokens)):
            self._following[tuple(tokens[place - self._length : place])] = tokens[place]
        self._seen = max(self._seen, len(tokens))
        last = [*tokens[-self._length :], *drafts][-self._length :]
        return self._following.get(tuple(last))
