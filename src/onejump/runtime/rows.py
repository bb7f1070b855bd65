"""The rows of a generation: their texts, the tokens that have not been through all blocks, and the passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onejump.models.anatomy import text_config
from onejump.models.flops import block_flops, head_flops
from onejump.models.passes import PartialPasses
from onejump.models.row_cache import Place
from onejump.runtime.record import Generated


@dataclass(eq=False)
class Pending:
    """A token that has not been through all blocks."""

    token: int
    position: int
    """In its sequence."""
    column: int
    """In the cache: the position, but for candidates of one place."""
    level: int = 0
    """The level that it has reached."""
    state: Tensor | None = None
    """Its state at that level, (H,); None at level L, unless such states are kept."""
    approximated: Tensor | None = None
    """What its exit takes for its state at level L, (H,), where the predictor reads such states."""
    guesses: list[Tensor] = field(default_factory=list)
    """Most likely next token at each level that was checked, where the gate looks back."""
    exit_level: int = 0
    """The level that it exited at, where it did."""
    draft: int | None = None
    """The next token that its exit predicted, or that was recalled."""
    recalled: bool = False
    """Whether the draft was recalled from the text."""


class Row:
    """One text of a generation.

    Parameters
    ----------
    index : int
        Row of the cache.
    prompt : list of int
    source : int
        Tokens of the text that an encoder-decoder makes this one from; 0 for a causal model.
    """

    def __init__(self, index: int, prompt: list[int], source: int = 0) -> None:
        self.index, self.prompt, self.source = index, len(prompt), source
        self.tokens = prompt
        """The prompt and the tokens that are final."""
        self.levels: list[int] = []
        """The level that each new token was predicted at."""
        self.chain: list[Pending] = []
        """The last final token, and behind it each draft that has been run; they predict each other."""
        self.candidates: list[Pending] = []
        """Several drafts for the place behind the chain, instead of one."""
        self.ended = False
        self.previous: Tensor | None = None
        """State at level L of the token before the last final one, (H,), if such states are kept."""

    @property
    def new(self) -> int:
        """New tokens so far."""
        return len(self.tokens) - self.prompt

    def begin(self) -> None:
        """Let the last final token be the only one that is pending."""
        place = len(self.tokens) - 1
        self.chain, self.candidates = [Pending(self.tokens[-1], place, place)], []

    def before(self, pending: Pending) -> Tensor:
        """Give the state at level L of the token before one of the chain.

        Of a token that exited, it is what the predictor takes for it. Of one whose draft was recalled from
        the text, nothing is known: zeros, as at the first position of a text.
        """
        index = self.chain.index(pending)
        state = self.chain[index - 1].approximated if index else self.previous
        assert self.previous is not None
        return torch.zeros_like(self.previous) if state is None else state

    def context(self, pending: Pending) -> list[int]:
        """Give all tokens up to a pending one."""
        if pending in self.candidates:
            return [*self.context(self.chain[-1]), pending.token]
        behind = self.chain.index(pending)
        return [*self.tokens, *(other.token for other in self.chain[1 : behind + 1])]


class Passes:
    """The passes of one generation, with its cache, and what they cost.

    Parameters
    ----------
    passes : PartialPasses
    rows : int
    columns : int
        Columns of the cache to begin with.
    record : Generated
        Gets what each pass costs.
    sources : sequence of list of int, optional
        Of an encoder-decoder, the text that each row is made from.
    keeps_last : bool
        Whether states at level L are kept.
    """

    def __init__(
        self,
        passes: PartialPasses,
        rows: int,
        columns: int,
        record: Generated,
        sources: Sequence[list[int]] | None = None,
        *,
        keeps_last: bool = False,
    ) -> None:
        self._passes, self._record, self._keeps_last = passes, record, keeps_last
        self.levels = passes.blocks
        self.device = passes.transformer.device
        self.cache = passes.cache(rows, columns, sources)
        self.costs = Costs(passes)

    def prompts(self, rows: Sequence[Row]) -> list[Tensor]:
        """Run all prompts through all blocks, and give the logits (V,) behind each."""
        longest = max(row.prompt for row in rows)
        tokens = torch.tensor(
            [row.tokens + [row.tokens[-1]] * (longest - row.prompt) for row in rows], device=self.device
        )
        ends = sorted({row.prompt - 1 for row in rows})
        if len(ends) == 1:
            place = Place(0)
        else:
            columns = torch.arange(longest, device=self.device).expand(len(rows), -1)
            place = Place(0, columns=columns, positions=columns, length=longest)
        at = torch.tensor(ends, device=self.device)
        kept: list[Tensor] | None = [] if self._keeps_last else None
        logits = self._passes.run(0, self.levels, tokens, place, self.cache, logits_at=at, last_states=kept)
        for index, row in enumerate(rows if kept else ()):
            # A copy, so that the states of the whole prompt are not kept.
            row.previous = kept[0][index, row.prompt - 1].clone() if kept else None
        return [logits[index, ends.index(row.prompt - 1)] for index, row in enumerate(rows)]

    def raise_to(self, rows: Iterable[Row], target: int) -> list[tuple[Row, Tensor]]:
        """Run what is pending in some rows up to a level.

        A token sees the keys and values of all tokens before it, so whatever lies below the level goes there
        together, each token from its own level on.

        Returns
        -------
        list of (Row, Tensor)
            Where the target is L: of each row the logits (n, V) of its chain and its candidates, in order.
        """
        rows = list(rows)
        logits: list[tuple[Row, Tensor]] = []
        if target == 0:
            unseen = [(row, [one for one in row.chain if one.state is None]) for row in rows]
            if unseen := [group for group in unseen if group[1]]:
                self._run(0, 0, unseen)
            return logits
        while True:
            waiting = [
                (row, [one for one in (*row.chain, *row.candidates) if one.level < target]) for row in rows
            ]
            levels = sorted({one.level for _, below in waiting for one in below})
            if not levels:
                return logits
            lowest, to = levels[0], levels[1] if len(levels) > 1 else target
            groups = [(row, [one for one in below if one.level == lowest]) for row, below in waiting]
            out = self._run(lowest, to, [group for group in groups if group[1]])
            if to == self.levels:
                logits = out

    def keys_only(self, rows: Iterable[Row], level: int) -> None:
        """Give the blocks above a level keys and values of the states that left there."""
        self._run(level, self.levels, [(row, row.chain[-1:]) for row in rows], keys_only=True)

    def _run(
        self, first: int, last: int, groups: list[tuple[Row, list[Pending]]], *, keys_only: bool = False
    ) -> list[tuple[Row, Tensor]]:
        most = max(len(pending) for _, pending in groups)
        place = self._place(groups, most)
        # Padding repeats the last token; its keys lie behind the row's own, where a later token is written.
        tokens = torch.tensor(
            [
                [one.token for one in pending] + [pending[-1].token] * (most - len(pending))
                for _, pending in groups
            ],
            device=self.device,
        )
        states = None
        if first > 0:
            states = torch.stack(
                [
                    torch.stack([_state(pending[min(index, len(pending) - 1)]) for index in range(most)])
                    for _, pending in groups
                ]
            )
        kept: list[Tensor] | None = [] if self._keeps_last and last == self.levels else None
        out = self._passes.run(
            first, last, tokens, place, self.cache, states=states, keys_only=keys_only, last_states=kept
        )
        logits = []
        for row, (of, pending) in enumerate(groups):
            if keys_only:
                continue
            for index, one in enumerate(pending):
                one.level = last
                if last < self.levels:
                    one.state = out[row, index]
                else:
                    one.state = kept[0][row, index] if kept else None
            if last == self.levels:
                logits.append((of, out[row, : len(pending)]))
        self._record.block_passes += (0 if keys_only else last - first) * sum(len(of) for _, of in groups)
        for row_of, pending in groups:
            for one in pending:
                self._record.flops += self.costs.blocks(
                    first, last, one.position, source=row_of.source, keys_only=keys_only
                )
        if logits:
            self._record.full_passes += 1
            self._record.flops += self.costs.head * sum(len(found) for _, found in logits)
        return logits

    def _place(self, groups: list[tuple[Row, list[Pending]]], most: int) -> Place:
        columns = [[one.column for one in pending] for _, pending in groups]
        start = columns[0][0]
        branches = any(row.candidates for row, _ in groups)
        all_rows = [row.index for row, _ in groups] == list(range(self.cache.rows))
        if all_rows and not branches and all(of == list(range(start, start + most)) for of in columns):
            return Place(start)
        positions = [[one.position for one in pending] for _, pending in groups]
        for row, (of, places) in enumerate(zip(columns, positions, strict=True)):
            behind = 1 + max(one.column for one in (*groups[row][0].chain, *groups[row][0].candidates))
            of += range(behind, behind + most - len(of))
            places += places[-1:] * (most - len(places))
        length = 1 + max(map(max, columns))
        return Place(
            start,
            columns=torch.tensor(columns, device=self.device),
            length=length,
            rows=None if all_rows else torch.tensor([row.index for row, _ in groups], device=self.device),
            positions=torch.tensor(positions, device=self.device),
            **(self._branches(groups, columns, length) if branches else {}),
        )

    def _branches(
        self, groups: list[tuple[Row, list[Pending]]], columns: list[list[int]], length: int
    ) -> dict[str, Tensor]:
        """Positions of columns where candidates stand side by side, and what a candidate does not see."""
        keys = torch.arange(length).repeat(len(groups), 1)
        visible = torch.ones(len(groups), len(columns[0]), length, dtype=torch.bool)
        for index, (row, pending) in enumerate(groups):
            for candidate in row.candidates:
                keys[index, candidate.column] = candidate.position
            for place, one in enumerate(pending):
                if one in row.candidates:
                    others = [other.column for other in row.candidates if other is not one]
                    visible[index, place, others] = False
        return {"key_positions": keys.to(self.device), "visible": visible.to(self.device)}


def _state(pending: Pending) -> Tensor:
    assert pending.state is not None
    return pending.state


class Costs:
    """Floating-point operations of a model's tokens (`onejump.models.flops`)."""

    def __init__(self, passes: PartialPasses) -> None:
        transformer = passes.transformer
        self._blocks = block_flops(transformer)
        self.head = head_flops(transformer.head)
        config = text_config(transformer.model)
        heads = getattr(config, "num_attention_heads", None) or 1
        width = getattr(config, "head_dim", None) or transformer.hidden // heads
        self._keys = (
            2 * 2 * transformer.hidden * width * (getattr(config, "num_key_value_heads", None) or heads)
        )

    def blocks(
        self, first: int, last: int, position: int, *, source: int = 0, keys_only: bool = False
    ) -> int:
        """Count those of a token at a position between two levels, which attends to all of its source."""
        if keys_only:
            return self._keys * (last - first)
        return sum(block.of(1, position + 1) + block.attended * source for block in self._blocks[first:last])

    def token(self, position: int, source: int = 0) -> int:
        """Count those of a token that goes through the whole model."""
        return self.blocks(0, len(self._blocks), position, source=source) + self.head
