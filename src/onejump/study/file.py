"""A study file as YAML: read within bounds, every key once, with the line that each key stands on."""

from __future__ import annotations

import re
import stat
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from onejump.base.errors import StudyError

# Largest study file: far larger than any real one, and small enough to be checked at once.
_LARGEST_FILE = 1_000_000  # bytes
_MOST_VALUES = 50_000  # an alias (*name) counts as all that it stands for
_DEEPEST = 20

KeyPath = tuple[str | int, ...]


class Content(NamedTuple):
    """What a study file holds, as plain values, and where each of them was read."""

    values: dict[str, Any]
    places: dict[KeyPath, str]
    """Where each key and list item was read, such as "config.yaml, line 12", by its path."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys and bounds what aliases expand to."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._sizes: dict[int, int] = {}  # values in each complete node, by its identity

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(yaml.AliasEvent)
        before = self._values
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {_DEEPEST} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias:
            if id(node) not in self._sizes:
                raise yaml.MarkedYAMLError(problem="an alias stands inside its own anchor", problem_mark=mark)
            self._values += self._sizes[id(node)]
        else:
            self._values += 1
            self._sizes[id(node)] = self._values - before
        if self._values > _MOST_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MOST_VALUES:,} values, aliases written out", problem_mark=mark
            )
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None or key.tag != "tag:yaml.org,2002:str":
                read_as = type(self.construct_object(key)).__name__ if name is not None else "no text"
                raise yaml.MarkedYAMLError(
                    problem=f"a key has to be text; this one is read as {read_as}"
                    + (f": write '{name}' in quotes" if name is not None else ""),
                    problem_mark=key.start_mark,
                )
            line = key.start_mark.line + 1
            if name in first:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {name!r} stands on line {first[name]} already",
                    problem_mark=key.start_mark,
                )
            first[name] = line
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads 1e-3 as text, as it has no point. Here it is a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_study_file(path: str | Path) -> Content:
    """Read a study file (YAML).

    Parameters
    ----------
    path : path
        A regular file of UTF-8 text, at most 1 MB.

    Raises
    ------
    StudyError
        If there is no such file, it is not YAML, gives a key twice, is too large (its aliases written out),
        or does not hold a mapping. The message names the line if there is one.
    """
    values, places = _read(_text_of(Path(path)), str(path))
    if not isinstance(values, dict):
        what = "nothing" if values is None else f"a {_NAMES.get(type(values), type(values).__name__)}"
        raise StudyError(f"{path}: a mapping of keys such as `study: mine` was expected, {what} was found")
    return Content(values, places)


_NAMES = {list: "list", str: "text", int: "number", float: "number"}


def _text_of(path: Path) -> str:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or device"
            raise StudyError(f"{path}: a study file was expected, this is a {what}")
        if found.st_size > _LARGEST_FILE:
            raise StudyError(f"{path}: {found.st_size:,} bytes found, a study has at most {_LARGEST_FILE:,}")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file") from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: UTF-8 text was expected, byte {error.start + 1} is none") from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: not readable: {getattr(error, 'strerror', None) or error}") from None


def _read(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            values = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}, line {mark.line + 1}" if mark else name
        words = ", ".join(part for part in (error.context, error.problem) if part)
        raise StudyError(f"{where}: not readable as YAML: {words}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # A control character, or a number or date that Python cannot hold.
        raise StudyError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    return values, {path: f"{name}, line {line}" for path, line in _lines(node, ())}


def _lines(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))


def read_setting(argument: str) -> Content:
    """Read a value given on the command line as KEY=VALUE, where VALUE is YAML.

    Parameters
    ----------
    argument : str
        Such as ``seed=3``, ``selection={metric: mse}`` or ``selection.metric=mse``.

    Raises
    ------
    StudyError
        If the argument has another form.
    """
    key, equals, value = argument.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(path) or len(path) > _DEEPEST:
        raise StudyError(f"{argument!r} given, accepted is KEY=VALUE such as seed=3 or selection.metric=mse")
    values, places = _read(value, f"--config {key}")
    for step in reversed(path):
        values = {step: values}
    prefixes = [path[:length] for length in range(1, len(path) + 1)]
    return Content(values, dict.fromkeys([*prefixes, *((*path, *inner) for inner in places)], "--config"))


def merge(contents: Sequence[Content]) -> Content:
    """Put contents together. If several have a key, mappings are merged; else the last value wins."""
    values: dict[str, Any] = {}
    places: dict[KeyPath, str] = {}
    for content in contents:
        _merge(values, content.values)
        places |= content.places
    return Content(values, places)


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            into[key] = dict(into[key])
            _merge(into[key], value)
        else:
            into[key] = value
