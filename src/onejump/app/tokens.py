"""A text as it grows, for a page: each token on the colour of its exit level, which hovering names too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from torch import Tensor

from onejump.runtime.record import Generated
from onejump.runtime.streamer import WEB_COLOURS, Pieces, step_of


class Piece(NamedTuple):
    """Some tokens that make up whole characters."""

    text: str
    level: int
    """The latest of their exit levels; L: the full model's."""
    rejected: bool = False
    """Whether they are drafts that were thrown away."""


class TokenText:
    """A streamer that keeps the text of one generation as pieces.

    A generation writes it in one thread, and a page reads it in another.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    blocks : int
        L, the number of the model's blocks.
    levels : sequence of int
        Early-exit levels that the gate checks; none for a plain run.
    """

    def __init__(self, tokenizer: Any, blocks: int, levels: Sequence[int] = ()) -> None:
        self.blocks, self.levels = blocks, sorted(levels)
        self.pieces: list[Piece] = []
        self.exit_levels: list[int] = []
        self.record: Generated | None = None
        self.began = time.perf_counter()
        self._pieces = Pieces(tokenizer, skip_special_tokens=True)
        self._latest = 0

    def watch(self, record: Generated) -> None:
        """Keep the record, whose counts grow while the generation runs."""
        self.record = record
        self.began = time.perf_counter()

    def put(self, tokens: Tensor) -> None:
        """Take the prompt, which is not shown."""

    def exits(
        self, row: int, tokens: Sequence[int], levels: Sequence[int], rejected: Sequence[int] = ()
    ) -> None:
        """Take new tokens with their exit levels, and the drafts that were thrown away."""
        drafts = len(tokens) - 1 if rejected else len(tokens)
        self._take(tokens[:drafts], levels[:drafts])
        if rejected:
            text = self._pieces.preview(rejected, skip_special_tokens=False)
            self.pieces.append(Piece(text.replace("\n", "⏎"), self.blocks, rejected=True))
        self._take(tokens[drafts:], levels[drafts:])

    def end(self) -> None:
        """Take the rest of a text that ends inside a character."""
        if text := self._pieces.rest():
            self.pieces.append(Piece(text, self._latest))
        self._latest = 0

    def _take(self, tokens: Sequence[int], levels: Sequence[int]) -> None:
        for token, level in zip(tokens, levels, strict=True):
            self.exit_levels.append(level)
            self._latest = max(self._latest, level)
            if text := self._pieces.add(token):
                self.pieces.append(Piece(text, self._latest))
                self._latest = 0

    def text(self) -> str:
        """Give the text so far, without rejected drafts."""
        return "".join(piece.text for piece in list(self.pieces) if not piece.rejected)

    def html(self) -> str:
        """Give the text so far as HTML. What the model wrote is escaped."""
        return "".join(self._painted(piece) for piece in list(self.pieces))

    def legend(self) -> str:
        """Give the line that explains the colours, as HTML; nothing for a plain run."""
        if not self.levels:
            return ""
        groups: dict[int, list[int]] = {}
        for level in self.levels:
            groups.setdefault(step_of(level, self.levels), []).append(level)
        chips = [
            f'<span data-step="{step}">{group[0] if len(group) == 1 else f"{group[0]}–{group[-1]}"}</span>'
            for step, group in groups.items()
        ]
        return (
            f'<p class="onejump-legend">Exit at level {" ".join(chips)} · no colour: all {self.blocks} '
            "blocks · <del>rejected draft</del></p>"
        )

    def _painted(self, piece: Piece) -> str:
        text = escape(piece.text)
        if piece.rejected:
            return f'<del title="rejected draft: the full model said what follows">{text}</del>'
        if piece.level >= self.blocks or not self.levels:
            return f'<span title="all {self.blocks} blocks">{text}</span>'
        step = step_of(piece.level, self.levels)
        return (
            f'<span data-step="{step}" data-level="{piece.level}" '
            f'title="exit at level {piece.level} of {self.blocks}">{text}</span>'
        )


COLOUR_RULES = "\n".join(
    f'[data-step="{step}"] {{ background: {colour}; }}' for step, colour in enumerate(WEB_COLOURS)
)
"""Rules of a style sheet: the colour of each step."""
