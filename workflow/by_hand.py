"""Runs the stage of one rule in this process: for breakpoints, a debugger or a notebook.

    python workflow/by_hand.py evaluate model=smollm2-135m corpus=wikipedia-en method=jtc
    python -m pdb workflow/by_hand.py corpus corpus=wikipedia-en --configfile studies/full.yaml

It is started in the folder that holds results/. Inputs are read where the workflow left them. What the
stage writes goes to a folder of its own, by-hand/, so that no result of the workflow is touched.
"""

from __future__ import annotations

import ast
import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from snakemake.api import SnakemakeApi
from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import InputFiles, OutputFiles, Wildcards
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "src"))  # as the workflow does: the library of this checkout

from onejump.base.binding import arguments_for  # noqa: E402
from onejump.base.errors import OneJumpError  # noqa: E402
from onejump.base.job import use_threads  # noqa: E402

SCRATCH = "by-hand"
"""Folder, in the current one, that a stage run by hand writes to."""


@contextmanager
def parsed_workflow(*configfiles: str | Path, cores: int = 1) -> Iterator[Any]:
    """Let Snakemake read the workflow's rules for a study; nothing is planned and nothing runs.

    Parameters
    ----------
    *configfiles : path
        Of the study; by default config.yaml.
    cores : int
        No rule gets more threads than this.

    Yields
    ------
    workflow : snakemake.workflow.Workflow

    Raises
    ------
    OneJumpError
        If the study is missing or not valid.
    """
    for file in configfiles:
        if not Path(file).is_file():
            raise OneJumpError(f"{file}: no such study file")
    settings = ConfigSettings(configfiles=[Path(file).absolute() for file in configfiles])
    quiet = OutputSettings(dryrun=True, quiet={Quietness.ALL})
    with SnakemakeApi(quiet) as snakemake:
        api = snakemake.workflow(ResourceSettings(cores=cores), settings, snakefile=ROOT / "Snakefile")
        try:
            workflow = api._workflow
        except (WorkflowError, SystemExit) as error:
            raise OneJumpError(str(error)) from None
        yield workflow


def stage_of(script: str | Path) -> tuple[str, str]:
    """Module and name of the function that a script of the workflow runs: it imports it, and says run(it).

    Raises
    ------
    OneJumpError
        If the script does anything else.
    """
    match ast.parse(Path(script).read_text(encoding="utf-8")).body:
        case [
            ast.ImportFrom(module="onejump.base.job"),
            ast.With(
                body=[
                    ast.ImportFrom(module=str(module), names=[ast.alias(name=name, asname=None)]),
                    ast.Expr(ast.Call(func=ast.Name("run"), args=[ast.Name(called)], keywords=[])),
                ]
            ),
        ] if name == called:
            return module, name
    raise OneJumpError(f"{script}: expected were the line with job(snakemake), one import, and run(<that>)")


def wildcards_of(workflow: Any, rule: Any) -> dict[str, str]:
    """The patterns of a rule's wildcards, by name."""
    constraints = {**workflow.wildcard_constraints, **rule.wildcard_constraints}
    return {name: constraints.get(name, ".+") for name in sorted(rule.wildcard_names)}


def snakemake_for(workflow: Any, rule_name: str, wildcards: dict[str, str], *, to: str | Path) -> Any:
    """Gather what Snakemake gives the script of a rule, its outputs moved to another folder.

    Raises
    ------
    OneJumpError
        If there is no such rule, or a wildcard is missing, unknown or not accepted.
    """
    rules = {rule.name: rule for rule in workflow.rules if rule.script}
    if rule_name not in rules:
        raise OneJumpError(f"rule {rule_name!r} given, accepted is one of {', '.join(sorted(rules))}")
    rule = rules[rule_name]
    _check_wildcards(rule_name, wildcards_of(workflow, rule), wildcards)
    inputs = rule.expand_input(wildcards)[0]
    outputs = rule.expand_output(wildcards)[0]
    resources = rule.expand_resources(wildcards, inputs, 1)
    params = rule.expand_params(wildcards, inputs, outputs, SimpleNamespace(resources=resources))[0]
    return SimpleNamespace(
        rule=rule.name,
        script=rule.script,
        input=InputFiles(toclone=inputs, plainstr=True),
        output=OutputFiles(toclone=outputs, custom_map=lambda path: str(Path(to, str(path)))),
        params=params,
        wildcards=Wildcards(fromdict=wildcards),
        config=workflow.globals["config"],
        resources=resources,
        threads=resources["_cores"],
    )


