"""Files that early stages write, for tests of later ones: a test says what counts, all else has defaults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from onejump.base.files import write_json
from onejump.base.format import SELECTION
from onejump.models.description import ModelDescription, write_description

_DESCRIPTION = ModelDescription(
    source="some-model",
    revision=None,
    model_digest="sha256:" + 64 * "0",
    architecture="SomeForCausalLM",
    task="causal",
    blocks=4,
    hidden=32,
    vocabulary=200,
    parameters=100_000,
    block_flops=4 * [40_000],
    dtype="float32",
    trust_remote_code=False,
    modules=None,
    allow_pickle=False,
    pairs=None,
)


def describe_as(path: Path, **known: Any) -> None:
    """Write a model.json."""
    write_description(path, replace(_DESCRIPTION, **known))


def select(path: Path, *, model_digest: str | None = None, **known: Any) -> None:
    """Write a selection.json."""
    write_json(path, dict.fromkeys(SELECTION.keys) | known, SELECTION, model_digest=model_digest)
