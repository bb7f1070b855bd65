"""The `onejump` command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from onejump.errors import OneJumpError


@contextmanager
def _one_clear_error() -> Iterator[None]:
    try:
        yield
    except OneJumpError as error:
        raise click.ClickException(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onejump")
def main() -> None:
    """Shortcuts in transformers: from a level to the last block's output."""


def _study_argument(command: Callable[..., None]) -> Callable[..., None]:
    kind = click.Path(path_type=Path)
    return click.argument("study", type=kind, default=Path("config.yaml"))(command)


@main.command()
@_study_argument
def check(study: Path) -> None:
    """Check a study file, as the workflow does before it plans a job."""
    from onejump.study import load_study

    with _one_clear_error():
        found = load_study(study)
    methods = ", ".join(found.shortcuts.methods())
    click.echo(
        f"{study}: valid. Study {found.study}: {len(found.models)} model(s), {len(found.corpora)} corpora,"
    )
    click.echo(f"shortcuts {methods}.")


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
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), help="Folder of all results."
)
def plan(
    study: Path,
    device: str,
    tflops: float | None,
    nodes: int,
    tokens: float,
    sizes: dict[str, dict[str, int]],
    results: Path,
) -> None:
    """Say what a study will cost before it runs: jobs, tokens, FLOPs, disk, memory, hours."""
    from onejump.plan import DEVICES, look_up_sizes, plan, show_plan
    from onejump.study import load_study

    with _one_clear_error():
        found = load_study(study)
        known = look_up_sizes(found, results, sizes)
        where, host = DEVICES[device], DEVICES["cpu" if device == "cpu" else "node"]
        if tflops is not None:
            where = where.with_rate(tflops * 1e12)
        rows = list(plan(found, known, device=where, host=host, tokens_per_sentence=tokens))
        click.echo(show_plan(rows, device=where, host=host, nodes=nodes))


@main.command()
def schema() -> None:
    """Print the JSON schema of a study file."""
    from onejump.study import study_schema

    click.echo(json.dumps(study_schema(), indent=2))


@main.command()
@_study_argument
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), help="Folder of all results."
)
def summary(study: Path, results: Path) -> None:
    """Name the selected jump of each model and corpus, its scores, the figures and the report."""
    from onejump.study import load_study

    with _one_clear_error():
        found = load_study(study)
        home = results / found.study
        for model in found.models:
            for corpus in found.corpora:
                _summarise(home / model / corpus, model, corpus)
    report = home / "report.html"
    if report.is_file():
        click.echo(f"\nreport   {report}")


def _summarise(pair: Path, model: str, corpus: str) -> None:
    from onejump.files import read_json, read_table

    if not (pair / "selection.json").is_file() or not (pair / "evaluation.parquet").is_file():
        raise OneJumpError(f"{pair}: not there yet; run the workflow of this study first")
    chosen = read_json(pair / "selection.json")
    origin = chosen["computed_from"]
    click.echo(f"\n{model} on {corpus}")
    click.echo(
        f"selected jump: from level {chosen['jump']} of 0..{origin['levels'] - 1} ({origin['method']})"
    )
    click.echo(f"  {_score_line(chosen)}")
    click.echo("  validation, mean over levels:")
    table = read_table(pair / "evaluation.parquet")
    table = table[~table["method"].str.startswith("arbitrary")]
    means = table.groupby(["method", "metric"], sort=False)["value"].mean().unstack()
    metrics = ("precision@1", "surprisal", "kl", "r2")
    width = max(map(len, ("method", *means.index)))
    click.echo(f"    {'method':<{width}}" + "".join(f"{name:>14}" for name in metrics))
    for method in means.index:
        measured = means.loc[method]
        # A distilled kind has no r2.
        known = [metric in measured and measured[metric] == measured[metric] for metric in metrics]
        shown = "".join(
            f"{measured[metric]:>14.3f}" if there else f"{'-':>14}"
            for metric, there in zip(metrics, known, strict=True)
        )
        click.echo(f"    {method:<{width}}{shown}")
    for figure in sorted((pair / "figures").glob("*.svg")):
        click.echo(f"figure   {figure}")


def _score_line(chosen: dict[str, Any]) -> str:
    origin = chosen["computed_from"]
    line = f"{origin['metric']} {chosen['score']:.4f}"
    line += f", mean over {origin['samples']} samples x {origin['levels']} levels"
    if chosen["margin"] is not None:
        line += f", ahead of jump {chosen['ranking'][1]['jump']} by {chosen['margin']:.4f}"
    return line
