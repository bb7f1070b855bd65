"""One generation, as a page watches it: the text so far and what it has cost so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from onejump.app.inputs import (
    check_length,
    checked_levels,
    checked_number,
    checked_prompt,
    checked_whole,
)
from onejump.app.served import NO_JUMP, Served, Stop
from onejump.app.tokens import TokenText
from onejump.base.errors import OneJumpError
from onejump.exits.gates import GATES, Gate
from onejump.runtime.chat import prompt_tokens
from onejump.runtime.cost_model import Fixed
from onejump.runtime.decoding import MODES
from onejump.runtime.loading import NO_GATE, gate_from_text
from onejump.runtime.record import Generated

# Seconds between two updates of the page.
_PERIOD = 0.1
MOST_TEMPERATURE = 5.0
MOST_SEED = 2**31 - 1
MOST_DRAFTS = 16
"""Most drafts of a round, candidates of an exit, and tokens that recall a draft."""


@dataclass(frozen=True)
class Asked:
    """What somebody asks for, checked."""

    prompt: str
    chat: bool
    """Whether the prompt goes into the model's chat template."""
    jump: str
    gate: Gate | None
    mode: str
    new_tokens: int
    temperature: float
    """0: the most likely token is taken."""
    seed: int
    recall: int = 0
    """Last tokens that recall a draft from the text; 0: none is recalled."""
    policy: Fixed | None = None
    """How far a round drafts; None: what pays, as measured on the way."""

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that tokens may exit at; recalled drafts count as exits at level 0."""
        checked = () if self.gate is None else self.gate.levels
        return tuple(sorted({*checked, *([0] if self.recall else [])}))

    def plain(self) -> Asked:
        """Give the same without exits and recalled drafts."""
        return Asked(
            self.prompt, self.chat, NO_JUMP, None, "verified", self.new_tokens, self.temperature, self.seed
        )


def asked_for(
    served: Served,
    *,
    prompt: Any,
    chat: Any = True,
    jump: Any = NO_JUMP,
    gate: Any = NO_GATE,
    threshold: Any = None,
    levels: Any = "",
    mode: Any = "verified",
    new_tokens: Any = 32,
    temperature: Any = 0.0,
    seed: Any = 0,
    recall: Any = 0,
    drafts: Any = 0,
    candidates: Any = 1,
    recalled: Any = 0,
) -> Asked:
    """Check what the controls of the page say.

    Parameters
    ----------
    served : Served
    prompt, chat, jump, gate, threshold, levels, mode, new_tokens, temperature, seed : object
        As they came from the page. gate: the name of a calibrated gate of the jump, a kind, which takes the
        threshold and the levels, or "none".
    recall, drafts, candidates, recalled : object
        The same: by how many tokens drafts are recalled, and the numbers of a fixed policy. drafts 0: what
        pays. recalled 0: as many as drafts.

    Raises
    ------
    OneJumpError
        If something is not accepted; the message is for the page.
    """
    text = checked_prompt(prompt, served.limits)
    if mode not in MODES:
        raise OneJumpError(f"Mode: {mode!r} given, accepted is {', '.join(MODES)}.")
    if jump != NO_JUMP and jump not in served.jumps:
        raise OneJumpError(f"Jump: {jump!r} given, accepted is {', '.join([*served.jumps, NO_JUMP])}.")
    return Asked(
        text,
        bool(chat),
        jump,
        None if jump == NO_JUMP else _gate(served, jump, gate, threshold, levels),
        mode,
        checked_whole("New tokens", new_tokens, 1, served.limits.new_tokens),
        checked_number("Temperature", temperature, 0, MOST_TEMPERATURE),
        checked_whole("Seed", seed, 0, MOST_SEED),
        *_drafting(mode, recall, drafts, candidates, recalled),
    )


def _drafting(
    mode: str, recall: Any, drafts: Any, candidates: Any, recalled: Any
) -> tuple[int, Fixed | None]:
    """Check by how many tokens drafts are recalled, and how far a round drafts."""
    by = checked_whole("Recall", recall, 0, MOST_DRAFTS)
    chain = checked_whole("Drafts", drafts, 0, MOST_DRAFTS)
    width = checked_whole("Candidates", candidates, 1, MOST_DRAFTS)
    most = checked_whole("Recalled drafts", recalled, 0, MOST_DRAFTS)
    for name, number, none in (("Recall", by, 0), ("Candidates", width, 1)):
        if number > none and mode != "verified":
            raise OneJumpError(f"{name}: {number} given with the mode {mode}, accepted is {none}.")
    if most and not by:
        raise OneJumpError(
            f"Recalled drafts: {most} given with Recall 0: say how many tokens recall a draft."
        )
    if chain:
        return by, Fixed(chain, width, recalled=(most or chain) if by else 0)
    for name, number, none in (("Candidates", width, 1), ("Recalled drafts", most, 0)):
        if number > none:
            raise OneJumpError(f"{name}: {number} given with Drafts 0: say how many drafts, such as 1.")
    return by, None


def _gate(served: Served, jump: str, gate: Any, threshold: Any, levels: Any) -> Gate | None:
    calibrated = served.jumps[jump].gates
    name = str(gate)
    if name not in GATES:
        return gate_from_text(name, calibrated=calibrated)
    checked = checked_levels(levels, served.blocks)
    if name == "patience":
        number: float = checked_whole("Threshold", threshold, 1, served.blocks)
    else:
        number = checked_number("Threshold", threshold, 0, 1)
    return gate_from_text(f"{name}:{number}", calibrated={}, levels=checked, blocks=served.blocks)


@dataclass(frozen=True)
class Update:
    """What the page shows of a generation at one moment."""

    text: TokenText
    result: Generated | None
    """None while it runs."""
    seconds: float
    waiting: bool = False
    """Whether it waits for another request."""
    stopped: bool = False
    """Whether somebody stopped it."""


def updates(served: Served, asked: Asked, stop: Stop) -> Iterator[Update]:
    """Generate, and give an update about ten times a second, and one at the end.

    Parameters
    ----------
    served : Served
    asked : Asked
    stop : Stop
        Ends the generation. Closing the iterator does so, too.

    Raises
    ------
    OneJumpError
        If the model cannot generate so.
    """
    loaded = served.loaded
    tokens = prompt_tokens(loaded.tokenizer, asked.prompt, raw=not asked.chat)
    check_length(tokens.shape[1], served.limits)
    text = TokenText(loaded.tokenizer, served.blocks, asked.levels)
    begun, changed, done = threading.Event(), threading.Event(), threading.Event()
    sampled = asked.temperature > 0

    def work() -> Generated:
        begun.set()
        changed.set()
        engine = served.engine(asked.jump, asked.gate, asked.mode, asked.policy, asked.recall)
        return engine.generate(
            tokens.to(loaded.transformer.device),
            max_new_tokens=asked.new_tokens,
            num_beams=1,
            do_sample=sampled,
            temperature=asked.temperature if sampled else None,
            stopping_criteria=[stop, served.closed],
            streamer=_Telling(text, changed),
            generator=torch.Generator().manual_seed(asked.seed) if sampled else None,
        )

    def finished(_: Any) -> None:
        done.set()
        changed.set()

    future = served.run(work)
    future.add_done_callback(finished)
    try:
        while not done.is_set():
            yield Update(text, None, _elapsed(text, begun), waiting=not begun.is_set())
            changed.wait()
            changed.clear()
            done.wait(_PERIOD)
        if future.cancelled():  # the page was closed
            return
        result = future.result()
        yield Update(text, result, result.seconds, stopped=stop.asked or served.closed.asked)
    finally:
        stop.ask()
        future.cancel()


class _Telling:
    """A streamer that passes everything on to another, and then tells a waiting thread."""

    def __init__(self, text: TokenText, changed: threading.Event) -> None:
        self._text, self._changed = text, changed
        self.watch, self.put, self.end = text.watch, text.put, text.end

    def exits(self, *told: Any) -> None:
        self._text.exits(*told)
        self._changed.set()


def _elapsed(text: TokenText, begun: threading.Event) -> float:
    return time.perf_counter() - text.began if begun.is_set() and text.record is not None else 0.0


def numbers(update: Update, most: int) -> dict[str, str]:
    """Give what the page says of a generation, by what it is.

    Parameters
    ----------
    update : Update
    most : int
        Most new tokens.
    """
    text, record = update.text, update.result or update.text.record
    if record is None:
        return {}
    made = len(text.exit_levels)
    early = sum(level < text.blocks for level in text.exit_levels)
    per_token = record.block_passes / (made - 1) if made > 1 else float(text.blocks)
    rate = made / update.seconds if update.seconds else 0.0
    found = {
        "Tokens": f"{made} of at most {most}",
        "Tokens per second": f"{rate:.1f}",
        "Seconds": f"{update.seconds:.1f}",
        "Tokens that exited early": _share(early, made),
        "Drafts accepted": _share(record.accepted, record.drafted),
        "Drafts rejected": _share(record.drafted - record.accepted, record.drafted),
        **(
            {"Recalled drafts accepted": _share(record.recalled_kept, record.recalled)}
            if record.recalled
            else {}
        ),
        "Same as the full model": _share(record.agreed, record.compared),
        "Blocks for each token": f"{per_token:.1f} of {text.blocks} ({_saved(1 - per_token / text.blocks)})",
        "Passes through all blocks": _passes(record.full_passes, max(made - 1, 0)),
    }
    if update.result is not None:
        found["Operations (FLOPs)"] = _saved(update.result.flops_saved)
    return found


def _passes(passes: int, tokens: int) -> str:
    return f"{passes} for {tokens} tokens" + (f" ({tokens / passes:.2f} each)" if passes else "")


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "none"


def _saved(share: float) -> str:
    if round(share, 2) == 0:
        return "none saved"
    return f"{share:.0%} saved" if share > 0 else f"{-share:.0%} more"


def compared(exits: TokenText, plain: TokenText) -> str:
    """Say whether the texts of two runs of the same prompt are the same."""
    first, second = exits.text(), plain.text()
    if first == second:
        return "Both runs gave the same text."
    same = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if same is None:
        return "One text is the beginning of the other."
    return f"The two texts differ from here on: “{escape(first[max(0, same - 15) : same + 15])}”"
