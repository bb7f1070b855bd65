"""What shortcuts predict at every level of a text: one method for each statistic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onejump.base.errors import OneJumpError
from onejump.base.statistics import statistic_named
from onejump.exits.gates import Gate
from onejump.lens.reading import Floats, Numbers, Reader, Whole
from onejump.lens.texts import Readable


class Predictions:
    """What shortcuts predict at every level of a text.

    Parameters
    ----------
    reader : Reader
    tokenizer : transformers.PreTrainedTokenizerBase
    following : list of int or None
        The token that each of the T positions has to predict; None where there is none.
    k : int
        How many most likely tokens are kept.
    """

    def __init__(self, reader: Reader, tokenizer: Any, following: list[int | None], k: int) -> None:
        self._reader, self._tokenizer = reader, tokenizer
        self._readable = Readable(tokenizer)
        self.k, self.levels, self.shortcuts = k, range(reader.last + 1), reader.names
        self.gates: dict[str, Gate] = {}
        self._numbers = reader.numbers(following, k)
        self._exits: dict[str, Whole] = {}

    def top_ids(self, shortcut: str | None = None) -> Whole:
        """Give the k most likely tokens (L + 1, T, k), the most likely first. Default: the first shortcut."""
        return self._of(shortcut).tokens

    def top_tokens(self, shortcut: str | None = None) -> NDArray[np.object_]:
        """Give the same tokens as readable text (L + 1, T, k)."""
        ids = self.top_ids(shortcut)
        texts = np.empty(ids.size, object)
        texts[:] = self._readable(ids.ravel().tolist())
        return texts.reshape(ids.shape)

    def probabilities(self, shortcut: str | None = None) -> Floats:
        """Give the probabilities (L + 1, T, k) of the k most likely tokens."""
        return self._of(shortcut).probabilities

    def entropy(self, shortcut: str | None = None) -> Floats:
        """Give the entropy of the prediction (L + 1, T), in nats."""
        return self._of(shortcut).entropy

    def surprisal(self, shortcut: str | None = None) -> Floats:
        """Give -ln of the probability of the prompt's next token (L + 1, T); NaN where there is none."""
        return self._of(shortcut).surprisal

    def forward_kl(self, shortcut: str | None = None) -> Floats:
        """Give KL(p || q) (L + 1, T) in nats: p is the last level's distribution, q the level's."""
        return self._of(shortcut).forward_kl

    def agreement(self, shortcut: str | None = None) -> NDArray[np.bool_]:
        """Say where the most likely token is that of the last level (L + 1, T)."""
        likeliest = self.top_ids(shortcut)[..., 0]
        agrees: NDArray[np.bool_] = likeliest == likeliest[-1]
        return agrees

    def rank(self, token: int | str | None = None, shortcut: str | None = None) -> Floats:
        """Give the rank of a token (L + 1, T); 1 is the most likely one.

        Parameters
        ----------
        token : int or str, optional
            A token's id, or a text that is one token (mind the space before a word). Default: the prompt's
            next token; NaN where there is none.
        shortcut : str, optional

        Raises
        ------
        OneJumpError
            If there is no such token.
        """
        if token is None:
            return self._of(shortcut).rank
        return self._reader.ranks(self._name(shortcut), self._id_of(token))

    def exit_level(self, gate: Gate | None = None, shortcut: str | None = None) -> Whole:
        """Give the level at which each token would exit (T,): L where the gate lets it exit nowhere.

        Parameters
        ----------
        gate : Gate, optional
            Default: the one given to `from_prompt`.
        shortcut : str, optional

        Raises
        ------
        OneJumpError
            If neither is given, or the gate checks a level that is no early-exit level.
        """
        name = self._name(shortcut)
        if gate is not None:
            return self._reader.exit_levels(name, gate)
        if name not in self._exits:
            raise OneJumpError(f"no gate given for {name!r}: give one here, or when the trajectory is made")
        return self._exits[name]

    def statistic(self, name: str, shortcut: str | None = None) -> Floats:
        """Give a statistic (L + 1, T) by its name.

        Parameters
        ----------
        name : {"probability", "entropy", "surprisal", "rank", "forward_kl", "agreement"}
            probability is that of the most likely token. rank is that of the prompt's next token.
        shortcut : str, optional
        """
        statistic_named(name)
        if name == "probability":
            return self.probabilities(shortcut)[..., 0]
        if name == "agreement":
            return self.agreement(shortcut).astype(np.float64)
        values: Floats = getattr(self._of(shortcut), name)
        return values

    def _name(self, shortcut: str | None) -> str:
        if shortcut is None:
            return self.shortcuts[0]
        if shortcut not in self.shortcuts:
            raise OneJumpError(f"shortcut {shortcut!r} given, accepted is one of {', '.join(self.shortcuts)}")
        return shortcut

    def _of(self, shortcut: str | None) -> Numbers:
        return self._numbers[self._name(shortcut)]

    def _id_of(self, token: int | str) -> int:
        if isinstance(token, str):
            ids = self._tokenizer(token, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                raise OneJumpError(
                    f"token {token!r} given, a text of one token is accepted, this has {len(ids)}"
                )
            return int(ids[0])
        vocabulary = self._reader.vocabulary
        if not 0 <= token < vocabulary:
            raise OneJumpError(f"token {token} given, accepted is 0 to {vocabulary - 1}")
        return int(token)
