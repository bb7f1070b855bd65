"""Show generated text as it grows, each token in the colour of its exit level.

The engine tells a streamer that has a method `exits` where each token exited and which drafts it threw away.
Any other streamer gets what `model.generate` gives it. The streamer here has both, so that it also shows the
text of a plain `model.generate`.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from typing import Any, Protocol, TextIO, runtime_checkable

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from onejump.base.errors import OneJumpError
from onejump.runtime.record import Generated

# Backgrounds of the 256 colours that terminals share, from the earliest exit to the latest: orange, yellow,
# pale yellow, pale blue, blue, dark blue. Black text has a contrast of 5.9 or more on each, whatever the
# terminal's own background is, and the colour-blind can tell any two apart.
COLOURS = (208, 220, 187, 152, 110, 68)
WEB_COLOURS = ("#ff8700", "#ffd700", "#d7d7af", "#afd7d7", "#87afd7", "#5f87d7")
"""The same colours for a page."""
_BLACK = 16
# Dim and struck through: a terminal that cannot do one of them often can do the other.
_REJECTED = "\x1b[2;9m"
_RESET = "\x1b[0m"
# A model may write characters that command a terminal. Pictures of them are shown instead.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_PART_OF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@runtime_checkable
class SeesExits(Protocol):
    """A streamer that the engine tells where each token exited."""

    def put(self, tokens: Tensor) -> None:
        """Take the prompt (rows, n), once, before the first new token."""

    def exits(
        self, row: int, tokens: Sequence[int], levels: Sequence[int], rejected: Sequence[int] = ()
    ) -> None:
        """Take new tokens of a row, once they are final.

        Parameters
        ----------
        row : int
            Row of the batch.
        tokens : sequence of int
            In their order.
        levels : sequence of int
            Level that each of them was predicted at. L: by the full model.
        rejected : sequence of int
            Drafts that were thrown away. They stood where the last of `tokens` stands now.
        """

    def end(self) -> None:
        """Take note that no more tokens come."""


@runtime_checkable
class Watches(Protocol):
    """A streamer that looks at what a generation has cost so far."""

    def watch(self, record: Generated) -> None:
        """Take the record of a generation, once, before its first pass. Its counts grow while it runs."""


class Pieces:
    """Decode a growing list of tokens, each character as soon as all of its tokens are there.

    Only the last few tokens are decoded again, so a long text costs no more per token than a short one.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    **decoding
        Arguments of the tokenizer's `decode`.
    """

    def __init__(self, tokenizer: Any, **decoding: Any) -> None:
        self._tokenizer, self._decoding = tokenizer, decoding
        # The tokens of the piece given last, which say how the next ones begin: a word that follows another
        # has a space before it. Then tokens whose text has not been given yet.
        self._given: list[int] = []
        self._held: list[int] = []

    def add(self, token: int) -> str:
        """Give the text that this token completes: "" if it ends inside a character, or has no text."""
        self._held.append(token)
        text = self.preview()
        if not text or text.endswith(_PART_OF_A_CHARACTER):
            return ""
        self._given, self._held = self._held, []
        return text

    def rest(self) -> str:
        """Give the text of tokens that completed no character, and begin anew."""
        text = self.preview()
        self._given, self._held = [], []
        return text

    def preview(self, tokens: Sequence[int] = (), **decoding: Any) -> str:
        """Give the text that has not been given yet, as if these tokens came next."""
        before = self._decode(self._given, decoding)
        after = self._decode([*self._given, *self._held, *tokens], decoding)
        if after.startswith(before):
            return after[len(before) :]
        # A tokenizer that tidies its text can take back a space ("word ." becomes "word.").
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
        return after[alike:]

    def _decode(self, tokens: list[int], decoding: Mapping[str, Any]) -> str:
        return str(self._tokenizer.decode(tokens, **{**self._decoding, **decoding})) if tokens else ""


class ExitStreamer(BaseStreamer):  # type: ignore[misc]
    """Write the text of one generation, each token on the colour of its exit level.

    Tokens of the full model have no colour. Rejected drafts are dim and struck through, before the token
    that the full model put in their place. Several tokens that make up one character have the colour of the
    latest of their exits. Where the file is no terminal, the text is written as it is, without drafts and
    legend.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    blocks : int
        L, the number of the model's blocks.
    levels : collection of int, optional
        Early-exit levels that the gate checks. Default: all, 0 to L - 1.
    file : file, optional
        To write to; default: `sys.stdout`.
    colours : bool, optional
        Whether to use colours. Default: if `shows_colours(file)`.
    skip_prompt : bool
        Whether to leave out the prompt.
    legend : bool
        Whether a line that explains the colours is written before the text.
    **decoding
        Arguments of the tokenizer's `decode`; `skip_special_tokens=True` unless given.
    """

    def __init__(
        self,
        tokenizer: Any,
        blocks: int,
        *,
        levels: Collection[int] | None = None,
        file: TextIO | None = None,
        colours: bool | None = None,
        skip_prompt: bool = True,
        legend: bool = True,
        **decoding: Any,
    ) -> None:
        self._pieces = Pieces(tokenizer, **{"skip_special_tokens": True, **decoding})
        self._blocks = blocks
        self._levels = sorted(range(blocks) if levels is None else levels)
        self._file = sys.stdout if file is None else file
        self._coloured = shows_colours(self._file) if colours is None else colours
        self._skip_prompt, self._legend = skip_prompt, legend
        self._begun = False
        self._latest = 0

    def put(self, tokens: Tensor) -> None:
        """Take the prompt, then tokens of the full model: the protocol of transformers' streamers."""
        rows = tokens.shape[0] if tokens.dim() > 1 else 1
        if rows > 1:
            raise OneJumpError(f"a streamer of one row was given a batch of {rows}: stream rows one by one")
        prompt, self._begun = not self._begun, True
        if prompt and self._legend and self._coloured and self._levels:
            self._write(self.legend() + "\n")
        if not (prompt and self._skip_prompt):
            self._show(tokens.flatten().tolist(), [self._blocks] * tokens.numel())

    def exits(
        self, row: int, tokens: Sequence[int], levels: Sequence[int], rejected: Sequence[int] = ()
    ) -> None:
        """Take new tokens with their exit levels, and the drafts that were thrown away: see `SeesExits`."""
        if row != 0:
            raise OneJumpError(f"a streamer of one row was given row {row}: stream rows one by one")
        drafts = len(tokens) - 1 if rejected else len(tokens)
        self._show(tokens[:drafts], levels[:drafts])
        if rejected and self._coloured:
            text = self._pieces.preview(rejected, skip_special_tokens=False).replace("\n", "⏎")
            self._write(f"{_REJECTED}{text.translate(_PICTURES)}{_RESET}")
        self._show(tokens[drafts:], levels[drafts:])

    def end(self) -> None:
        """Write what is left, and end the line."""
        self._write(self._painted(self._pieces.rest(), self._latest) + "\n")
        self._begun, self._latest = False, 0

    def legend(self) -> str:
        """Give the line that explains the colours."""
        groups: dict[int, list[int]] = {}
        for level in self._levels:
            groups.setdefault(self._colour(level), []).append(level)
        chips = [
            _on(colour, f" {group[0]} " if len(group) == 1 else f" {group[0]}-{group[-1]} ")
            for colour, group in groups.items()
        ]
        rejected = f"{_REJECTED}rejected draft{_RESET}"
        return f"exit at level {' '.join(chips)} | no colour: all {self._blocks} blocks | {rejected}"

    def _show(self, tokens: Sequence[int], levels: Sequence[int]) -> None:
        for token, level in zip(tokens, levels, strict=True):
            self._latest = max(self._latest, level)
            if text := self._pieces.add(token):
                self._write(self._painted(text, self._latest))
                self._latest = 0

    def _painted(self, text: str, level: int) -> str:
        if not self._coloured:
            return text
        text = text.translate(_PICTURES)
        if level >= self._blocks or not self._levels:
            return text
        # A colour that goes over the end of a line may fill the line.
        colour = self._colour(level)
        return "\n".join(_on(colour, line) if line else "" for line in text.split("\n"))

    def _colour(self, level: int) -> int:
        return COLOURS[step_of(level, self._levels)]

    def _write(self, text: str) -> None:
        if text:
            self._file.write(text)
            self._file.flush()


def step_of(level: int, levels: Sequence[int]) -> int:
    """Give which of the colours an exit level has: 0 is that of the earliest exits.

    Parameters
    ----------
    level : int
    levels : sequence of int
        Early-exit levels that the gate checks, in their order.
    """
    place = max(0, bisect_right(levels, level) - 1)
    most = len(COLOURS)
    if len(levels) == 1:
        return 1
    if len(levels) <= most:
        return round(place * (most - 1) / (len(levels) - 1))
    return place * most // len(levels)


def shows_colours(file: TextIO) -> bool:
    """Whether colours are wanted and shown: on a terminal, unless NO_COLOR is set or TERM is dumb.

    FORCE_COLOR asks for colours in any file.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return file.isatty() and os.environ.get("TERM") != "dumb"


def _on(colour: int, text: str) -> str:
    return f"\x1b[38;5;{_BLACK};48;5;{colour}m{text}{_RESET}"
