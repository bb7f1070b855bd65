"""The command that compares ways to decode: bench."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onejump.base.errors import OneJumpError
from onejump.cli.generate import contents
from onejump.cli.use_options import (
    check_candidates,
    chosen_gate,
    chosen_policy,
    exit_options,
    model_options,
)

if TYPE_CHECKING:
    from onejump.exits.gates import Gate
    from onejump.runtime.bench import Run, Summary
    from onejump.runtime.loading import Loaded


@click.command(
    short_help="Measure what exits gain, in every mode.",
    epilog="""
\b
Examples:
  onejump bench MODEL JUMP
  onejump bench MODEL JUMP --prompts prompts.txt --batch 4
  onejump bench auto JUMP --methods plain,verified --repeats 3 --json
  onejump bench MODEL JUMP --gate top-probability:0.1 --levels 0 \\
    --drafts 1 --recalled 2 --methods "plain,recall,verified + recall"
""",
)
@click.argument("model")
@click.argument("jump")
@click.option(
    "--prompts",
    "file",
    type=click.Path(path_type=Path),
    help="File with a prompt on each line. Default: six built-in ones.",
)
@click.option("--raw", is_flag=True, help="Continue the prompts as they are, without the chat template.")
@exit_options(recall=2)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Tokens of each text."
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Prompts decoded together."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Times each prompt is decoded.",
)
@click.option(
    "--methods",
    metavar="NAME,...",
    help="Only these: prompt lookup, assistant_early_exit, plain, recall, verified + recall, verified, "
    "trusted, copied.",
)
@click.option(
    "--assistant-blocks",
    type=click.IntRange(min=1),
    help="Blocks that assistant_early_exit drafts with. Default: the first level above 0 of the gate, or a "
    "quarter of all blocks.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def bench(
    model: str,
    jump: str,
    file: Path | None,
    raw: bool,
    gate: str | None,
    levels: tuple[int, ...] | None,
    drafts: int | None,
    candidates: int | None,
    recall: int,
    recalled: int | None,
    max_new_tokens: int,
    batch: int,
    repeats: int,
    methods: str | None,
    assistant_blocks: int | None,
    loading: dict[str, Any],
    as_json: bool,
) -> None:
    """Measure what exits by JUMP gain on this machine with MODEL.

    Decodes each prompt greedily in every way: with model.generate of transformers,
    its prompt lookup and its assistant_early_exit, and with onejump without exits
    (plain), with drafts that are recalled from the text alone (recall) or besides
    exits (verified + recall), and in each mode. Rates are compared prompt by prompt,
    so that a machine that is busy for a while slows all ways down. Ends with status
    1 if a text is not the one of model.generate in a way that has to give it: all
    but trusted and copied.
    """
    lines = _prompts_of(file)
    policy = chosen_policy(drafts, recall, candidates=candidates, recalled=recalled)
    from tqdm import tqdm

    from onejump.runtime.bench import METHODS, PROMPTS, Bench, complete, summaries_of
    from onejump.runtime.chat import prompt_tokens
    from onejump.runtime.loading import load_for_use

    loaded = load_for_use(model, jump, **loading)
    chosen = chosen_gate(loaded, gate, levels)
    prompts = [prompt_tokens(loaded.tokenizer, line, raw=raw)[0].tolist() for line in lines or PROMPTS]
    padding = loaded.tokenizer.pad_token_id
    ready = Bench(
        loaded.transformer,
        loaded.jump,
        chosen,
        padding=padding if padding is not None else loaded.tokenizer.eos_token_id or 0,
        max_new_tokens=max_new_tokens,
        methods=METHODS if methods is None else [name.strip() for name in methods.split(",")],
        policy=lambda: policy,
        recall=recall,
        assistant_level=assistant_blocks,
    )
    check_candidates(candidates, ready.wide)
    runs: list[Run] = []
    stopped = False
    total = ready.runs(len(prompts), batch=batch, repeats=repeats)
    with tqdm(total=total, unit="text", disable=None) as progress:
        try:
            for run in ready.compare(prompts, batch=batch, repeats=repeats):
                runs.append(run)
                progress.update()
        except KeyboardInterrupt:
            stopped = True
    runs = complete(runs)
    summaries = summaries_of(runs)
    about = _about(loaded, chosen, prompts=len(prompts), batch=batch, repeats=repeats, tokens=max_new_tokens)
    about["recall"], about["policy"] = recall, None if policy is None else asdict(policy)
    about["assistant_blocks"], about["stopped"] = ready.assistant_level, stopped
    if as_json:
        click.echo(json.dumps({**about, **_as_values(runs, summaries, ready.left_out)}, indent=2))
    else:
        for line in _table(about, summaries, ready.left_out):
            click.echo(line)
    if stopped:
        click.echo("Stopped by Ctrl-C.", err=True)
        sys.exit(130)
    _check(summaries, loading["dtype"])


def _prompts_of(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = [line for line in contents(file).decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise OneJumpError(f"{file}: no UTF-8 text (byte {error.start})") from None
    if not lines:
        raise OneJumpError(f"{file}: no prompt in it, a prompt on each line is accepted")
    return lines


def _about(
    loaded: Loaded, gate: Gate | None, *, prompts: int, batch: int, repeats: int, tokens: int
) -> dict[str, Any]:
    import torch
    import transformers

    return {
        "model": loaded.source,
        "model_blocks": loaded.blocks,
        "gate": None if gate is None else gate.to_dict(),
        "prompts": prompts,
        "batch": batch,
        "repeats": repeats,
        "max_new_tokens": tokens,
        "dtype": str(loaded.transformer.model.dtype).removeprefix("torch."),
        "device": str(loaded.transformer.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _as_values(runs: list[Run], summaries: list[Summary], left_out: dict[str, str]) -> dict[str, Any]:
    return {
        "methods": {summary.method: asdict(summary) for summary in summaries},
        "left_out": left_out,
        "runs": [
            {
                "method": run.method,
                "batch": run.batch,
                "repeat": run.repeat,
                "tokens": sum(map(len, run.tokens)),
                "seconds": run.seconds,
                "exit_levels": None if run.record is None else run.record.exit_levels,
            }
            for run in runs
        ],
    }


def _table(about: dict[str, Any], summaries: list[Summary], left_out: dict[str, str]) -> Iterator[str]:
    levels = () if about["gate"] is None else about["gate"]["levels"]
    where = "on one thread" if about["threads"] == 1 else f"on {about['threads']} threads"
    yield (
        f"{about['model']}, {about['dtype']} on {about['device']}"
        + (f" {where}" if about["device"] == "cpu" else "")
        + f"; exits checked at level {', '.join(map(str, levels)) or 'none'} of {about['model_blocks']}"
    )
    yield (
        f"{about['prompts']} prompts, {about['batch']} at a time, up to {about['max_new_tokens']} new tokens"
        + (f", {about['repeats']} times" if about["repeats"] > 1 else "")
    )
    yield _rounds(about["policy"], about["recall"])
    yield ""
    header = (
        "method",
        "tokens/s",
        "speed-up",
        "blocks/token",
        "tokens/pass",
        "agreement",
        "accepted",
        "FLOPs saved",
        "same text",
    )
    rows = [
        (
            summary.method,
            f"{summary.tokens_per_second:.1f}",
            f"{summary.ratio:.2f}x",
            "-" if summary.blocks is None else f"{summary.blocks:.1f}",
            "-" if summary.tokens_per_pass is None else f"{summary.tokens_per_pass:.2f}",
            *(
                "-" if part is None else f"{part:.0%}".replace("-0%", "0%")
                for part in (summary.agreement, summary.acceptance, summary.flops_saved)
            ),
            f"{summary.same} of {summary.texts}",
        )
        for summary in summaries
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        cells = [
            f"{row[0]:<{widths[0]}}",
            *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        yield "  ".join(cells)
    yield ""
    yield "tokens/s: median. speed-up: median over the prompts of the rate by that of model.generate."
    together = "" if about["batch"] == 1 else " of all prompts at a time"
    yield f"tokens/pass: new tokens{together} for each pass through all blocks. accepted: of all drafts."
    if any(summary.method == "assistant_early_exit" for summary in summaries):
        yield f"assistant_early_exit drafts with {about['assistant_blocks']} blocks."
    for method, reason in left_out.items():
        yield f"{method} was left out: {reason}."


def _rounds(policy: dict[str, Any] | None, recall: int) -> str:
    """Say in words how far a round drafts."""
    recalls = f"; recall by {'the last token' if recall == 1 else f'{recall} tokens'}"
    if policy is None:
        return f"a round drafts as far as it pays, as measured on the way{recalls}"
    drafts, width, recalled = policy["drafts"], policy["width"], policy["recalled"]
    candidates = f", {width} candidates for the last one" if width > 1 else ""
    return f"a round drafts up to {drafts} by exits{candidates}{recalls}, up to {recalled}"


def _check(summaries: list[Summary], dtype: str) -> None:
    """End with an error if a text that has to be the full model's own is another one.

    In half precision two tokens often have the same logit, and which one comes first depends on how many
    tokens went through a product together. Other texts are no mistake there.
    """
    from onejump.runtime.bench import LOSSLESS

    for summary in summaries:
        if summary.method in LOSSLESS and summary.same < summary.texts:
            message = (
                f"{summary.method}: {summary.texts - summary.same} of {summary.texts} texts are not those of "
                "model.generate"
            )
            if dtype == "float32":
                raise OneJumpError(message)
            click.echo(f"{message}: in {dtype}, likely tokens often have equal logits", err=True)


COMMANDS = (bench,)
