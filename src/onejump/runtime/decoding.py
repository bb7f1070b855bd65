"""The decode loop: exit, pending, catch up, and verify.

A token that exits leaves its state pending at its level, and the token that it predicted (the draft) is run
next. When a token does not exit, or the chain of drafts is long enough, all pending states go through the
blocks above them in one pass. That pass makes the key/value cache exact, and its logits tell what the full
model would have said at each place.

| mode | what becomes of drafts |
|---|---|
| verified | kept up to the first one that the full model would not have said; the full model's token follows |
| trusted | kept whatever the full model says; how often it agrees is counted |
| copied | kept, and the full model is not asked: the exited state goes through the key and value projections of the blocks above (CALM, arXiv 2207.07061) |

Verified greedy decoding gives the full model's own tokens. Verified sampling gives the tokens that the full
model would draw with the same noise (`onejump.runtime.sampling`).
"""  # noqa: E501

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onejump.exits.gates import Gate, looks_back
from onejump.exits.learned_gate import check_flops, leaving
from onejump.models.most_likely import likeliest
from onejump.models.passes import PartialPasses
from onejump.runtime.cost_model import Policy, Round, RoundSeen
from onejump.runtime.predictor import ExitPredictor, approximated_by, coordinates_by, reads_previous
from onejump.runtime.recall import Recall
from onejump.runtime.record import Generated
from onejump.runtime.rows import Passes, Pending, Row
from onejump.runtime.sampling import Noise
from onejump.runtime.settings import Settings

MODES = ("verified", "trusted", "copied")


class Exits(NamedTuple):
    """What makes tokens exit."""

    predictor: ExitPredictor | None
    gate: Gate | None
    """Without a predictor or a gate, all drafts are recalled ones."""
    policy: Policy
    mode: str
    wide: bool = False
    """Whether an exit may propose several candidates."""
    recall: int = 0
    """Length of the runs of tokens that recall a draft from the text (`onejump.runtime.recall`); 0: none."""


