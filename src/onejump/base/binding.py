"""Gives a stage what its rule names: each parameter of the function is looked up by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from onejump.base.errors import OneJumpError

# A rule may name these for Snakemake's sake alone. `code` and `content` rerun a stage when its code, or
# what it reads besides its inputs, has changed. `files` are a model's own files. `description`, the model's
# sizes, sets the resources of a job. A stage that has a parameter of such a name gets the value.
FOR_SNAKEMAKE_ONLY = ("code", "content", "files", "description")

_KINDS = ("input", "output", "params")
_CONVERSION = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def arguments_for(stage: Callable[..., Any], snakemake: Any) -> dict[str, Any]:
    """Look up the arguments of a stage in the rule that runs it.

    A parameter gets the input, output or param of its name. If the rule has none, the parameter gets the
    wildcard of its name, or else this key of ``config["compute"]``, or else its own default. The value is
    converted to the type that the parameter is annotated with: a path to ``Path``, a mapping to a dataclass,
    a wildcard to ``int``. An input without files is None for ``Path | None``. A parameter ``**inputs`` gets
    all other inputs of the rule.

    Parameters
    ----------
    stage : callable
        The function of the stage, with every parameter annotated.
    snakemake : snakemake.script.Snakemake
        What Snakemake gives the script of a rule.

    Returns
    -------
    dict
        Arguments by the name of their parameter.

    Raises
    ------
    OneJumpError
        If rule and stage do not fit: a parameter gets no value, or one of another type; the rule names
        something that the stage does not take, uses a name twice, or gives an input, output or param no
        name.
    """
    wrong = [*_unnamed(snakemake), *_named_twice(snakemake)]
    named = {name: value for kind in _KINDS for name, value in getattr(snakemake, kind).items()}
    # A wildcard or an option of `compute` is given only to a stage that asks for it.
    on_request = {**snakemake.config.get("compute", {}), **dict(snakemake.wildcards.items())}
    hints = get_type_hints(stage, include_extras=True)
    arguments: dict[str, Any] = {}
    for parameter in inspect.signature(stage).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            rest = {name: value for name, value in snakemake.input.items() if name not in arguments}
            given = {name: value for name, value in rest.items() if name not in FOR_SNAKEMAKE_ONLY}
        elif parameter.name in named:
            given = {parameter.name: named[parameter.name]}
        elif parameter.name in on_request:
            given = {parameter.name: on_request[parameter.name]}
        else:
            given = {}
            if parameter.default is parameter.empty:
                wrong.append(f"nothing of the rule is named {parameter.name}, which the stage needs")
        for name, value in given.items():
            try:
                arguments[name] = converted(value, hints.get(parameter.name, Any), name)
            except OneJumpError as error:
                wrong.append(str(error))
                arguments[name] = None
    unknown = [name for name in named if name not in arguments and name not in FOR_SNAKEMAKE_ONLY]
    wrong += [f"the rule names {name}, which the stage does not take" for name in unknown]
    if wrong:
        raise OneJumpError(
            f"rule {snakemake.rule} does not fit {stage.__module__}.{stage.__qualname__}: {'; '.join(wrong)}"
        )
    return arguments


def converted(value: Any, hint: Any, name: str) -> Any:
    """Convert a value of a rule to the type of a parameter.

    Parameters
    ----------
    value : object
        A path, a list of them, a wildcard, or what a study says.
    hint : type
        Anything that pydantic understands. A mapping becomes a dataclass, whose fields are converted too.
    name : str
        For the message.

    Raises
    ------
    OneJumpError
        If the value is not of that type, or if a mapping lacks a field of the dataclass or has another key.
    """
    if isinstance(value, list):  # also Snakemake's own kind of list
        value = list(value)
        if not value and set(get_args(hint)) == {Path, NoneType}:
            return None
    model = create_model("Converted", __config__=_CONVERSION, value=(hint, ...))
    try:
        return model.model_validate({"value": value}).value  # type: ignore[attr-defined]
    except ValidationError as error:
        raise OneJumpError("; ".join(_told(error, name))) from None


def _unnamed(snakemake: Any) -> Iterator[str]:
    for kind in _KINDS:
        values = getattr(snakemake, kind)
        # A name stands for one param, or for one or several paths.
        of_a_name = [
            len(value) if isinstance(value, list) and kind != "params" else 1 for _, value in values.items()
        ]
        if len(values) > sum(of_a_name):
            yield f"the rule has {kind} without a name"


def _named_twice(snakemake: Any) -> Iterator[str]:
    kinds: dict[str, list[str]] = {}
    for kind in _KINDS:
        for name in dict(getattr(snakemake, kind).items()):
            kinds.setdefault(name, []).append(kind)
    for name, found in kinds.items():
        if len(found) > 1:
            yield f"{name} is named among the rule's {' and its '.join(found)}"


def _told(error: ValidationError, name: str) -> Iterator[str]:
    """One line for each mistake in a value. If the type is a union, one line names all that is accepted."""
    accepted: dict[str, list[str]] = {}
    for mistake in error.errors(include_url=False):
        key = ".".join([name, *map(str, mistake["loc"][1:])])
        if mistake["type"] == "missing":
            accepted[f"{key} is missing"] = []
        elif mistake["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            accepted[f"{key} is not a key that is accepted"] = []
        else:
            message = mistake["msg"].removeprefix("Input should be ")
            accepted.setdefault(f"{key}: {mistake['input']!r} given, accepted is ", []).append(message)
    for start, messages in accepted.items():
        yield start + ", or ".join(dict.fromkeys(messages))
