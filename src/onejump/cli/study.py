"""The commands that work on a study: check, run, summary, plan and schema."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onejump.base.errors import OneJumpError

if TYPE_CHECKING:
    from onejump.study.study import Study


def _study_argument(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command the study that STUDY and -C describe, read and checked."""

    @functools.wraps(command)
    def with_study(study: Path, settings: tuple[str, ...], **others: Any) -> None:
        from onejump.study.reading import load_study

        command(load_study(study, settings=settings), **others)

    return _study_path(with_study)


def _study_path(command: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "-C",
        "--config",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Use this value in place of the file's: seed=1, selection.metric=mse. May be repeated.",
    )
    argument = click.argument("study", type=click.Path(path_type=Path), default=Path("config.yaml"))
    return argument(option(command))


def _results_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--results",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("results"),
        show_default=True,
        help="Folder that holds the results of all studies.",
    )(command)


@click.command(
    short_help="Look for mistakes in a study.",
    epilog="""
\b
Examples:
  onejump check my-study.yaml
  onejump check my-study.yaml -C selection.metric=mse
""",
)
@_study_argument
@_results_option
@click.option("--name", is_flag=True, help="Print the name of the study and nothing else.")
def check(study: Study, results: Path, name: bool) -> None:
    """Look for mistakes in the file STUDY (default: config.yaml).

    Checks every key and value, whether the texts and models that are on this
    machine can be found, and whether ranks and levels fit the models whose sizes
    are known. Each mistake is one line that says what is accepted. A run of the
    study makes the same checks before it starts.
    """
    from onejump.planning.sources import check_before_run

    check_before_run(study, results)
    if name:
        click.echo(study.study)
        return
    models, corpora = (
        _count(len(study.models), "model", "models"),
        _count(len(study.corpora), "corpus", "corpora"),
    )
    methods = ", ".join(study.shortcuts.names())
    click.echo(f"The study {study.study} is valid: {models}, {corpora}, shortcuts {methods}.")


@click.command(
    short_help="Check a study and run it with Snakemake.",
    context_settings={"ignore_unknown_options": True},
    epilog="""
\b
Examples:
  onejump run my-study.yaml
  onejump run my-study.yaml -n                    list the jobs, run none
  onejump run my-study.yaml --until activations   stop after the extraction
  onejump run my-study.yaml --cores 4             use four cores
""",
)
@_study_path
@click.argument("snakemake", nargs=-1, type=click.UNPROCESSED)
def run(study: Path, settings: tuple[str, ...], snakemake: tuple[str, ...]) -> None:
    """Check the file STUDY (default: config.yaml) and run it with Snakemake.

    The results go to the folder `results` of the current folder. A run that was
    stopped continues where it was. Everything after STUDY goes to Snakemake.
    """
    from onejump.planning.sources import check_before_run
    from onejump.study.file import read_setting
    from onejump.study.reading import load_study

    check_before_run(load_study(study, settings=settings), Path("results"))
    if importlib.util.find_spec("snakemake") is None:
        raise OneJumpError("running a study needs Snakemake: pip install 'onejump[workflow]'")
    where = _where_the_snakefile_is(snakemake)
    values = [
        f"{key}={json.dumps(value)}"
        for setting in settings
        for key, value in read_setting(setting).values.items()
    ]
    command = [sys.executable, "-m", "snakemake", *where, "--configfile", str(study)]
    command += ["--config", *values] if values else []
    # --configfile and --config take all that follows up to the next option.
    os.execv(sys.executable, [*command, "--rerun-incomplete", *snakemake])


