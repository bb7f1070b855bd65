"""Compare ways to decode the same prompts, one after the other in one run.

Times of one machine differ from minute to minute, so every way decodes a prompt before the next prompt comes,
and each is compared with `model.generate` on that prompt.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.exits.gates import Gate
from onejump.models.transformer import RUN_ERRORS, Transformer
from onejump.runtime import transformers_decoding
from onejump.runtime.cost_model import Fixed, Policy
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.packing import can_be_packed, packed
from onejump.runtime.predictor import reads_previous
from onejump.runtime.record import Generated

REFERENCE = "model.generate"
LOOKUP = "prompt lookup"
ASSISTANT = "assistant_early_exit"
PLAIN = "plain"
RECALL, VERIFIED_RECALL = "recall", "verified + recall"
MODES = ("verified", "trusted", "copied")
METHODS = (REFERENCE, LOOKUP, ASSISTANT, PLAIN, RECALL, VERIFIED_RECALL, *MODES)
"""The ways to decode: transformers' own, its prompt lookup and self-speculation; then onejump's."""
LOSSLESS = (PLAIN, RECALL, VERIFIED_RECALL, "verified")
"""Onejump's ways whose texts are the full model's own."""
RECALLED_BY = 2
"""Tokens in a row that recall a draft (`onejump.runtime.recall`), unless another number is given."""
LOOKED_UP = 3
"""Tokens that prompt lookup drafts (transformers' `prompt_lookup_num_tokens`)."""

PROMPTS = (
    "Explain in three sentences why the sky is blue.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Repeat this sentence three times: The quick brown fox jumps over the lazy dog.",
    "List five things to pack for a week in the mountains.",
    "A train leaves at 9:40 and arrives at 12:05. How long does it take? Think step by step.",
    "Write a short story about a lighthouse keeper who finds a letter.",
)
"""Prompts to compare on where none are given."""


@dataclass(frozen=True)
class Run:
    """One way's decoding of one batch of prompts."""

    method: str
    batch: int
    """Which prompts: the number of their batch."""
    repeat: int
    tokens: list[list[int]]
    """New tokens of each row, up to its stop token."""
    seconds: float
    record: Generated | None = None
    """What onejump says of the generation."""

    @property
    def rate(self) -> float:
        """New tokens of all rows for each second."""
        return sum(map(len, self.tokens)) / self.seconds


@dataclass
class Summary:
    """What the runs of one way show."""

    method: str
    tokens_per_second: float
    """Median over the runs."""
    ratio: float
    """Median, over the runs, of the rate by that of `model.generate` on the same prompts."""
    same: int
    """Texts that are those of `model.generate`, token by token."""
    texts: int
    tokens_per_pass: float | None = None
    """New tokens of all rows for each pass through all blocks, without the passes over prompts; None where
    transformers does not say it."""
    blocks: float | None = None
    """Blocks that were run for each token, mean; None where transformers does not say it."""
    agreement: float | None = None
    """Share of exits where the full model said the same."""
    acceptance: float | None = None
    """Share of exits whose token was kept."""
    flops_saved: float | None = None
    """Share of floating-point operations that exits saved."""


def recalling(policy: Policy | None, *, exits: bool = True) -> Policy | None:
    """Give the policy that also recalls drafts.

    A fixed one recalls as many as it lets exits make, and at least one, unless it says a number itself.
    Without exits it recalls these alone.
    """
    if not isinstance(policy, Fixed):
        return policy if exits else None
    recalled = policy.recalled or max(policy.drafts, 1)
    return replace(policy, drafts=policy.drafts if exits else 0, recalled=recalled)


def complete(runs: Sequence[Run]) -> list[Run]:
    """Give the runs on those prompts that all ways have decoded."""
    methods = {run.method for run in runs}
    done: dict[tuple[int, int], set[str]] = {}
    for run in runs:
        done.setdefault((run.batch, run.repeat), set()).add(run.method)
    return [run for run in runs if done[run.batch, run.repeat] == methods]


def summaries_of(runs: Sequence[Run]) -> list[Summary]:
    """Summarise the runs of each way, in the order of `METHODS`.

    Parameters
    ----------
    runs : sequence of Run
        In which `model.generate` has decoded whatever another way has.
    """
    found = []
    reference = {(run.batch, run.repeat): run for run in runs if run.method == REFERENCE}
    for method in METHODS:
        own = [(run, reference[run.batch, run.repeat]) for run in runs if run.method == method]
        if not own:
            continue
        same = [
            text == expected
            for run, other in own
            for text, expected in zip(run.tokens, other.tokens, strict=True)
        ]
        summary = Summary(
            method,
            statistics.median(run.rate for run, _ in own),
            statistics.median(run.rate / other.rate for run, other in own),
            sum(same),
            len(same),
        )
        _add_records(summary, [run.record for run, _ in own if run.record is not None])
        found.append(summary)
    return found


def _add_records(summary: Summary, records: Sequence[Generated]) -> None:
    if not records:
        return
    decoded = sum(record.decoded for record in records)
    compared, drafted = (sum(getattr(record, name) for record in records) for name in ("compared", "drafted"))
    plain = sum(record.plain_flops for record in records)
    passes = sum(record.full_passes for record in records)
    if passes:
        summary.tokens_per_pass = decoded / passes
    if decoded:
        summary.blocks = sum(record.block_passes for record in records) / decoded
    if compared:
        summary.agreement = sum(record.agreed for record in records) / compared
    if drafted:
        summary.acceptance = sum(record.accepted for record in records) / drafted
    if plain:
        summary.flops_saved = 1 - sum(record.flops for record in records) / plain


class Bench:
    """Ways to decode with one model, ready to run.

    Parameters
    ----------
    transformer : Transformer
    jump : OneJump or Shortcut
    gate : Gate or None
    padding : int
        Token that pads prompts of a batch.
    max_new_tokens : int
        Of each text.
    methods : sequence of str
        Of `METHODS`; `model.generate` always runs. recall: without exits, drafts from the text alone.
    policy : callable, optional
        Makes the policy of a mode, and of recall if it is `Fixed`; None: its default.
    recall : int
        Tokens in a row that recall a draft.
    assistant_level : int, optional
        Blocks of transformers' self-speculation. Default: the first level above 0 that the gate checks.

    Attributes
    ----------
    left_out : dict of method -> str
        Ways that do not run with this model, and why.
    wide : bool
        Whether an exit may have several candidates with this model.

    Raises
    ------
    OneJumpError
        If a method is not known.
    """

    def __init__(
        self,
        transformer: Transformer,
        jump: Any,
        gate: Gate | None,
        *,
        padding: int,
        max_new_tokens: int,
        methods: Sequence[str] = METHODS,
        policy: Callable[[], Policy | None] = lambda: None,
        recall: int = RECALLED_BY,
        assistant_level: int | None = None,
    ) -> None:
        if unknown := [method for method in methods if method not in METHODS]:
            raise OneJumpError(f"method {unknown[0]!r} given, accepted are {', '.join(METHODS)}")
        self.methods = [method for method in METHODS if method in methods or method == REFERENCE]
        self._transformer, self._model = transformer, transformer.model
        self._padding, self._new_tokens = padding, max_new_tokens
        self._sourced = transformer.task == "seq2seq"
        levels = [level for level in (() if gate is None else gate.levels) if level > 0]
        self.assistant_level = assistant_level or (
            levels[0] if levels else max(1, len(transformer.blocks) // 4)
        )
        self.left_out: dict[str, str] = {}
        self._engines: dict[str, EarlyExit] = {}
        without_jump = PLAIN, RECALL
        engines = [method for method in self.methods if method in (*without_jump, VERIFIED_RECALL, *MODES)]
        # Packed once for all of them.
        view = packed(transformer) if engines and can_be_packed(transformer) else transformer
        for method in engines:
            exits: dict[str, Any] = {"gate": None}
            if method not in without_jump:
                mode = method if method in MODES else "verified"
                exits = {"gate": gate, "mode": mode, "policy": policy()}
            if method == "copied" and reads_previous(getattr(jump, "shortcut", jump)):
                self.left_out[method] = "the jump reads a state of the token before that exits do not have"
                continue
            if method in (RECALL, VERIFIED_RECALL):
                exits["recall"] = recall
                exits["policy"] = recalling(policy(), exits=method == VERIFIED_RECALL)
            used = None if method in without_jump else jump
            self._engines[method] = EarlyExit(view, used, packed=False, **exits)
        self.wide = all(engine.passes.rows_differ for engine in self._engines.values())

    def compare(
        self, prompts: Sequence[Sequence[int]], *, batch: int = 1, repeats: int = 1, warm_up: int = 8
    ) -> Iterator[Run]:
        """Decode all prompts in every way, and give each run once it is done.

        Parameters
        ----------
        prompts : sequence of sequences of token ids
        batch : int
            Prompts that are decoded together, in their order.
        repeats : int
        warm_up : int
            Tokens that every way decodes beforehand; these runs are not given.
        """
        # Of sources, encoders count positions from a row's first column on.
        side = "right" if self._sourced else "left"
        batches = [
            _padded(prompts[start : start + batch], self._padding, side)
            for start in range(0, len(prompts), batch)
        ]
        if batch > 1:
            reason = "transformers takes one prompt at a time"
            self.left_out |= {method: reason for method in self.methods if method in (LOOKUP, ASSISTANT)}
        if warm_up:
            for method in self.methods:
                self._timed(method, batches[0], 0, 0, min(warm_up, self._new_tokens))
        turn = 0
        for repeat in range(repeats):
            for number, padded in enumerate(batches):
                # Each way has its turn at being first, when the machine has just rested.
                first = turn % len(self.methods)
                turn += 1
                for method in self.methods[first:] + self.methods[:first]:
                    run = self._timed(method, padded, number, repeat, self._new_tokens)
                    if run is not None:
                        yield run

    def runs(self, prompts: int, *, batch: int = 1, repeats: int = 1) -> int:
        """Count the runs that `compare` makes if no way is left out."""
        return len(self.methods) * -(-prompts // batch) * repeats

    def _timed(
        self, method: str, padded: tuple[Tensor, Tensor], number: int, repeat: int, new_tokens: int
    ) -> Run | None:
        """One run; None where the way does not run with this model."""
        if method in self.left_out:
            return None
        tokens, mask = (part.to(self._transformer.device) for part in padded)
        record, sequences = None, tokens
        try:
            _wait_for(self._transformer.device)
            began = time.perf_counter()
            if method in self._engines:
                record = self._engines[method].generate(
                    tokens, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, num_beams=1
                )
            else:
                options: dict[str, Any] = {"new_tokens": new_tokens, "padding": self._padding}
                if method == LOOKUP:
                    options["prompt_lookup_num_tokens"] = LOOKED_UP
                if method == ASSISTANT:
                    options["assistant_early_exit"] = self.assistant_level
                sequences = transformers_decoding.generate(self._model, tokens, mask, **options)
            _wait_for(self._transformer.device)
            seconds = time.perf_counter() - began
        except RUN_ERRORS as error:
            if method in (LOOKUP, ASSISTANT):
                self.left_out[method] = " ".join(str(error).split())[:100] or type(error).__name__
                return None
            raise
        if record is not None:
            return Run(method, number, repeat, record.new_tokens, seconds, record)
        begins = 1 if self._sourced else tokens.shape[1]
        new = transformers_decoding.new_tokens_of(self._model, sequences, begins)
        return Run(method, number, repeat, new, seconds)


def _padded(prompts: Sequence[Sequence[int]], padding: int, side: str) -> tuple[Tensor, Tensor]:
    """Tokens (rows, longest), padded on one side, and their attention mask."""
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), padding)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        at = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
        tokens[row, at], mask[row, at] = torch.tensor(prompt), 1
    return tokens, mask


def _wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
