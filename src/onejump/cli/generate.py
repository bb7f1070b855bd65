"""The command that generates text: generate."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import click

from onejump.base.errors import OneJumpError
from onejump.cli.use_options import (
    MODES,
    check_candidates,
    chosen_gate,
    chosen_policy,
    exit_options,
    model_options,
    share,
    short,
)

if TYPE_CHECKING:
    from torch import Tensor

    from onejump.exits.gates import Gate
    from onejump.runtime.record import Generated

# What a shell says of a program that Ctrl-C ended.
_INTERRUPTED = 130


@click.command(
    short_help="Generate text that exits early.",
    epilog="""
\b
Examples:
  onejump generate MODEL JUMP "What is a transformer?" --stats
  onejump generate MODEL JUMP --file question.txt --mode trusted --gate 90%
  onejump generate MODEL JUMP "Once upon a" --gate top-probability:0.1 \\
    --levels 0 --drafts 1 --recall 2 --recalled 2
  onejump generate MODEL --prompt "What is a transformer?"
  onejump generate MODEL JUMP "Once upon a" --raw --temperature 0.8 --seed 1
  cat question.txt | onejump generate auto JUMP --json
""",
)
@click.argument("model")
@click.argument("jump", required=False)
@click.argument("prompt", required=False)
@click.option(
    "-p", "--prompt", "prompt_option", metavar="PROMPT", help="The prompt, where JUMP is not given."
)
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path),
    help="Read the prompt from this file.",
)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--system", metavar="TEXT", help="The chat's system message.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="verified",
    show_default=True,
    help="verified: the text of the full model. trusted: exits are kept. copied: exits are kept, and the "
    "other blocks never run for them.",
)
@exit_options(recall=0)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Stop after this many tokens.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="Sample at this temperature. Default: the most likely token (greedy).",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, min_open=True, max=1),
    help="Sample from the most likely tokens that have this probability together.",
)
@click.option("--seed", type=int, help="Seed of the sampling. Default: another text each time.")
@model_options
@click.option("--stats", is_flag=True, help="Say afterwards what the generation cost and saved.")
@click.option("--json", "as_json", is_flag=True, help="Print the text and its record as JSON, at the end.")
@click.option(
    "--color",
    "colour",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Show exit levels as colours. auto: on a terminal, unless NO_COLOR is set.",
)
def generate(
    model: str,
    jump: str | None,
    prompt: str | None,
    prompt_option: str | None,
    file: Path | None,
    raw: bool,
    system: str | None,
    mode: str,
    gate: str | None,
    levels: tuple[int, ...] | None,
    drafts: int | None,
    candidates: int | None,
    recall: int,
    recalled: int | None,
    max_new_tokens: int,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    loading: dict[str, Any],
    stats: bool,
    as_json: bool,
    colour: str,
) -> None:
    """Generate text with MODEL that exits early by JUMP.

    MODEL is a folder, a name on the Hugging Face hub, a GGUF file, or "auto": the
    model that JUMP names. JUMP is a folder that a study exported, or a name on the
    hub; without it every token goes through all blocks. The prompt is PROMPT, a
    file, or what comes in by a pipe. It is put into the chat template of the
    model, if that has one. To an encoder-decoder it is the source. On a terminal
    each token has the colour of its exit level. Ctrl-C stops and keeps what was
    generated.
    """
    question = given_prompt(prompt, prompt_option, file)
    import torch

    from onejump.runtime.chat import prompt_tokens
    from onejump.runtime.early_exit import EarlyExit
    from onejump.runtime.loading import load_for_use
    from onejump.runtime.streamer import ExitStreamer

    policy = chosen_policy(drafts, recall, candidates=candidates, recalled=recalled)
    wide = candidates is not None and candidates > 1
    if wide and mode != "verified":
        raise OneJumpError(f"--candidates {candidates} given with --mode {mode}, accepted with verified")
    if jump is None and (wide or (drafts is not None and not recall)):
        given = f"--candidates {candidates}" if wide else f"--drafts {drafts}"
        needs = "JUMP: only an exit has candidates" if wide else "JUMP or --recall: nothing drafts"
        raise OneJumpError(f"{given} given without {needs}")
    loaded = load_for_use(model, jump, **loading)
    chosen = chosen_gate(loaded, gate, levels)
    tokens = prompt_tokens(loaded.tokenizer, question, raw=raw, system=system)
    engine = EarlyExit(loaded.transformer, loaded.jump, gate=chosen, mode=mode, policy=policy, recall=recall)
    if wide:
        check_candidates(candidates, engine.passes.rows_differ)
    streamer = None
    if not as_json:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        streamer = ExitStreamer(
            loaded.tokenizer,
            loaded.blocks,
            # Recalled drafts count as exits at level 0.
            levels={*(() if chosen is None else chosen.levels), *([0] if recall else [])},
            colours={"auto": None, "always": True, "never": False}[colour],
        )
    sampled = bool(temperature) or (top_p is not None and temperature is None)
    generator = None
    if sampled and seed is not None:
        generator = torch.Generator().manual_seed(seed)
    with _Interrupt() as interrupt:
        result = engine.generate(
            tokens.to(loaded.transformer.device),
            max_new_tokens=max_new_tokens,
            num_beams=1,
            do_sample=sampled,
            temperature=temperature if sampled else None,
            top_p=top_p if sampled else None,
            stopping_criteria=interrupt.criteria(),
            streamer=streamer,
            generator=generator,
        )
    if as_json:
        drafting = None if policy is None else asdict(policy)
        record = _record(result, mode=mode, gate=chosen, recall=recall, policy=drafting)
        text = loaded.tokenizer.decode(result.new_tokens[0], skip_special_tokens=True)
        whole = {"prompt": question, "text": text, "interrupted": interrupt.asked, **record}
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
    if stats:
        click.echo("", err=True)
        for line in told(result):
            click.echo(line, err=True)
    if interrupt.asked:
        click.echo("Stopped by Ctrl-C.", err=True)
        sys.exit(_INTERRUPTED)


def given_prompt(argument: str | None, option: str | None, file: Path | None) -> str:
    """Give the prompt: an argument, an option, what is in a file, or what comes in by a pipe.

    Raises
    ------
    OneJumpError
        If there is none, or several, or it is empty or no UTF-8 text.
    """
    given = [text for text in (argument, option) if text is not None]
    if len(given) + (file is not None) > 1:
        raise OneJumpError("several prompts given, one is accepted: PROMPT, --prompt or --file")
    if file is not None:
        source, raw = str(file), contents(file)
    elif given:
        source, raw = "PROMPT", given[0].encode(errors="surrogateescape")
    elif sys.stdin is None or sys.stdin.isatty():
        raise OneJumpError("no prompt given: give PROMPT, --prompt, --file, or a text by a pipe")
    else:
        source, raw = "standard input", sys.stdin.buffer.read()
    try:
        # The last line of a text ends in a line break that is no part of the question.
        prompt = raw.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise OneJumpError(f"{source}: the prompt is no UTF-8 text (byte {error.start})") from None
    if not prompt:
        raise OneJumpError(f"{source}: the prompt is empty")
    return prompt


def contents(file: Path) -> bytes:
    """Give what is in a file of prompts.

    Raises
    ------
    OneJumpError
        If it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise OneJumpError(f"{file}: the file cannot be read ({error.strerror})") from error


