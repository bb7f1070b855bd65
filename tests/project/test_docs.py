"""The site of docs/: what it is written from, and words that must not come back."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import pytest
from projects import ROOT

import onejump
from onejump.study.reading import study_schema


def keys_of(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every key of every section of a schema, and what the schema says of it."""
    for section in (schema, *schema["$defs"].values()):
        for key, field in section.get("properties", {}).items():
            yield key, " ".join(field.get("description", "").split())


@pytest.fixture(scope="module")
def page() -> str:
    spec = importlib.util.spec_from_file_location("study_keys", ROOT / "docs" / "study_keys.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written: str = module.study_keys()
    return written


def test_the_page_of_a_study_has_every_key_and_what_it_means(page: str) -> None:
    for key, description in keys_of(study_schema()):
        assert f"`{key}` (" in page or f"{key}`\n" in page or f"{key}.<name>`\n" in page, key
        assert description in page, key


@pytest.mark.parametrize(
    "line",
    [
        "### `corpora.<name>`\n",
        "`seed` (whole number at least 0; default `0`)\n: ",
        "`study` (text; required)\n: ",
        "`metric` (`signed-squared-cosine` or `cosine` or `mse`; default `signed-squared-cosine`)\n: ",
        "`targets` (list of number above 0 and at most 1; default `[0.95, 0.9]`)\n: ",
    ],
)
def test_the_page_of_a_study_says_types_and_defaults(page: str, line: str) -> None:
    assert line.lstrip("#") in page


def test_the_page_of_the_api_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\.\. auto\w+:: onejump\.(\w+)$", page, re.M)
    assert sorted(shown) == onejump.__all__


RIDDLES = {
    r"\bso (many|few)\b(?! that)": "say the number or name it",
    r"\blatter ones?\b": "name the thing",
    r"\b(it|which|what) (\w+ )?(is|are) of[.,;:)]": "say how the two things belong together",
    r"\bNone for nothing\b": "None if it is zero",
    r"\blesser\b": "lower",
    r"\blikewise\b": "in the same way",
    r"\bAs of `": "See `",
    r"\b(have|has) besides\b": "say what is added",
    r"\b(held|hold|holds) (\w+ ){0,3}against\b": "compare with",
}
"""Phrases that readers had to read twice, and what to write in their place."""


def test_riddles_that_were_found_once_do_not_come_back() -> None:
    kinds = ("README.md", "config/*.md", "docs/*.md", "*.yaml", "studies/*.yaml", "workflow/**/*.rst")
    code = (
        "Snakefile",
        "workflow/**/*.smk",
        "workflow/**/*.py",
        "src/**/*.py",
        "benchmarks/*.py",
        "docs/*.py",
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()!r}: {instead}"
        for pattern in (*kinds, *code)
        for path in sorted(ROOT.glob(pattern))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for riddle, instead in RIDDLES.items()
        if re.search(riddle, line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)