class Decoding:
    """One generation.

    Parameters
    ----------
    passes : PartialPasses
    prompts : sequence of list of int
        One for each row, without padding.
    sources : sequence of list of int, optional
        Of an encoder-decoder, the text that each row is made from; a prompt is what its decoder begins with.
    settings : Settings
    exits : Exits, optional
        Without them every token goes through all blocks.
    generators : sequence of torch.Generator
        One for each row, on the CPU; only used where tokens are drawn.
    streamer : object, optional
    numbers : sequence of int, optional
        What the streamer calls the rows; unless given, 0 and so on.
    began : float, optional
        When the generation began, by `time.perf_counter`; unless given, now.
    """

    def __init__(
        self,
        passes: PartialPasses,
        prompts: Sequence[list[int]],
        settings: Settings,
        exits: Exits | None,
        generators: Sequence[torch.Generator],
        streamer: Any = None,
        *,
        sources: Sequence[list[int]] | None = None,
        numbers: Sequence[int] | None = None,
        began: float | None = None,
    ) -> None:
        self._settings, self._exits = settings, exits
        self._noise = [Noise(generator) for generator in generators]
        self._streamer = streamer
        self._numbers = range(len(prompts)) if numbers is None else numbers
        self._ends = math.inf
        if settings.seconds is not None:
            self._ends = (time.perf_counter() if began is None else began) + settings.seconds
        self._rows = [
            Row(index, list(prompt), 0 if sources is None else len(sources[index]))
            for index, prompt in enumerate(prompts)
        ]
        self._recalls = [Recall(exits.recall) for _ in prompts] if exits is not None and exits.recall else []
        self.record = Generated(torch.empty(0), [], [], passes.blocks)
        if hasattr(streamer, "watch"):
            streamer.watch(self.record)
        self._vocabulary = passes.transformer.head.vocabulary
        # Columns beyond a model's positions do no harm: only tokens that are run have a position.
        longest = max(map(len, prompts))
        self._columns = longest + min(settings.new_tokens, 256)
        self._passes, self._sources = passes, sources
        self._settings_of = [
            settings if sources is None else settings.of(sources[row.index]) for row in self._rows
        ]

    @torch.inference_mode()
    def run(self) -> Generated:
        """Generate, and give the record, without its sequences."""
        began = time.perf_counter()
        self._run = Passes(
            self._passes,
            len(self._rows),
            self._columns,
            self.record,
            self._sources,
            keeps_last=self._exits is not None and reads_previous(self._exits.predictor),
        )
        for row, logits in zip(self._rows, self._run.prompts(self._rows), strict=True):
            row.begin()
            token = int(self._scores(row, row.chain, logits[None])[0].argmax())
            self._commit(row, [token], [self._run.levels])
        self.record.prompt_seconds = time.perf_counter() - began
        while alive := [row for row in self._rows if not row.ended]:
            if time.perf_counter() > self._ends:
                break
            self._round(alive)
        record = self.record
        record.seconds = time.perf_counter() - began
        record.new_tokens = [row.tokens[row.prompt :] for row in self._rows]
        record.exit_levels = [row.levels for row in self._rows]
        record.decoded = sum(max(row.new - 1, 0) for row in self._rows)
        record.plain_flops = sum(
            self._run.costs.token(position, row.source)
            for row in self._rows
            for position in range(row.prompt, len(row.tokens) - 1)
        )
        return record

    def _round(self, rows: list[Row]) -> None:
        began = time.perf_counter()
        for row in rows:
            row.begin()
        plan = Round(0) if self._exits is None else self._exits.policy.next_round()
        if self._exits is not None and self._exits.mode == "copied":
            self._exit_once(rows, plan)
            return
        if self._exits is not None and (plan.drafts > 0 or plan.recalled > 0):
            self._draft(rows, plan)
        every = [
            self._settle(row, logits, plan) for row, logits in self._run.raise_to(rows, self._run.levels)
        ]
        if self._exits is not None:
            seconds = (time.perf_counter() - began) / len(rows)
            for seen in every:
                self._exits.policy.learn(replace(seen, seconds=seconds))

    def _draft(self, rows: list[Row], plan: Round) -> None:
        """Draft tokens, each in the place that the one before it predicted: recalled ones, or exits'."""
        going = rows
        for number in range(max(plan.drafts, plan.recalled)):
            # A chain of n drafts gives n + 1 tokens.
            going = [row for row in going if row.new + number + 2 <= self._settings.new_tokens]
            drafted = [row for row in going if number < plan.recalled and self._recall(row)]
            if number < plan.drafts:
                wide = self._exits is not None and self._exits.wide and number == plan.drafts - 1
                others = [row for row in going if row not in drafted]
                drafted += self._exit(others, plan, min(plan.width, self._vocabulary) if wide else 1)
            going = []
            for row in drafted:
                last = row.chain[-1]
                if row.candidates or last.draft is None:
                    continue
                ends = self._settings.ends([*row.context(last), last.draft], self._run.device)
                if not ends:
                    row.chain.append(Pending(last.draft, last.position + 1, last.column + 1))
                    going.append(row)

    def _recall(self, row: Row) -> bool:
        """Draft what the text had behind its last tokens before, if it had them."""
        if not self._recalls:
            return False
        last = row.chain[-1]
        last.draft = self._recalls[row.index].draft(row.tokens, [one.token for one in row.chain[1:]])
        last.recalled = last.draft is not None
        if last.recalled:
            last.exit_level = last.level
            self.record.drafted += 1
            self.record.recalled += 1
        return last.recalled

    def _exit(self, rows: list[Row], plan: Round, width: int = 1) -> list[Row]:
        """Run the newest tokens up to the levels that are checked; give the rows where they exit."""
        assert self._exits is not None
        predictor, gate = self._exits.predictor, self._exits.gate
        if predictor is None or gate is None:
            return []
        exited: list[Row] = []
        for level in gate.levels if plan.levels is None else plan.levels:
            if not rows:
                break
            self._run.raise_to(rows, level)
            newest = [row.chain[-1] for row in rows]
            states = torch.stack([one.state for one in newest if one.state is not None])
            if reads_previous(predictor):
                previous = torch.stack([row.before(row.chain[-1]) for row in rows])
                states = torch.cat([states, previous.to(states)], -1)
            logits = predictor.logits(level, states)
            self.record.flops += (predictor.flops(level) + check_flops(gate)) * len(rows)
            earlier = torch.stack([torch.stack(one.guesses) for one in newest]) if newest[0].guesses else None
            if earlier is None:
                earlier = torch.empty((len(rows), 0), dtype=torch.long, device=logits.device)
            coordinates = partial(coordinates_by, predictor, level, states)
            leave = leaving(gate, level, logits, earlier, coordinates).tolist()
            if looks_back(gate):
                for one, token in zip(newest, likeliest(logits)[:, 0], strict=True):
                    one.guesses.append(token)
            stay = []
            for index, row in enumerate(rows):
                if leave[index]:
                    self._propose(row, logits[index], width)
                    if reads_previous(predictor):
                        row.chain[-1].approximated = approximated_by(predictor, level, states[index])
                    exited.append(row)
                else:
                    stay.append(row)
            rows = stay
        return exited

    def _propose(self, row: Row, logits: Tensor, width: int) -> None:
        """Choose the draft, or the candidates, that an exit predicts."""
        last = row.chain[-1]
        last.exit_level = last.level
        self.record.drafted += 1
        scores = self._scores(row, [last], logits[None])[0]
        best = (likeliest(scores) if width == 1 else scores.topk(width).indices).tolist()
        last.draft = best[0]
        if width > 1:
            row.candidates = [
                Pending(token, last.position + 1, last.column + 1 + index) for index, token in enumerate(best)
            ]

    def _settle(self, row: Row, logits: Tensor, plan: Round) -> RoundSeen:
        """Compare drafts with the full model's logits (n, V) of the chain and the candidates."""
        pending = [*row.chain, *row.candidates]
        best = likeliest(self._scores(row, pending, logits))[:, 0].tolist()
        drafts = [one.draft for one in row.chain if one.draft is not None]
        agreed: list[bool] = []
        tokens: list[int] = []
        levels: list[int] = []
        at: Pending | None = row.chain[0]
        while at is not None:
            token = best[pending.index(at)]
            following, kept = None, False
            if at.draft is not None:
                agreed.append(at.draft == token)
                if self._exits is not None and self._exits.mode == "trusted":
                    token = at.draft
                following = self._following(row, at, token)
                # Of several candidates, another one than the most likely one may be the full model's token.
                kept = at.draft == token or following is not None
            tokens.append(token)
            levels.append(at.exit_level if kept else self._run.levels)
            if following is not None and following.column != following.position:
                self._move(row, following)
            # The next token is predicted beside the state that predicted this one.
            row.previous = at.state
            at = following
        accepted = sum(level < self._run.levels for level in levels)
        self.record.accepted += accepted
        self.record.recalled_kept += sum(one.recalled for one in row.chain[:accepted])
        self.record.compared += len(agreed)
        self.record.agreed += sum(agreed)
        before = row.new
        self._commit(row, tokens, levels, drafts[accepted:])
        return RoundSeen(
            plan=plan,
            drafted=len(drafts),
            accepted=accepted,
            committed=row.new - before,
            exit_levels=tuple(one.exit_level for one in row.chain if one.draft is not None),
            agreed=tuple(agreed),
            seconds=0.0,
            recalled=tuple(one.recalled for one in row.chain if one.draft is not None),
        )

    def _following(self, row: Row, at: Pending, token: int) -> Pending | None:
        """The pending token that a final token continues with; None where no such token was run."""
        index = row.chain.index(at) + 1
        run = row.chain[index : index + 1] or row.candidates
        return next((one for one in run if one.token == token), None)

    def _move(self, row: Row, candidate: Pending) -> None:
        """Bring the keys and values of a candidate to the column of its position."""
        at = torch.tensor([[row.index], [candidate.column], [candidate.position]], device=self._run.device)
        self._run.cache.move(at[0], at[1], at[2])

    def _exit_once(self, rows: list[Row], plan: Round) -> None:
        """Let each token exit or not; the blocks above an exit get keys and values of the exited state."""
        exited = self._exit(rows, plan) if plan.drafts > 0 else []
        for level in sorted({row.chain[0].exit_level for row in exited}):
            self._run.keys_only([row for row in exited if row.chain[0].exit_level == level], level)
        for row in exited:
            draft = row.chain[0].draft
            assert draft is not None
            self._commit(row, [draft], [row.chain[0].exit_level])
        self.record.accepted += len(exited)
        others = [row for row in rows if row not in exited]
        for row, logits in self._run.raise_to(others, self._run.levels):
            self._settle(row, logits, plan)

    def _scores(self, row: Row, pending: list[Pending], logits: Tensor) -> Tensor:
        """Give what the next token behind each pending one has to be the largest of, (n, V)."""
        contexts = [row.context(one) for one in pending] if self._settings.by_context else [()] * len(pending)
        scores = self._settings_of[row.index].processed(logits, contexts, row.prompt)
        if not self._settings.sample:
            return scores
        noise = self._noise[row.index]
        places = [one.position + 1 - row.prompt for one in pending]
        return scores + torch.stack([noise.at(place, scores[0]) for place in places])

    def _commit(self, row: Row, tokens: list[int], levels: list[int], refused: Sequence[int] = ()) -> None:
        """Make tokens final, up to one that ends the text."""
        final = 0
        for token, level in zip(tokens, levels, strict=True):
            row.tokens.append(token)
            row.levels.append(level)
            final += 1
            row.ended = row.new >= self._settings.new_tokens or self._settings.ends(
                row.tokens, self._run.device
            )
            if row.ended:
                break
        self._noise[row.index].forget(row.new)
        if self._streamer is None:
            return
        if hasattr(self._streamer, "exits"):
            # Drafts behind a token that ended the text stood in no place of it.
            refused = refused if final == len(tokens) else ()
            self._streamer.exits(self._numbers[row.index], tokens[:final], levels[:final], refused)
        else:
            for token in tokens[:final]:
                self._streamer.put(torch.tensor([token]))