class _Interrupt:
    """Lets Ctrl-C end a generation at its next token; a second Ctrl-C stops the program."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        # Only the main thread of a program may say what a signal does.
        self._main = threading.current_thread() is threading.main_thread()
        self._before: Any = signal.signal(signal.SIGINT, self._ask) if self._main else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, _: int, __: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def criteria(self) -> Any:
        """Give the criterion of transformers that stops a generation once Ctrl-C was pressed."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        interrupt = self

        class Asked(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
                return torch.full((len(input_ids),), interrupt.asked, device=input_ids.device)

        return StoppingCriteriaList([Asked()])


def told(result: Generated) -> Iterator[str]:
    """Say in plain words what a generation of one row cost and saved."""
    tokens, levels = len(result.new_tokens[0]), Counter(result.exit_levels[0])
    early = {level: levels[level] for level in sorted(levels) if level < result.levels}
    exited = sum(early.values())
    yield f"tokens     {tokens} in {result.seconds:.2f} s, {result.tokens_per_second:.1f} per second"
    at = ", ".join(f"{count} at level {level}" for level, count in early.items())
    yield f"exits      {exited} of {tokens} tokens ({share(exited, tokens)})" + (f": {at}" if at else "")
    if result.drafted > result.accepted:
        kept = share(result.accepted, result.drafted)
        yield f"drafts     {result.accepted} of {result.drafted} accepted ({kept})"
    if result.recalled:
        kept = share(result.recalled_kept, result.recalled)
        yield f"recalled   {result.recalled_kept} of {result.recalled} accepted ({kept})"
    if result.agreement is not None:
        yield f"agreement  {result.agreement:.1%} of the exits that the full model was asked about"
    if result.full_passes:
        each = result.decoded / result.full_passes
        yield (
            f"passes     {result.full_passes} through all blocks for the {result.decoded} tokens behind the "
            f"first: {each:.2f} tokens each"
        )
    yield f"blocks     {result.blocks:.1f} for each token behind the first, {result.levels} without exits"
    difference = f"{abs(result.flops_saved):.0%} {'saved' if result.flops_saved >= 0 else 'more'}"
    yield f"FLOPs      {short(result.flops)} spent, {short(result.plain_flops)} without exits ({difference})"


def _record(result: Generated, *, mode: str, gate: Gate | None, **asked: Any) -> dict[str, Any]:
    return {
        "mode": mode,
        "gate": None if gate is None else gate.to_dict(),
        **asked,
        "tokens": result.new_tokens[0],
        "exit_levels": result.exit_levels[0],
        "levels": result.levels,
        "drafted": result.drafted,
        "recalled": result.recalled,
        "recalled_kept": result.recalled_kept,
        "accepted": result.accepted,
        "agreement": result.agreement,
        "blocks": result.blocks,
        "full_passes": result.full_passes,
        "flops": result.flops,
        "plain_flops": result.plain_flops,
        "seconds": result.seconds,
        "prompt_seconds": result.prompt_seconds,
    }


COMMANDS = (generate,)
