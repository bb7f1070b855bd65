"""The commands that use a kept jump: show."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onejump.runtime.artefact import OneJump

_WIDTH = 100
"""Characters of a line that is printed."""


@click.command(
    short_help="Print what a kept jump is.",
    epilog="""
\b
Examples:
  onejump show results/default/smollm2-135m/wikipedia-en/export/one-jump
  onejump show user/smollm2-135m-one-jump --revision v1
""",
)
@click.argument("folder")
@click.option("--revision", help="Branch, tag or commit, if FOLDER is a name on the hub.")
def show(folder: str, revision: str | None) -> None:
    """Print what the kept jump in FOLDER is.

    FOLDER is what a study exported, or a name on the Hugging Face hub. Prints the
    model that the jump fits, how good it was at each level, and its gates.
    """
    from onejump.runtime.artefact import OneJump

    for line in described(OneJump.from_pretrained(folder, revision=revision)):
        click.echo(line)


def described(jump: OneJump) -> Iterator[str]:
    """Give the lines that `onejump show` prints."""
    from onejump.cli.use_options import example_gate
    from onejump.runtime.card import meaning_of, shown_levels

    config = jump.config
    fitted = "all levels" if config.level is None else f"level {config.level}"
    corrected = "" if config.correction is None else f", its correction of rank {config.correction}"
    source = f"at {config.revision}" if config.is_on_hub else f"from the folder {config.base_model}"
    rows = {
        "map": f"{config.kind}, rank {config.rank}{corrected}, fitted to {fitted}, "
        f"{jump.shortcut.numbers():,} numbers",
        "model": f"{config.model_name} {source}",
        "digest": config.model_digest or "not known",
        "sizes": f"L = {config.blocks} blocks, H = {config.hidden}, V = {config.vocabulary:,}, "
        f"final norm {config.norm or 'none'}, {config.architecture}",
        "study": f"{config.study}: {config.model} on {config.corpus}",
        "made with": ", ".join(f"{name} {version}" for name, version in config.versions.items())
        or "not known",
    }
    yield from textwrap.wrap(f"{config.method}: {meaning_of(config)}", _WIDTH, subsequent_indent="  ")
    for name, text in rows.items():
        yield f"  {name:<10}{text}"
    shown = [metric for metric in ("precision@1", "surprisal", "kl", "r2") if metric in config.scores]
    if shown:
        yield ""
        yield f"  on {config.samples:,} validation samples of {config.documents:,} documents:"
        yield f"    {'level':>5}" + "".join(f"{metric:>14}" for metric in shown)
        for at in shown_levels(config.blocks):
            yield f"    {at:>5}" + "".join(f"{config.scores[metric][at]:>14.3f}" for metric in shown)
    yield ""
    if not jump.gates:
        yield f"  gates: none is calibrated; give thresholds, such as {example_gate(jump)}"
        return
    yield "  calibrated gates:"
    for name, gate in jump.gates.items():
        levels = ", ".join(map(str, gate.levels)) or "none"
        yield f"    {name:>5}  {config.gates[name]['kind']} at level {levels}"
        if found := ", ".join(_measured(config.measured.get(name, {}))):
            yield f"{'':11}{found}"


def _measured(found: Mapping[str, float]) -> Iterator[str]:
    """Say what was measured of a gate."""
    named = {"agreement": "agreement", "blocks_saved": "blocks saved", "flops_saved": "FLOPs saved"}
    for key, name in named.items():
        if key in found:
            yield f"{name} {_percent(found, key)}"
    if "n" in found:
        yield f"{found['n']:,.0f} tokens"


def _percent(found: Mapping[str, float], key: str) -> str:
    """Write a share with its standard error, where it has one."""
    error = found.get(f"{key}_stderr")
    return f"{found[key]:.1%}" + ("" if error is None else f" ± {error:.1%}")


COMMANDS = (show,)
