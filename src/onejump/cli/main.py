"""The `onejump` command."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onejump.base.errors import OneJumpError

if TYPE_CHECKING:
    from onejump.study.study import Study


@contextmanager
def _one_clear_error() -> Iterator[None]:
    try:
        yield
    except OneJumpError as error:
        raise click.ClickException(str(error)) from None


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""
\b
Examples:
  onejump check my-study.yaml
  onejump check my-study.yaml -C seed=1 -C selection.metric=mse
  onejump plan studies/full.yaml --nodes 4
  onejump run my-study.yaml
  onejump summary my-study.yaml
""",
)
@click.version_option(package_name="onejump")
def main() -> None:
    """Shortcuts in transformers: from a level to the last block's output."""


def _study_argument(command: Callable[..., None]) -> Callable[..., None]:
    """STUDY, and values that win over the file's; the command gets both as one study, read and checked."""

    @functools.wraps(command)
    def with_study(study: Path, settings: tuple[str, ...], **others: Any) -> None:
        from onejump.study.study import load_study

        with _one_clear_error():
            command(load_study(study, settings=settings), **others)

    return _study_path(with_study)


def _study_path(command: Callable[..., None]) -> Callable[..., None]:
    option = click.option(
        "-C",
        "--config",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="A value that wins over the file's, such as seed=1 or selection.metric=mse. May be repeated.",
    )
    argument = click.argument("study", type=click.Path(path_type=Path), default=Path("config.yaml"))
    return argument(option(command))


def _results_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--results",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("results"),
        show_default=True,
        help="Folder of all results.",
    )(command)


@main.command()
@_study_argument
@_results_option
@click.option("--name", is_flag=True, help="Print the study's name and nothing else.")
def check(study: Study, results: Path, name: bool) -> None:
    """Check a study file, as the workflow does before it plans a job.

    Besides keys and values it looks whether text and models of this machine are there, and holds ranks and
    levels against the sizes of the models that are known here.
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


@main.command(context_settings={"ignore_unknown_options": True})
@_study_path
@click.argument("snakemake", nargs=-1, type=click.UNPROCESSED)
def run(study: Path, settings: tuple[str, ...], snakemake: tuple[str, ...]) -> None:
    """Run a study: check it, then start Snakemake with it. Results go to the folder `results` of this folder.

    What follows STUDY goes to Snakemake: -n, --until activations, a file to make, ...
    """
    from onejump.planning.sources import check_before_run
    from onejump.study.file import read_setting
    from onejump.study.study import load_study

    with _one_clear_error():
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
    """What Snakemake has to be told: nothing if this folder or one of its own options has the Snakefile."""
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


@main.command()
@_study_argument
@click.option(
    "--device",
    type=click.Choice(["cpu", "h100"]),
    default="cpu",
    show_default=True,
    help="Where stages that use a GPU run.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="The device's own rate, in the model's dtype.",
)
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs at a time.")
@click.option(
    "--tokens",
    type=click.FloatRange(min=1),
    default=29,
    show_default=True,
    help="Tokens in a sentence, on average.",
)
@click.option(
    "--sizes",
    multiple=True,
    callback=_sizes_option,
    metavar="MODEL=BLOCKS,HIDDEN,VOCABULARY,PARAMETERS",
    help="Sizes of a model that cannot be looked up from here.",
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
    """Say what a study will cost before it runs: jobs, tokens, FLOPs, disk, memory, time."""
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


@main.command()
def schema() -> None:
    """Print the JSON schema of a study file."""
    from onejump.study.study import study_schema

    click.echo(json.dumps(study_schema(), indent=2))


@main.command()
@_study_argument
@_results_option
def summary(study: Study, results: Path) -> None:
    """Name the selected jump of each model and corpus, its scores, the figures and the report."""
    from onejump.cli.summary import summarise

    for line in summarise(study, results):
        click.echo(line)