def arguments_of(
    rule: str, *configfiles: str | Path, to: str | Path = SCRATCH, **wildcards: str
) -> dict[str, Any]:
    """Give the arguments that the workflow would run a stage with, such as for a notebook.

    Parameters
    ----------
    rule : str
    *configfiles : path
        Of the study; by default config.yaml.
    to : path
        Folder for what the stage writes.
    **wildcards : str
        Such as ``model="smollm2-135m"``.

    Returns
    -------
    dict
        Arguments of the stage by name: ``evaluate_method(**arguments_of("evaluate", ...))``.

    Raises
    ------
    OneJumpError
        If the study is missing or not valid, there is no such rule, a wildcard is missing, or an input file
        is.
    """
    with parsed_workflow(*configfiles) as workflow:
        return _bound(snakemake_for(workflow, rule, wildcards, to=to), configfiles)[1]


def _bound(snakemake: Any, configfiles: Sequence[str | Path]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The stage, and its arguments once all inputs are found to be there."""
    missing = [str(path) for path in snakemake.input if not Path(path).exists()]
    if missing:
        study = f"--configfile {' '.join(map(str, configfiles))} " if configfiles else ""
        shown = [*missing[:3], *([f"... ({len(missing)} in all)"] if len(missing) > 3 else [])]
        raise OneJumpError(
            f"rule {snakemake.rule}: no such input: {', '.join(shown)}; to make what is missing: "
            f"snakemake {study}-- {' '.join(missing[:3])}"
        )
    module, name = stage_of(snakemake.script)
    stage = getattr(importlib.import_module(module), name)
    for path in snakemake.output:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    return stage, arguments_for(stage, snakemake)


def _check_wildcards(rule: str, accepted: dict[str, str], given: dict[str, str]) -> None:
    for name in given:
        if name not in accepted:
            raise OneJumpError(f"rule {rule}: no wildcard {name}; its wildcards are {', '.join(accepted)}")
    shown = {name: f"{name}={_shown(pattern)}" for name, pattern in accepted.items()}
    missing = [shown[name] for name in accepted if name not in given]
    if missing:
        raise OneJumpError(f"rule {rule}: missing {' '.join(missing)}")
    for name, pattern in accepted.items():
        if not re.fullmatch(pattern, given[name]):
            raise OneJumpError(f"rule {rule}: {name}={given[name]} given, accepted is {shown[name]}")


def _shown(pattern: str) -> str:
    """A wildcard's pattern as a reader wants it: names that `re.escape` has not changed."""
    plain = re.sub(r"\\([^\w\s])", r"\1", pattern)
    return f"<{plain}>" if plain != ".+" else "<any text>"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("rule")
@click.argument("wildcards", nargs=-1, metavar="[WILDCARD=VALUE]...")
@click.option("--configfile", "configfiles", multiple=True, help="Study file; by default config.yaml.")
@click.option("--cores", default=1, show_default=True, help="The rule gets at most this many threads.")
@click.option("--to", default=SCRATCH, show_default=True, help="Folder for what the stage writes.")
def main(rule: str, wildcards: tuple[str, ...], configfiles: tuple[str, ...], cores: int, to: str) -> None:
    """Run the stage of RULE in this process, with the inputs that the workflow left.

    What the stage writes goes to the folder given by --to, under the path that it has in the workflow.
    """
    try:
        given = dict(text.split("=", 1) for text in wildcards if "=" in text)
        if len(given) < len(wildcards):
            raise OneJumpError(f"{' '.join(wildcards)} given, name=value was expected for each wildcard")
        with parsed_workflow(*configfiles, cores=cores) as workflow:
            snakemake = snakemake_for(workflow, rule, given, to=to)
        use_threads(snakemake.threads)  # before torch is imported
        stage, arguments = _bound(snakemake, configfiles)
    except OneJumpError as error:
        raise click.ClickException(str(error)) from None
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    click.echo(f"{stage.__module__}.{stage.__qualname__}, threads: {snakemake.threads}", err=True)
    # An error of the stage is not caught: its traceback is what a run by hand is for.
    stage(**arguments)
    click.echo("written: " + " ".join(map(str, snakemake.output)))


if __name__ == "__main__":
    main()
