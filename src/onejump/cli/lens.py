"""The command that shows what a model would have said at every level: lens."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from onejump.base.errors import OneJumpError
from onejump.base.files import replacing
from onejump.base.statistics import STATISTICS
from onejump.cli.generate import given_prompt
from onejump.cli.use_options import as_levels, model_options, short

if TYPE_CHECKING:
    from onejump.exits.gates import Gate
    from onejump.lens.trajectory import Trajectory
    from onejump.runtime.artefact import OneJump

_FIGURES = (".png", ".pdf", ".svg")
_SUFFIXES = (".html", ".csv", ".parquet", *_FIGURES)


def _known_suffix(_: click.Context, __: click.Parameter, value: tuple[Path, ...]) -> tuple[Path, ...]:
    for path in value:
        if path.suffix not in _SUFFIXES:
            raise click.BadParameter(f"{path} given, accepted is a file that ends in {', '.join(_SUFFIXES)}")
    return value


@click.command(
    short_help="Show what a model would have said at every level.",
    epilog="""
\b
Examples:
  onejump lens "The Eiffel Tower is in" --jump JUMP -o lens.html
  onejump lens "The Eiffel Tower is in" --model MODEL
  onejump lens "The moon is" --results results/default/MODEL/CORPUS
  onejump lens "The moon is" --jump JUMP -o lens.pdf -o lens.csv
  cat text.txt | onejump lens --model MODEL --jump JUMP --last 40 -o lens.html
""",
)
@click.argument("prompt", required=False)
@click.option("-f", "--file", type=click.Path(path_type=Path), help="Read the prompt from this file.")
@click.option(
    "-m",
    "--model",
    default="auto",
    show_default=True,
    help="A folder, a name on the Hugging Face hub, or a GGUF file. auto: the model of the jump, or of the "
    "results folder.",
)
@click.option(
    "-j",
    "--jump",
    "jumps",
    multiple=True,
    metavar="JUMP",
    help="A folder that a study exported, or a name on the hub. May be given several times.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Folder of a model and a corpus: its shortcuts of each level.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Only this method of the results folder. May be given several times.",
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    callback=_known_suffix,
    help="Write a file: .html, .csv, .parquet, .png, .pdf or .svg. May be given several times. Default: "
    "print a table.",
)
@click.option("--shortcut", help="The shortcut to show, or to show first. Default: the last one.")
@click.option(
    "--statistic",
    type=click.Choice(list(STATISTICS)),
    default="probability",
    show_default=True,
    help="What colours show, or show first.",
)
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Most likely tokens to keep."
)
@click.option("--last", type=click.IntRange(min=1), help="Show only this many tokens from the end.")
@click.option("--chat", is_flag=True, help="Put the prompt into the chat template of the model.")
@click.option("--system", metavar="TEXT", help="The chat's system message.")
@click.option("--target", metavar="TEXT", help="For an encoder-decoder: the text that the decoder predicts.")
@click.option(
    "--gate",
    metavar="GATE",
    help="Mark where tokens exit: a calibrated gate of JUMP (99%, 95%, 90%), KIND:THRESHOLD with --levels "
    "(top-probability:0.9), or none. Default: 95%, if the jump has it.",
)
@click.option(
    "--levels", callback=as_levels, metavar="L1,L2,...", help="Early-exit levels that the gate checks."
)
@model_options
def lens(
    prompt: str | None,
    file: Path | None,
    model: str,
    jumps: tuple[str, ...],
    results: Path | None,
    methods: tuple[str, ...],
    outputs: tuple[Path, ...],
    shortcut: str | None,
    statistic: str,
    k: int,
    last: int | None,
    chat: bool,
    system: str | None,
    target: str | None,
    gate: str | None,
    levels: tuple[int, ...] | None,
    loading: dict[str, Any],
) -> None:
    """Show what a model would have said at every level of PROMPT.

    Each level is read by one or more shortcuts: by identity, which is the logit
    lens, by each JUMP, and by the shortcuts of a results folder. PROMPT is text,
    --file, or what comes in by a pipe. The top row is the model's own prediction.
    """
    text = given_prompt(prompt, None, file)
    if model == "auto" and not jumps and results is None:
        raise OneJumpError("no model given: give --model, a --jump that names it, or a --results folder")
    if methods and results is None:
        raise OneJumpError("--method given without --results")
    if (gate not in (None, "none") or levels) and not jumps:
        raise OneJumpError("--gate or --levels given without --jump: only a jump can exit early")
    from onejump.lens.trajectory import Trajectory
    from onejump.runtime.artefact import OneJump

    kept = [OneJump.from_pretrained(jump) for jump in jumps]
    for folder, one in zip(jumps, kept, strict=True):
        if one.shortcut.reads_previous:
            raise OneJumpError(
                f"--jump {folder}: {one.config.method} reads the last level's state of the token before, "
                "too, and a lens shows what one state at one level says: leave it out. "
                "onejump generate takes it"
            )
    transformer, tokenizer, shortcuts, name, prefix = _loaded(model, jumps, results, methods, loading)
    sources: dict[str, Any] = {"identity": "identity", **shortcuts}
    named = _named(kept, sources)
    trajectory = Trajectory.from_prompt(
        transformer,
        tokenizer,
        prefix + text,
        sources | named,
        k=min(k, transformer.head.vocabulary),
        gate=_gates(named, gate, levels, len(transformer.blocks)),
        chat=chat,
        system=system,
        target=target,
        last=last,
        model_name=name,
    )
    chosen = shortcut or trajectory.shortcuts[-1]
    if not outputs:
        width = shutil.get_terminal_size((100, 40)).columns
        click.echo(f"{trajectory.model_name}, {chosen}: {trajectory.origins.get(chosen, '')}")
        click.echo(trajectory.to_text(chosen, width=width))
        click.echo(_legend(trajectory, chosen))
    for path in outputs:
        _write(trajectory, path, chosen, statistic)
        click.echo(f"{path}: {short(path.stat().st_size, 'B')}")


def _loaded(
    model: str,
    jumps: tuple[str, ...],
    results: Path | None,
    methods: tuple[str, ...],
    loading: Mapping[str, Any],
) -> tuple[Any, Any, Mapping[str, Any], str | None, str]:
    """Load model, tokenizer and the shortcuts of a results folder; its name, and a source's prefix."""
    from onejump.lens.results import load_of_export, load_results, methods_for_lens
    from onejump.runtime.loading import load_for_use
    from onejump.shortcuts.results import load_shortcuts

    own = model == "auto"
    if own and results is not None:
        _refuse_options()
        return load_results(results, methods or None, device=loading["device"])
    shortcuts: dict[str, Any] = {}
    if results is not None:
        shortcuts = {one: load_shortcuts(results, one) for one in methods or methods_for_lens(results)}
    if own:
        # The model of a local study is known by the study's files around the jump.
        found = load_of_export(jumps[0], device=loading["device"]) if Path(jumps[0]).is_dir() else None
        if found is not None:
            _refuse_options()
            return found._replace(shortcuts=shortcuts)
    loaded = load_for_use(model, jumps[0] if jumps else None, **loading)
    return loaded.transformer, loaded.tokenizer, shortcuts, None, ""


