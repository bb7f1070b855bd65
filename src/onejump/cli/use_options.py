"""Options that the commands share which run a model with a jump."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onejump.exits.gates import Gate
    from onejump.runtime.cost_model import Policy
    from onejump.runtime.loading import Loaded

MODES = ("verified", "trusted", "copied")

_Command = Callable[..., None]


def as_levels(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read levels with commas between them."""
    if value is None:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", value):
        raise click.BadParameter(f"{value!r} given, accepted are whole numbers with commas: 3,8")
    return tuple(int(level) for level in value.split(","))


_MODEL_OPTIONS = (
    click.option("--revision", help="Branch, tag or commit of MODEL, if it is a name on the hub."),
    click.option(
        "--trust-remote-code", is_flag=True, help="Run Python code that comes with MODEL, if it needs any."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Precision of the model.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one.",
    ),
    click.option(
        "--source-language",
        metavar="LANGUAGE",
        help="Of an encoder-decoder that knows several: the language of the prompt, as its tokenizer calls "
        "it (en_XX).",
    ),
    click.option(
        "--target-language",
        metavar="LANGUAGE",
        help="Of an encoder-decoder that knows several: the language to write in (de_DE).",
    ),
)

_EXIT_OPTIONS = (
    click.option(
        "--gate",
        default=None,
        metavar="GATE",
        help="When to exit: a calibrated gate of JUMP (99%, 95%, 90%), KIND:THRESHOLD with --levels "
        "(top-probability:0.9), or none. Default: 95%.",
    ),
    click.option(
        "--levels",
        callback=as_levels,
        metavar="L1,L2,...",
        help="Early-exit levels to check. Default: those of the gate.",
    ),
    click.option(
        "--drafts",
        type=click.IntRange(min=0),
        help="Most exits in a row before the other blocks run. Default: what pays, as measured on the way.",
    ),
)


def model_options(command: _Command) -> _Command:
    """Give a command the options that say how the model is loaded.

    The command gets them as one argument, `loading`: the keyword arguments of `load_for_use`.
    """

    @functools.wraps(command)
    def taking(
        *arguments: Any, source_language: str | None, target_language: str | None, **options: Any
    ) -> None:
        loading = {name: options.pop(name) for name in ("revision", "trust_remote_code", "dtype", "device")}
        named = {"src_lang": source_language, "tgt_lang": target_language}
        loading["languages"] = {key: said for key, said in named.items() if said is not None}
        command(*arguments, loading=loading, **options)

    return _with(_MODEL_OPTIONS, taking)


def exit_options(command: _Command) -> _Command:
    """Give a command the options that say when tokens exit."""
    return _with(_EXIT_OPTIONS, command)


def _with(options: tuple[Callable[[_Command], _Command], ...], command: _Command) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command


def chosen_gate(loaded: Loaded, gate: str | None, levels: tuple[int, ...] | None) -> Gate | None:
    """Give the gate that --gate and --levels ask for; without a jump, None."""
    from onejump.base.errors import OneJumpError
    from onejump.runtime.loading import DEFAULT_GATE, NO_GATE, gate_from_text

    if loaded.jump is None:
        if gate not in (None, NO_GATE) or levels is not None:
            raise OneJumpError("--gate or --levels given without JUMP: only a jump can exit early")
        return None
    return gate_from_text(
        gate or DEFAULT_GATE, calibrated=loaded.jump.gates, levels=levels, blocks=loaded.blocks
    )


def chosen_policy(drafts: int | None, recall: int = 0) -> Policy | None:
    """Give the policy that --drafts and --recall ask for; None: the cost model."""
    from onejump.runtime.cost_model import Fixed

    return None if drafts is None else Fixed(drafts, recalled=drafts if recall else 0)


def short(number: float, unit: str = "") -> str:
    """Write a number in three digits with the prefix of its size.

    >>> short(31_240_000_000, "FLOP")
    '31.2 GFLOP'
    """
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def share(part: Any, whole: Any) -> str:
    """Write a share in whole percent.

    >>> share(3, 4)
    '75%'
    """
    return f"{part / whole:.0%}" if whole else "-"
