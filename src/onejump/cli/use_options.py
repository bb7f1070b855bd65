"""Options that the commands share which run a model with a jump."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from onejump.exits.gates import Gate
    from onejump.runtime.artefact import OneJump
    from onejump.runtime.cost_model import Fixed
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
        "(top-probability:0.9), KIND:T1,T2,... with a threshold for each of --levels, or none. Default: 95%.",
    ),
    click.option(
        "--levels",
        callback=as_levels,
        metavar="L1,L2,...",
        help="Early-exit levels to check; 0: before any block. Default: those of the gate.",
    ),
    click.option(
        "--drafts",
        metavar="N",
        type=click.IntRange(min=0),
        help="Let at most N tokens in a row exit before the other blocks run. Default: what pays, as "
        "measured on the way.",
    ),
    click.option(
        "--candidates",
        metavar="N",
        type=click.IntRange(min=1),
        help="Verify the N most likely tokens of the last exit, side by side. Goes with --drafts, in the "
        "mode verified. Default: 1.",
    ),
    click.option(
        "--recalled",
        metavar="N",
        type=click.IntRange(min=1),
        help="Let the first N drafts of a row be recalled by --recall, where the text has them. Goes with "
        "--drafts. Default: as many as --drafts, at least 1.",
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


def exit_options(recall: int) -> Callable[[_Command], _Command]:
    """Give a command the options that say when tokens exit, and how far drafts go.

    Parameters
    ----------
    recall : int
        The default of --recall. 0: that nothing is recalled is accepted.
    """
    option = click.option(
        "--recall",
        metavar="N",
        type=click.IntRange(min=min(recall, 1)),
        default=recall,
        show_default=True,
        help="Also draft what followed the last N tokens where they stood in the text before."
        + ("" if recall else " 0: do not."),
    )
    *first, recalled = _EXIT_OPTIONS
    return lambda command: _with((*first, option, recalled), command)


def _with(options: tuple[Callable[[_Command], _Command], ...], command: _Command) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command


def chosen_gate(loaded: Loaded, gate: str | None, levels: tuple[int, ...] | None) -> Gate | None:
    """Give the gate that --gate and --levels ask for; without a jump, None.

    Raises
    ------
    OneJumpError
        If there is no such gate, or none is given and the jump has no calibrated one of the default's name.
    """
    from onejump.base.errors import OneJumpError
    from onejump.runtime.loading import DEFAULT_GATE, NO_GATE, gate_from_text

    if loaded.jump is None:
        if gate not in (None, NO_GATE) or levels is not None:
            raise OneJumpError("--gate or --levels given without JUMP: only a jump can exit early")
        return None
    if gate is None and DEFAULT_GATE not in loaded.jump.gates:
        known = f" {DEFAULT_GATE}, only {', '.join(loaded.jump.gates)}" if loaded.jump.gates else ""
        raise OneJumpError(
            f"no --gate given, and JUMP has no calibrated gate{known}: give one, such as "
            f"{example_gate(loaded.jump)}"
        )
    return gate_from_text(
        gate or DEFAULT_GATE, calibrated=loaded.jump.gates, levels=levels, blocks=loaded.blocks
    )


def example_gate(jump: OneJump) -> str:
    """Give options that make a gate for a jump: a calibrated one, or a threshold to begin with."""
    from onejump.runtime.predictor import reads_previous

    if jump.gates:
        return f"--gate {next(iter(jump.gates))}"
    if reads_previous(jump.shortcut):
        return "--gate top-probability:0.1 --levels 0"
    return f"--gate top-probability:0.5 --levels {jump.config.blocks // 2}"


def chosen_policy(
    drafts: int | None, recall: int = 0, *, candidates: int | None = None, recalled: int | None = None
) -> Fixed | None:
    """Give the policy that --drafts, --candidates, --recall and --recalled ask for; None: the cost model.

    Raises
    ------
    OneJumpError
        If an option is given without the one that it belongs to.
    """
    from onejump.base.errors import OneJumpError
    from onejump.runtime.cost_model import Fixed

    if drafts is None:
        for name, given in (("--candidates", candidates), ("--recalled", recalled)):
            if given is not None:
                raise OneJumpError(
                    f"{name} {given} given without --drafts: both say how far to draft, such as --drafts 1 "
                    f"{name} {given}; without them it is measured what pays"
                )
        return None
    if recalled is not None and not recall:
        raise OneJumpError(
            f"--recalled {recalled} given without --recall: say how many tokens recall a draft, such as "
            "--recall 2"
        )
    if candidates is not None and candidates > 1 and not drafts:
        raise OneJumpError(f"--candidates {candidates} given with --drafts 0: no exit is there to have them")
    if recalled is None:
        recalled = max(drafts, 1) if recall else 0
    return Fixed(drafts, candidates or 1, recalled=recalled)


def check_candidates(candidates: int | None, accepted: bool) -> None:
    """Refuse --candidates for a model that cannot verify them.

    Raises
    ------
    OneJumpError
        If there are several, and passes of the model cannot hide them from each other.
    """
    from onejump.base.errors import OneJumpError

    if candidates is not None and candidates > 1 and not accepted:
        raise OneJumpError(
            f"--candidates {candidates} given, but tokens of this model cannot stand side by side at one "
            "place: accepted is 1"
        )


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
