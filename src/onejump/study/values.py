"""What a study is made of: values with a form of their own, sections of keys, and switches."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from onejump.base.fetch import PINNED_WHEEL
from onejump.base.language import EXPECTED, is_language
from onejump.base.rank import PAPERS_RANK
from onejump.study.messages import rule, shown

# A name becomes the name of a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Names that the workflow itself uses beside the folders of models and corpora.
_RESERVED = (
    *("corpora", "report.html", "logs", "benchmarks", "weights", "model.json", "head.safetensors"),
    *("figures", "cross-scale.parquet"),
)


def _path_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "a name of at most 100 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    if value in _RESERVED:
        raise ValueError(f"a name other than {', '.join(_RESERVED)}, which the results folder uses itself")
    return value


def of_form(pattern: str, words: str) -> AfterValidator:
    """Make a check that a text has a form; `words` describe the form in the message."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def _path_in_wheel(value: str) -> str:
    # It becomes part of the path where the file is kept, and Snakemake takes {...} for a wildcard.
    if any(step in ("", ".", "..") for step in value.split("/")) or re.search(r"[\\{}]", value):
        raise ValueError(
            "a path inside the wheel, such as package/data/model.gguf, without '..', '\\\\' and braces"
        )
    return value


def _language(value: str) -> str:
    try:
        known = is_language(value)
    except ImportError:  # Snakemake's own environment: the job that reads the text runs in another one
        return value
    if not known:
        raise ValueError(EXPECTED)
    return value


def _colormap(value: str) -> str:
    try:
        from matplotlib import colormaps
    except ImportError:  # a figure cannot be drawn here either
        return value
    if value not in colormaps:
        near = difflib.get_close_matches(value, colormaps, n=3, cutoff=0.5) or ["cividis", "viridis"]
        raise ValueError(f"a matplotlib colour map, such as {', '.join(near)}")
    return value


# The name of a model, a corpus or a study.
Name = Annotated[str, AfterValidator(_path_name)]
_PRECISION = r"precision@[1-9]\d*"
Colormap = Annotated[str, AfterValidator(_colormap)]
Metric = Annotated[
    str,
    of_form(rf"{_PRECISION}|surprisal|r2|kl|accuracy", "precision@<k>, surprisal, r2, kl or accuracy"),
]
Precision = Annotated[str, of_form(_PRECISION, "precision@<k>, such as precision@1")]
Prediction = Annotated[str, of_form(rf"{_PRECISION}|surprisal", "precision@<k> or surprisal")]
Language = Annotated[str, AfterValidator(_language)]
HUB_NAME = r"(?!.*(--|\.\.))(\w[\w.-]*/)?\w[\w.-]{0,95}"
HubName = Annotated[
    str,
    of_form(
        HUB_NAME,
        "a name on the Hugging Face hub, such as openai-community/gpt2 (a folder of this machine: folder)",
    ),
]
ModelPath = Annotated[str, of_form(r"[^{}]+", "a path without braces, which Snakemake takes for wildcards")]
Wheel = Annotated[str, of_form(PINNED_WHEEL, "a pinned wheel, name==version")]
WheelFile = Annotated[str, AfterValidator(_path_in_wheel)]
Sha256 = Annotated[str, of_form(r"[0-9A-Fa-f]{64}", "a SHA-256: 64 hexadecimal digits, in quotes")]


def _rank(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise ValueError("a rank of at least 1, or below 1 a part of H, such as 5 or 0.01") from None


Rank = Annotated[PositiveInt | Annotated[float, Field(gt=0, lt=1)], WrapValidator(_rank)]
# The rank of a shortcut kind: null stands for the papers' rank.
KindsRank = Annotated[
    Rank,
    BeforeValidator(
        lambda given: PAPERS_RANK if given is None else given, json_schema_input_type=Rank | None
    ),
]


def one_of(names: Sequence[str]) -> tuple[AfterValidator, WithJsonSchema]:
    """Make a check that a text is one of some names, for `Annotated[str, *one_of(names)]`."""
    *first, last = map(repr, names)
    words = f"{', '.join(first)} or {last}" if first else last

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(words)
        return value

    return AfterValidator(check), WithJsonSchema({"enum": list(names), "type": "string"})


class Section(BaseModel):
    """A mapping of known keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, strict=True, allow_inf_nan=False
    )

    def said(self, key: str, member: Any = None) -> str:
        """Say for a message whether a value, or a member of it, was given or is the default."""
        value = shown(getattr(self, key) if member is None else member)
        return f"{value} given" if key in self.model_fields_set else f"the default has {value}"


def _empty_is_default(value: Any) -> Any:
    """Take null for an empty section: YAML reads a section so if all its keys are commented out."""
    return {} if value is None else value


# A section that may be left empty.
Empty = BeforeValidator(_empty_is_default)


def exactly_one(section: BaseModel, keys: tuple[str, ...]) -> None:
    """Make sure that a section has exactly one of some keys."""
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(keys)} (given: {', '.join(given) or 'none'})")


def refuse_without_effect(section: BaseModel, keys: Sequence[str], why: str) -> None:
    """Refuse keys that were given but have no effect; `why` ends the sentence of the message."""
    for key in keys:
        if key in section.model_fields_set and getattr(section, key) is not None:
            value = getattr(section, key)
            given = "" if isinstance(value, BaseModel) else f"{shown(value)} given, but "
            raise rule(f"{given}it has no effect {why}: leave it out", key)


def _switch(value: Any) -> Any:
    """Read a switch: a member that is named is on, with its defaults for null or true; false is off."""
    if value is None or value is True:
        return {}
    return None if value is False else value


def _with_switches(schema: dict[str, Any], switches: type[Switches]) -> None:
    """Add to the schema what editors need: true and false are accepted, and what each member switches on."""
    for name, section in switches.sections().items():
        member = schema["properties"][name]
        member["anyOf"].append({"type": "boolean"})
        member["description"] = inspect.getdoc(section)


class Switches(Section):
    """Members that a study switches on or off: each is a section, or None if it is switched off.

    In a study, a member that is named is on, with its defaults if it has no keys; false switches it off.
    """

    model_config = ConfigDict(json_schema_extra=_with_switches)

    @model_validator(mode="before")
    @classmethod
    def _switch_on_what_is_named(cls, given: Any) -> Any:
        return {key: _switch(value) for key, value in given.items()} if isinstance(given, Mapping) else given

    @classmethod
    def sections(cls) -> dict[str, type[Any]]:
        """Give the section class of each member by its name, whether it is switched on or not."""
        return {
            name.replace("_", "-"): next(part for part in get_args(field.annotation) if part is not NoneType)
            for name, field in cls.model_fields.items()
        }

    def names(self) -> tuple[str, ...]:
        """Name the members that are switched on."""
        return tuple(name for name in self.sections() if self._member(name) is not None)

    def options(self, name: str) -> dict[str, Any]:
        """Give the options of a member that is switched on, as plain values."""
        options: dict[str, Any] = self._member(name).model_dump()
        return options

    def _member(self, name: str) -> Any:
        return getattr(self, name.replace("-", "_"))
