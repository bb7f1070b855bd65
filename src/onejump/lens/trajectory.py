"""The trajectory of a prompt: what a model would have said at every level, by one or more shortcuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onejump.base.errors import OneJumpError
from onejump.base.files import replacing
from onejump.base.statistics import STATISTICS
from onejump.exits.gates import Gate
from onejump.lens.predictions import Predictions
from onejump.lens.prompted import Prompted, prompted, states_of
from onejump.lens.reading import Reader
from onejump.lens.sources import Source, gates_for, named_sources, shortcuts_at, told
from onejump.models.transformer import Transformer

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Trajectory(Predictions):
    """What a model would have said at every level of a prompt, by one or more shortcuts.

    T is the number of tokens shown and L the number of blocks. At level L every shortcut gives the model's
    own prediction. `from_prompt` and `from_results` make one. It keeps the states and the head, no logits.

    Attributes
    ----------
    tokens : list of str
        The T tokens, readable: a space is "·", a line break "⏎".
    token_ids : list of int
    positions : list of int
        Places of the tokens in the whole text.
    next_ids : list of int or None
        What each position has to predict: the token behind it; None where there is none. In a masked language
        model it is the token itself.
    next_tokens : list of str or None
    levels : range
        0 to L.
    shortcuts : list of str
        Names of the shortcuts. "identity" is the logit lens.
    gates : dict of shortcut -> Gate
        The gates given; `exit_level` uses them.
    origins : dict of shortcut -> str
        What each shortcut is, in words.
    k : int
        How many most likely tokens are kept.
    prompt : str
    model_name : str
    task : {"causal", "masked", "seq2seq"}

    Examples
    --------
    >>> jump = onejump.OneJump.from_pretrained("path/to/export")
    >>> trajectory = onejump.Trajectory.from_prompt(model, tokenizer, "The moon is", ["identity", jump])
    >>> trajectory.top_tokens("one-jump")[12, -1]  # of the last token, at level 12
    >>> trajectory.save_html("lens.html")
    """

    def __init__(
        self,
        reader: Reader,
        text: Prompted,
        tokenizer: Any,
        *,
        prompt: str,
        model_name: str,
        task: str,
        k: int,
    ) -> None:
        super().__init__(reader, tokenizer, text.following, k)
        self.prompt, self.model_name, self.task = prompt, model_name, task
        self.positions, self.token_ids, self.next_ids = text.positions, text.tokens, text.following
        self.tokens = self._readable(self.token_ids)
        following = self._readable(0 if token is None else token for token in self.next_ids)
        self.next_tokens = [
            None if token is None else said for token, said in zip(self.next_ids, following, strict=True)
        ]
        self.origins: dict[str, str] = {}

    @classmethod
    def from_prompt(
        cls,
        model: Transformer | Any,
        tokenizer: Any,
        prompt: str,
        shortcuts: Mapping[str, Source] | Sequence[Source] | Source | None = None,
        *,
        k: int = 10,
        gate: Gate | str | Mapping[str, Gate | str | None] | None = None,
        chat: bool = False,
        system: str | None = None,
        target: str | None = None,
        last: int | None = None,
        model_name: str | None = None,
        allow_other_weights: bool = False,
    ) -> Self:
        """Run a model over a prompt, and read what each shortcut predicts at each level.

        Parameters
        ----------
        model : Transformer or transformers.PreTrainedModel
        tokenizer : transformers.PreTrainedTokenizerBase
        prompt : str
        shortcuts : mapping of name -> source, sequence of sources, or one source; optional
            A source is a kept jump (`OneJump`), the shortcuts of a results folder (`load_shortcuts`), one
            shortcut for all levels, or "identity". Default: identity alone, the logit lens.
        k : int
            How many most likely tokens are kept for each token and level.
        gate : Gate, str, or mapping of shortcut -> Gate or str, optional
            What decides when a token exits (`exit_level`): for all shortcuts, or for those named. A text,
            such as "95%", is a calibrated gate of a kept jump.
        chat : bool
            Put the prompt into the tokenizer's chat template.
        system : str, optional
            The system message of the chat.
        target : str, optional
            For an encoder-decoder: the text whose tokens the decoder predicts. The prompt is its source.
        last : int, optional
            Show only this many tokens from the end. The model still runs over the whole prompt.
        model_name : str, optional
            What figures call the model.
        allow_other_weights : bool
            Take shortcuts for a model whose weights differ from those that they were fitted to.

        Returns
        -------
        Trajectory

        Raises
        ------
        ModelError
            If the model cannot be read, or a shortcut does not belong to it.
        OneJumpError
            If the prompt is empty or too long, or an option is not accepted.
        """
        transformer = model if isinstance(model, Transformer) else Transformer(model)
        vocabulary = transformer.head.vocabulary
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= vocabulary:
            raise OneJumpError(f"k: {k!r} given, a whole number from 1 to {vocabulary} is accepted")
        sources = named_sources(shortcuts)
        gates = gates_for(gate, sources)
        methods = shortcuts_at(sources, transformer, allow_other_weights=allow_other_weights)
        text = prompted(transformer, tokenizer, prompt, chat=chat, system=system, target=target, last=last)
        reader = Reader(states_of(transformer, text.prompts), transformer.head, methods)
        name = (
            model_name or str(getattr(transformer.model, "name_or_path", "")).rstrip("/").rpartition("/")[2]
        )
        found = cls(
            reader,
            text,
            tokenizer,
            prompt=prompt,
            model_name=name or type(transformer.model).__name__,
            task=transformer.task,
            k=k,
        )
        found.origins = {one: told(source) for one, source in sources.items()}
        for shortcut, chosen in gates.items():
            found.gates[shortcut] = chosen
            found._exits[shortcut] = reader.exit_levels(shortcut, chosen)
        return found

    @classmethod
    def from_results(
        cls, pair: str | Path, prompt: str, methods: Sequence[str] | None = None, **options: Any
    ) -> Self:
        """Read the trajectory of a prompt by the shortcuts of a results folder.

        Parameters
        ----------
        pair : path
            The folder of a model and a corpus: `results/<study>/<model>/<corpus>`. The model is loaded from
            where the study had it.
        prompt : str
        methods : sequence of str, optional
            As in `load_shortcuts`. Default: all in the folder that read one state at one level.
        **options
            As in `from_prompt`.

        Returns
        -------
        Trajectory

        Raises
        ------
        OneJumpError
            If the folder is no such folder, the model cannot be loaded, or as in `from_prompt`.
        """
        from onejump.lens.results import load_results

        loaded = load_results(pair, methods)
        options = {"model_name": loaded.name, **options}
        return cls.from_prompt(
            loaded.transformer, loaded.tokenizer, loaded.prefix + prompt, loaded.shortcuts, **options
        )

    def to_pandas(self) -> pd.DataFrame:
        """Give a tidy table: a row for each shortcut, level, position, and place among the k best.

        Returns
        -------
        DataFrame
            With columns shortcut, level, position, token, token_id, next_token, next_id, exit_level (if the
            shortcut has a gate), place (1 to k), prediction, prediction_id, probability; and entropy,
            surprisal, rank, forward_kl and agreement, which are the same for all places.
        """
        import pandas as pd

        tables = []
        for name in self.shortcuts:
            ids = self.top_ids(name)
            level, at, place = (index.ravel() for index in np.indices(ids.shape))
            exits = self._exits.get(name)
            columns = {
                "shortcut": name,
                "level": level,
                "position": np.array(self.positions)[at],
                "token": np.array(self.tokens, object)[at],
                "token_id": np.array(self.token_ids)[at],
                "next_token": np.array(self.next_tokens, object)[at],
                "next_id": pd.array([*self.next_ids], dtype="Int64")[at],
                "exit_level": pd.array([pd.NA] * len(at) if exits is None else exits[at], dtype="Int64"),
                "place": place + 1,
                "prediction": self.top_tokens(name).ravel(),
                "prediction_id": ids.ravel(),
                "probability": self.probabilities(name).ravel(),
            }
            for statistic in STATISTICS:
                if statistic != "probability":
                    columns[statistic] = self.statistic(statistic, name)[level, at]
            columns["agreement"] = self.agreement(name)[level, at]
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def figure(self, shortcut: str | None = None, statistic: str = "probability") -> Any:
        """Draw an interactive heat map, tokens by levels.

        Parameters
        ----------
        shortcut, statistic : str
            What is shown first. Menus switch both.

        Returns
        -------
        plotly.graph_objects.Figure
        """
        from onejump.lens.interactive import figure_of

        return figure_of(self, self._name(shortcut), statistic)

    def draw(self, shortcut: str | None = None, statistic: str = "probability") -> Figure:
        """Draw the heat map of a shortcut and a statistic with matplotlib, for papers.

        Parameters
        ----------
        shortcut, statistic : str

        Returns
        -------
        matplotlib.figure.Figure
        """
        from onejump.lens.printed import drawing_of

        return drawing_of(self, self._name(shortcut), statistic)

    def to_html(self, shortcut: str | None = None, statistic: str = "probability") -> str:
        """Give a page with the interactive figure that needs nothing else: it opens offline.

        Parameters
        ----------
        shortcut, statistic : str
            What is shown first.
        """
        from onejump.lens.page import page_of

        return page_of([self], [self._name(shortcut)], statistic)

    def save_html(
        self, path: str | Path, shortcut: str | None = None, statistic: str = "probability"
    ) -> None:
        """Write that page as one file."""
        page = self.to_html(shortcut, statistic)
        with replacing(path) as fresh:
            fresh.write_text(page, encoding="utf-8")

    def to_text(
        self, shortcut: str | None = None, *, width: int = 100, levels: Sequence[int] | None = None
    ) -> str:
        """Give a compact table of the most likely tokens for a terminal: as many tokens as its width holds.

        Parameters
        ----------
        shortcut : str, optional
        width : int
            Characters in a line.
        levels : sequence of int, optional
            Default: all.
        """
        from onejump.lens.terminal import table_of

        return table_of(self, self._name(shortcut), width, self.levels if levels is None else levels)

    def __repr__(self) -> str:
        return (
            f"Trajectory({self.model_name}, {len(self.tokens)} tokens, levels 0..{self.levels[-1]}, "
            f"{', '.join(self.shortcuts)})"
        )
