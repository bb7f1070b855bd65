"""Reads study files into a `Study`, and gives the JSON schema that they follow."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onejump.base.errors import StudyError
from onejump.study.content import from_the_working_folder, unusable_values
from onejump.study.file import KeyPath, merge, read_setting, read_study_file
from onejump.study.messages import told
from onejump.study.study import Study


def parse_study(config: Mapping[str, Any], places: Mapping[KeyPath, str] | None = None) -> Study:
    """Check a configuration and make a study of it.

    Parameters
    ----------
    config : mapping
        What a study file holds.
    places : mapping, optional
        Where each key was read, such as "config.yaml, line 12", by the key's path. Messages name it.

    Raises
    ------
    StudyError
        A line for each mistake: where it stands, the key, the value given and what is accepted.
    """
    places = places or {}
    mistakes = list(unusable_values(config, (), places))
    if mistakes:
        raise StudyError("\n".join(mistakes))
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        raise StudyError("\n".join(told(config, error.errors(), places, _accepted_keys))) from None


def load_study(*paths: str | Path, settings: Sequence[str] = ()) -> Study:
    """Read and check a study file (YAML).

    Parameters
    ----------
    *paths : path
        The file. If there are several, a later file adds to the earlier ones, and its values win. Paths of
        text and models are relative to the file that they stand in.
    settings : sequence of str
        Values that win over those of the files, each as KEY=VALUE, such as ``seed=3``,
        ``selection.metric=mse`` or ``selection={metric: mse}``.

    Raises
    ------
    StudyError
        If a file is missing, is not a YAML mapping, or does not describe a study.
    """
    contents = [from_the_working_folder(read_study_file(path), Path(path).parent) for path in paths]
    content = merge([*contents, *map(read_setting, settings)])
    return parse_study(content.values, content.places)


@functools.cache
def _schema() -> dict[str, Any]:
    return Study.model_json_schema()


def _accepted_keys(path: KeyPath) -> list[str]:
    """Name the keys that the section at a path accepts."""
    schema = _schema()
    definitions = schema["$defs"]
    here = schema
    for step in path:
        here = here.get("properties", {}).get(step) or here["additionalProperties"]
        reference = here.get("$ref") or next((e["$ref"] for e in here.get("anyOf", []) if "$ref" in e), None)
        if reference:
            here = definitions[reference.rsplit("/", 1)[1]]
    return list(here["properties"])


def study_schema() -> dict[str, Any]:
    """Give the JSON schema of a study file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema()}