def _refuse_options() -> None:
    """Refuse options of a model that is loaded as its study loaded it."""
    context = click.get_current_context()
    for name in ("revision", "dtype", "trust_remote_code", "source_language", "target_language"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise OneJumpError(
                f"--{name.replace('_', '-')} given without --model: it is loaded as its study loaded it"
            )


def _named(jumps: list[OneJump], taken: Mapping[str, Any]) -> dict[str, Any]:
    """Name jumps by their methods; where two have the same, they are numbered."""
    named: dict[str, Any] = {}
    for jump in jumps:
        name, number = jump.config.method, 2
        while name in taken or name in named:
            name, number = f"{jump.config.method} ({number})", number + 1
        named[name] = jump
    return named


def _gates(named: Mapping[str, OneJump], text: str | None, levels: Any, blocks: int) -> dict[str, Gate]:
    from onejump.runtime.loading import DEFAULT_GATE, gate_from_text

    gates = {}
    for name, jump in named.items():
        if text is None and levels is None and DEFAULT_GATE not in jump.gates:
            continue
        gate = gate_from_text(text or DEFAULT_GATE, calibrated=jump.gates, levels=levels, blocks=blocks)
        if gate is not None:
            gates[name] = gate
    return gates


def _legend(trajectory: Trajectory, shortcut: str) -> str:
    said = "Numbers are percent. =: the last level's token."
    return f"{said} >: the gate lets the token exit." if shortcut in trajectory.gates else said


def _write(trajectory: Trajectory, path: Path, shortcut: str, statistic: str) -> None:
    if path.suffix == ".html":
        trajectory.save_html(path, shortcut, statistic)
        return
    with replacing(path) as fresh:
        if path.suffix in _FIGURES:
            trajectory.draw(shortcut, statistic).savefig(fresh)
        elif path.suffix == ".csv":
            trajectory.to_pandas().to_csv(fresh, index=False)
        else:
            trajectory.to_pandas().to_parquet(fresh, index=False)


COMMANDS = (lens,)
