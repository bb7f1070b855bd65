"""The command `onejump`, a group of commands."""

from __future__ import annotations

from typing import Any

import click

from onejump.base.errors import OneJumpError
from onejump.cli import app, bench, generate, lens, study, use


class _Commands(click.Group):
    """A group whose commands say an error of onejump in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the command line names."""
        try:
            return super().invoke(ctx)
        except OneJumpError as error:
            raise click.ClickException(str(error)) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""
\b
Examples:
  onejump check my-study.yaml
  onejump check my-study.yaml -C seed=1 -C selection.metric=mse
  onejump plan studies/full.yaml --nodes 4
  onejump run my-study.yaml
  onejump summary my-study.yaml
  onejump show results/default/smollm2-135m/wikipedia-en/export/one-jump
  onejump generate MODEL JUMP "What is a transformer?" --stats
  onejump bench MODEL JUMP
  onejump lens "The Eiffel Tower is in" --jump JUMP -o lens.html
  onejump app --model MODEL --jump JUMP

STUDY is a YAML file that names models, texts and kinds of shortcut. `onejump
COMMAND --help` explains a command.
""",
)
@click.version_option(package_name="onejump")
def main() -> None:
    """Fit, select and measure shortcuts in transformers.

    A shortcut, or jump, maps the hidden state after an early block of a language
    model to an approximation of the last block's output, so that the model can
    predict the next token early.
    """


_MODULES = (study, use, generate, bench, lens, app)
for _command in (command for module in _MODULES for command in module.COMMANDS):
    main.add_command(_command)
