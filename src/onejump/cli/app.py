"""The command that serves the local page: app."""

from __future__ import annotations

from typing import Any

import click

from onejump.base.errors import OneJumpError
from onejump.cli.use_options import model_options


@click.command(
    short_help="Serve a local page: lens, generation, study.",
    epilog="""
\b
Examples:
  onejump app --model MODEL --jump JUMP
  onejump app --results results/default
""",
)
@click.option(
    "--model", help='A folder, a name on the hub, a GGUF file, or "auto": the model that JUMP names.'
)
@click.option(
    "--jump", "jumps", multiple=True, metavar="FOLDER", help="A kept jump of the model; may be repeated."
)
@click.option("--results", metavar="FOLDER", help="Results of a study, such as results/default.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port to listen at; 0: any that is free.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Most new tokens of a text.",
)
@click.option(
    "--max-prompt",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Most tokens of a prompt.",
)
@model_options
def app(
    model: str | None,
    jumps: tuple[str, ...],
    results: str | None,
    host: str,
    port: int,
    max_tokens: int,
    max_prompt: int,
    loading: dict[str, Any],
) -> None:
    """Serve a local page to look into a model.

    The page has three tabs. Lens: what the model would have said at every level.
    Generate: text as it grows, each token in the colour of its exit level. Study:
    figures and tables of a study. Only this machine can open it unless --host
    says otherwise, and nothing that is typed leaves the machine. Ctrl-C ends it.
    """
    try:
        from onejump.app.web.server import serve
    except ImportError as error:
        raise OneJumpError(str(error)) from None
    from onejump.app.inputs import Limits
    from onejump.app.served import Served
    from onejump.app.study_results import StudyResults

    study = None if results is None else StudyResults(results)
    served = None
    if model is not None or jumps:
        limits = Limits(new_tokens=max_tokens, prompt_tokens=max_prompt)
        served = Served.load(
            model,
            jumps,
            limits,
            **loading,
        )
        if study is not None:
            served.offer(study.pairs().values())
    if served is None and study is None:
        click.echo("No model and no results given: the page says what to give.", err=True)

    def tell(address: str) -> None:
        click.echo(f"{address}  (Ctrl-C ends it)")

    serve(served, study, host=host, port=port, tell=tell)


COMMANDS = (app,)
