"""The trajectory of a prompt: what a model would have said at every level, by one or more shortcuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from onejump.exits.gates import Gate
    from onejump.lens.sources import Source
    from onejump.models.transformer import Transformer

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

STATISTICS = ("probability", "entropy", "surprisal", "rank", "forward_kl", "agreement")
"""The statistics of each token and level: those that a figure can show as colours."""


class Trajectory:
    """What a model would have said at every level of a prompt, by one or more shortcuts.

    T is the number of tokens shown, L the number of blocks. At level L every shortcut gives the model's own
    prediction.

    Attributes
    ----------
    tokens : list of str
        The T tokens, readable: a space is "·", a line break "⏎".
    token_ids : list of int
    next_ids : list of int or None
        What each position has to predict: the token behind it; None where there is none. In a masked language
        model it is the token itself.
    levels : range
        0 to L.
    shortcuts : list of str
        Names of the shortcuts. "identity" is the logit lens.
    k : int
        How many most likely tokens are kept.
    prompt : str
    model_name : str
    """

    tokens: list[str]
    token_ids: list[int]
    next_ids: list[int | None]
    levels: range
    shortcuts: list[str]
    k: int
    prompt: str
    model_name: str

    @classmethod
    def from_prompt(
        cls,
        model: Transformer | Any,
        tokenizer: Any,
        prompt: str,
        shortcuts: Mapping[str, Source] | Sequence[Source] | None = None,
        *,
        k: int = 10,
        gate: Gate | Mapping[str, Gate] | None = None,
        chat: bool = False,
        system: str | None = None,
        target: str | None = None,
        last: int | None = None,
    ) -> Self:
        """Run a model over a prompt, and read what each shortcut predicts at each level.

        Parameters
        ----------
        model : Transformer or transformers.PreTrainedModel
        tokenizer : transformers.PreTrainedTokenizerBase
        prompt : str
        shortcuts : mapping of name -> source, or sequence of sources, optional
            A source is a kept jump (`OneJump`), the shortcuts of a results folder (`load_shortcuts`), one
            shortcut for all levels, or "identity". Default: identity alone, the logit lens.
        k : int
            How many most likely tokens are kept for each token and level.
        gate : Gate, or mapping of shortcut -> Gate, optional
            When a token would exit (`exit_level`), which figures mark.
        chat : bool
            Put the prompt into the tokenizer's chat template.
        system : str, optional
            The system message of the chat.
        target : str, optional
            For an encoder-decoder: the text whose tokens the decoder predicts; the prompt is its source.
        last : int, optional
            Show only this many tokens from the end. The model still runs over the whole prompt.
        """
        raise NotImplementedError

    @classmethod
    def from_results(
        cls, pair: str | Path, prompt: str, methods: Sequence[str] | None = None, **options: Any
    ) -> Self:
        """Read the trajectory of a prompt by the shortcuts of a results folder.

        Parameters
        ----------
        pair : path
            The folder of a model and a corpus: `results/<study>/<model>/<corpus>`.
        prompt : str
        methods : sequence of str, optional
            Default: all that the folder holds.
        **options
            As in `from_prompt`.
        """
        raise NotImplementedError

    def top_ids(self, shortcut: str | None = None) -> Whole:
        """Give the k most likely tokens (L + 1, T, k), the most likely first. Default: the first shortcut."""
        raise NotImplementedError

    def top_tokens(self, shortcut: str | None = None) -> NDArray[np.object_]:
        """Give the same tokens as readable text (L + 1, T, k)."""
        raise NotImplementedError

    def probabilities(self, shortcut: str | None = None) -> Floats:
        """Give the probabilities (L + 1, T, k) of the k most likely tokens."""
        raise NotImplementedError

    def entropy(self, shortcut: str | None = None) -> Floats:
        """Give the entropy of the prediction (L + 1, T), in nats."""
        raise NotImplementedError

    def surprisal(self, shortcut: str | None = None) -> Floats:
        """Give -ln of the probability of the prompt's next token (L + 1, T); NaN where there is none."""
        raise NotImplementedError

    def forward_kl(self, shortcut: str | None = None) -> Floats:
        """Give KL(p || q) (L + 1, T) in nats: p is the last level's distribution, q the level's."""
        raise NotImplementedError

    def agreement(self, shortcut: str | None = None) -> NDArray[np.bool_]:
        """Say where the most likely token is that of the last level (L + 1, T)."""
        raise NotImplementedError

    def rank(self, token: int | str | None = None, shortcut: str | None = None) -> Floats:
        """Give the rank of a token (L + 1, T); 1 is the most likely one.

        Parameters
        ----------
        token : int or str, optional
            A token's id, or a text that is one token. Default: the prompt's next token, NaN where there is
            none.
        shortcut : str, optional
        """
        raise NotImplementedError

    def exit_level(self, gate: Gate | None = None, shortcut: str | None = None) -> Whole:
        """Give the level at which each token would exit (T,): L where the gate lets it exit nowhere.

        Parameters
        ----------
        gate : Gate, optional
            Default: the one given to `from_prompt`.
        shortcut : str, optional
        """
        raise NotImplementedError

    def statistic(self, name: str, shortcut: str | None = None) -> Floats:
        """Give a statistic (L + 1, T) by its name, one of `STATISTICS`.

        probability is that of the most likely token.
        """
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """Give a tidy table: a row for each shortcut, level, position, and place among the k best."""
        raise NotImplementedError

    def figure(self, shortcut: str | None = None, statistic: str = "probability") -> Any:
        """Draw an interactive heat map, tokens by levels: a `plotly.graph_objects.Figure`.

        Parameters
        ----------
        shortcut, statistic : str
            What is shown first. Menus switch both.
        """
        raise NotImplementedError

    def draw(self, shortcut: str | None = None, statistic: str = "probability") -> Figure:
        """Draw the heat map of a shortcut and a statistic with matplotlib, for papers."""
        raise NotImplementedError

    def to_html(self) -> str:
        """Give a page that shows the figure and opens offline."""
        raise NotImplementedError

    def save_html(self, path: str | Path) -> None:
        """Write that page as one file."""
        raise NotImplementedError

    def to_text(self, shortcut: str | None = None, *, width: int = 100) -> str:
        """Give a compact table for a terminal."""
        raise NotImplementedError
