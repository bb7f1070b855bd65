"""The commands that use a kept jump: show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from onejump.runtime.artefact import OneJump


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
    from onejump.runtime.card import meaning_of, shown_levels

    config = jump.config
    fitted = "all levels" if config.level is None else f"level {config.level}"
    source = f"at {config.revision}" if config.is_on_hub else f"from the folder {config.base_model}"
    rows = {
        "map": f"{config.kind}, rank {config.rank}, fitted to {fitted}, {jump.shortcut.numbers():,} numbers",
        "model": f"{config.model_name} {source}",
        "digest": config.model_digest or "not known",
        "sizes": f"L = {config.blocks} blocks, H = {config.hidden}, V = {config.vocabulary:,}, "
        f"final norm {config.norm or 'none'}, {config.architecture}",
        "study": f"{config.study}: {config.model} on {config.corpus}",
        "made with": ", ".join(f"{name} {version}" for name, version in config.versions.items()),
    }
    yield f"{config.method}: {meaning_of(config)}"
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
        yield "  gates: none is calibrated"
        return
    yield "  calibrated gates:"
    for name, gate in jump.gates.items():
        levels = ", ".join(map(str, gate.levels)) or "none"
        found = ", ".join(f"{key} {value:.3g}" for key, value in config.measured.get(name, {}).items())
        yield f"    {name:>5}  {config.gates[name]['kind']} at levels {levels}" + (
            f": {found}" if found else ""
        )


COMMANDS = (show,)
