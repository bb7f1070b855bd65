"""A Sphinx extension that writes every key of a study into a page when the site is built.

It replaces the line ``<!-- study keys -->`` of a page. Keys, types, defaults and descriptions come from
`onejump.study.study.study_schema`, so that the page cannot differ from what `onejump check` accepts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onejump.study.reading import study_schema

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = "<!-- study keys -->"
_TYPES = {"boolean": "true or false", "integer": "whole number", "number": "number", "string": "text"}

Schema = dict[str, Any]


class _Keys:
    """The Markdown of a schema: a heading for each section, and a definition for each key in it."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._definitions: dict[str, Schema] = schema["$defs"]

    def markdown(self) -> Iterator[str]:
        yield from self._section("", self._schema, depth=2)

    def _section(self, path: str, section: Schema, depth: int) -> Iterator[str]:
        """The keys with a plain value first, then the keys that hold sections of their own."""
        plain = {key: field for key, field in section["properties"].items() if self._held(field) is None}
        if not path:
            yield f"{'#' * depth} The study itself\n"
        for key, field in plain.items():
            yield self._definition(key, field, required=key in section.get("required", ()))
        for key, field in section["properties"].items():
            if key in plain:
                continue
            where = f"{path}.{key}" if path else key
            held, by_name = self._sections_of(field)
            where += ".<name>" if by_name else ""
            yield f"{'#' * depth} `{where}`\n"
            yield self._sentences(field.get("description"), held.get("description"))
            yield self._switch(field)
            yield from self._section(where, held, min(depth + 1, 4))

    def _held(self, field: Schema) -> Schema | None:
        """The section that a key holds, if it holds one."""
        for form in (field, *field.get("anyOf", ())):
            if "$ref" in form:
                return self._definitions[form["$ref"].rsplit("/", 1)[1]]
            if isinstance(form.get("additionalProperties"), dict):
                return self._held(form["additionalProperties"])
        return None

    def _sections_of(self, field: Schema) -> tuple[Schema, bool]:
        held = self._held(field)
        assert held is not None
        return held, isinstance(field.get("additionalProperties"), dict)

    @staticmethod
    def _sentences(*descriptions: str | None) -> str:
        said = dict.fromkeys(" ".join(text.split()) for text in descriptions if text)
        return " ".join(said) + "\n"

    @staticmethod
    def _switch(field: Schema) -> str:
        """Whether a figure, an experiment or a kind is on where the study does not name it."""
        if not any(form.get("type") == "boolean" for form in field.get("anyOf", ())):
            return ""
        return (
            "Off unless the study names it.\n"
            if field.get("default") is None
            else "On unless it is `false`.\n"
        )

    def _definition(self, key: str, field: Schema, *, required: bool) -> str:
        default = "required" if required else _default(field)
        kind = self._type(field)
        return f"`{key}` ({kind}; {default})\n: {self._sentences(field.get('description'))}"

    def _type(self, field: Schema) -> str:
        if "anyOf" in field:
            return " or ".join(
                dict.fromkeys(self._type(form) for form in field["anyOf"] if form.get("type") != "null")
            )
        if "enum" in field or "const" in field:
            values = field.get("enum", [field.get("const")])
            return " or ".join(
                f"`{value if isinstance(value, str) else json.dumps(value)}`" for value in values
            )
        if field["type"] == "array":
            return f"list of {self._type(field['items'])}"
        if field["type"] == "object":
            return f"{self._type(field['additionalProperties'])} by name"
        return _TYPES[field["type"]] + _bounds(field)


def _default(field: Schema) -> str:
    value = field.get("default")
    return "not set" if value is None else f"default {_value(value)}"


def _value(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _bounds(field: Schema) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    said = [f"{word} {field[bound]:g}" for bound, word in words.items() if bound in field]
    return f" {' and '.join(said)}" if said else ""


def study_keys(schema: Schema | None = None) -> str:
    """Markdown that says every key of a study.

    Parameters
    ----------
    schema : dict, optional
        The JSON schema of a study; onejump's own unless given.

    Raises
    ------
    KeyError
        If the schema has a form that this page does not know how to say.
    """
    return "\n".join(_Keys(schema or study_schema()).markdown())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""

    def insert(_: Sphinx, __: str, source: list[str]) -> None:
        if MARK in source[0]:
            source[0] = source[0].replace(MARK, study_keys())

    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}
