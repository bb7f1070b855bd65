"""Messages for mistakes in a study: a plain line each, with the key, the value and what is accepted."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

from onejump.study.file import KeyPath

# Most mistakes that are told; the others are counted.
_MOST_TOLD = 20
_RULE = "rule"

_PLAIN = {
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "list_type": "a list",
    "string_type": "text (a number or date in quotes)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "too_short": "at least one",
}


def rule(message: str, key: str = "") -> PydanticCustomError:
    """Make an error for a validator to raise: `message` is told behind the keys of the section and `key`."""
    # pydantic takes {...} in a message for the name of a value.
    return PydanticCustomError(_RULE, "{sentence}", {"sentence": message, "key": key})


def shown(value: Any) -> str:
    """Write a value for a message: short, whatever it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    short.maxlevel = 2
    return short.repr(value)


def told(
    config: Any,
    errors: Sequence[ErrorDetails],
    places: Mapping[KeyPath, str],
    accepted_keys: Callable[[KeyPath], list[str]],
) -> list[str]:
    """Write a line for each mistake.

    Parameters
    ----------
    config : mapping
        The study as it was given.
    errors : sequence of ErrorDetails
        What pydantic found.
    places : mapping
        Where each key was read, such as "config.yaml, line 12"; may be empty.
    accepted_keys : callable
        Gives the keys that the section at a path accepts.

    Returns
    -------
    list of str
        At most a screenful; if there are more mistakes, the last line says how many.
    """
    accepted: dict[str, list[str]] = {}
    for count, error in enumerate(errors):
        if len(accepted) == _MOST_TOLD:
            accepted[f"and {len(errors) - count} more mistakes"] = []
            break
        path = _real_path(config, error["loc"])
        context = error.get("ctx", {}) if error["type"] == _RULE else {}
        if context.get("key"):
            path = (*path, *context["key"].split("/"))
        start = place_of(path, places) + ".".join(shown_key(step) for step in path)
        if error["type"] == "extra_forbidden":
            accepted[f"{start}: unknown key; {_near(path, accepted_keys(path[:-1]))}"] = []
        elif error["type"] == "missing":
            accepted[f"{start}: missing; it has no default"] = []
        elif error["type"] == _RULE:
            accepted[f"{start}: {error['msg']}" if path else error["msg"]] = []
        else:
            given = error["input"]
            value = "" if isinstance(given, Mapping | BaseModel) else f"{shown(given)} given, "
            # Each member of a union gives an error: one line names all that is accepted.
            accepted.setdefault(f"{start}: {value}accepted is ", []).append(_plain(error))
    return [line + ", or ".join(dict.fromkeys(messages)) for line, messages in accepted.items()]


def shown_key(step: str | int) -> str:
    """Write a key for a message: as it is, unless it is long or not printable."""
    key = str(step)
    return key if len(key) <= 80 and key.isprintable() else shown(key)


def place_of(path: KeyPath, places: Mapping[KeyPath, str]) -> str:
    """Say where a key stands, or the nearest section around it, with a colon; empty if nothing is known."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return f"{places[path[:length]]}: "
    return ""


def _plain(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return _PLAIN.get(error["type"], message)


def _near(path: KeyPath, accepted: list[str]) -> str:
    # difflib's cost is the product of the lengths.
    near = difflib.get_close_matches(str(path[-1])[:80], accepted, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}accepted here: {', '.join(accepted)}"


def _real_path(config: Any, location: KeyPath) -> KeyPath:
    """Drop what pydantic adds to an error's location: names of union members, marks of mapping keys."""
    path: list[str | int] = []
    here = config
    for depth, step in enumerate(location):
        if isinstance(here, Mapping) and (step in here or depth == len(location) - 1) and step != "[key]":
            here = here.get(step)
            path.append(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
            path.append(step)
    return tuple(path)