def _where_the_snakefile_is(options: tuple[str, ...]) -> list[str]:
    """Options that tell Snakemake its Snakefile; none if this folder or `options` has it."""
    given = any(re.match(r"-s|--snakefile(=|$)", option) for option in options)
    if given or Path("Snakefile").is_file():
        return []
    checkout = Path(__file__).parents[3]
    if (checkout / "workflow/rules/common.smk").is_file():
        return ["--snakefile", str(checkout / "Snakefile")]
    raise OneJumpError(
        "no Snakefile in this folder, and the installed package has none: start the run in a checkout of "
        "onejump, or name its Snakefile: onejump run STUDY -s CHECKOUT/Snakefile"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _sizes_option(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    given = {}
    for value in values:
        name, equals, numbers = value.partition("=")
        try:
            if not equals:
                raise ValueError
            blocks, hidden, vocabulary, parameters = (int(float(number)) for number in numbers.split(","))
        except ValueError:
            raise click.BadParameter(
                f"{value!r} given, accepted is MODEL=BLOCKS,HIDDEN,VOCABULARY,PARAMETERS"
            ) from None
        given[name] = {
            "blocks": blocks,
            "hidden": hidden,
            "vocabulary": vocabulary,
            "parameters": parameters,
        }
    return given


@click.command(
    short_help="Say what a study will cost, before it runs.",
    epilog="""
\b
Examples:
  onejump plan studies/full.yaml
  onejump plan studies/full.yaml --nodes 4
  onejump plan studies/llama-2-7b.yaml --device h100 \\
      --sizes llama-2-7b=32,4096,32000,6.7e9
""",
)
@_study_argument
@click.option(
    "--device",
    type=click.Choice(["cpu", "h100"]),
    default="cpu",
    show_default=True,
    help="Device of the stages that can use a GPU.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="TFLOPS that the device reaches in the model's dtype, if you measured them.",
)
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs that run at a time."
)
@click.option(
    "--tokens",
    type=click.FloatRange(min=1),
    default=29,
    show_default=True,
    help="Average number of tokens in a sentence.",
)
@click.option(
    "--sizes",
    multiple=True,
    callback=_sizes_option,
    metavar="MODEL=BLOCKS,HIDDEN,VOCABULARY,PARAMETERS",
    help="Sizes of a model that is not on this machine. May be repeated.",
)
@_results_option
def plan(
    study: Study,
    device: str,
    tflops: float | None,
    nodes: int,
    tokens: float,
    sizes: dict[str, dict[str, int]],
    results: Path,
) -> None:
    """Say what the file STUDY (default: config.yaml) will cost, before it runs.

    Prints the jobs, tokens, FLOPs, disk space, memory and time of each stage.
    """
    from onejump.planning.devices import DEVICES
    from onejump.planning.plan import other_files, plan
    from onejump.planning.plan_text import show_plan
    from onejump.planning.sizes import look_up_sizes

    known = look_up_sizes(study, results, sizes)
    where, host = DEVICES[device], DEVICES["cpu" if device == "cpu" else "node"]
    if tflops is not None:
        where = where.with_rate(tflops * 1e12)
    rows = list(plan(study, known, device=where, host=host, tokens_per_sentence=tokens))
    click.echo(show_plan(rows, device=where, host=host, nodes=nodes, besides=other_files(study, known)))


@click.command(short_help="Print the JSON schema of a study file.")
def schema() -> None:
    """Print the JSON schema of a study file: every key, with what it means.

    Editors that read YAML schemas use it to complete and check keys.
    """
    from onejump.study.reading import study_schema

    click.echo(json.dumps(study_schema(), indent=2))


@click.command(
    short_help="Print the results of a study that has run.",
    epilog="""
\b
Examples:
  onejump summary my-study.yaml
  onejump summary my-study.yaml --results /data/results
""",
)
@_study_argument
@_results_option
def summary(study: Study, results: Path) -> None:
    """Print the results of the file STUDY (default: config.yaml).

    For each model and corpus: the selected jump and its score, the mean of each
    metric over all levels, and where the figures and the report are.
    """
    from onejump.cli.summary import summarise

    for line in summarise(study, results):
        click.echo(line)


COMMANDS = (check, run, summary, plan, schema)
