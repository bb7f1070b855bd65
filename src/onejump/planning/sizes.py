"""The sizes of models: what decides how much a stage costs, and where to look it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from onejump.base.errors import OneJumpError
from onejump.models.description import ModelDescription, known_description
from onejump.models.tasks import Task
from onejump.planning.sources import wheel_path
from onejump.study.sources import Model
from onejump.study.study import Study
from onejump.study.untrained import Untrained

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number by its format."""
# How many labels a classifier has is known once its corpus is read. It hardly counts.
_LABELS = 10


@dataclass(frozen=True)
class Sizes:
    """What decides how much a model costs."""

    blocks: int
    """L."""
    hidden: int
    """H."""
    vocabulary: int
    """V."""
    parameters: int
    """Numbers in all its weights."""
    dtype: str = "float32"
    """Number format of the weights in the forward pass."""
    task: Task = "causal"
    """What the model is trained to do."""

    @classmethod
    def of(cls, description: ModelDescription) -> Sizes:
        """Take the sizes from what the model stage found out."""
        return cls(**{field.name: getattr(description, field.name) for field in fields(cls)})

    @property
    def weights(self) -> float:
        """Bytes of all weights."""
        return self.parameters * BYTES[self.dtype]


def look_up_sizes(study: Study, results: Path, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Sizes]:
    """Look up the sizes of a study's models: as given, else from an earlier run, else from the model's files.

    Parameters
    ----------
    study : Study
    results : Path
        Folder of all results.
    given : mapping of model name -> fields of Sizes
        Sizes that the user gave.

    Raises
    ------
    OneJumpError
        If the sizes of a model cannot be found, or sizes are given for a model that the study does not have.
    """
    unknown = set(given) - set(study.models)
    if unknown:
        raise OneJumpError(
            f"--sizes: {', '.join(sorted(unknown))} given, accepted is a model of the study: "
            f"{', '.join(study.models)}"
        )
    found = {}
    for name, model in study.models.items():
        if name in given:
            found[name] = Sizes(**given[name], dtype=study.origin_of(name).dtype)
        elif known := known_description(results / study.study / name / "model.json"):
            found[name] = Sizes.of(known)
        elif model.tuned is None:
            found[name] = Sizes(**_read_sizes(model), dtype=model.dtype)
    # A tuned model has the sizes of the model that it is tuned from.
    return {
        name: found[name] if name in found or model.tuned is None else found[model.tuned.model]
        for name, model in study.models.items()
    }


def _sizes_of(made: Untrained) -> dict[str, Any]:
    """Count the parameters, without norms and biases: of an encoder-decoder with tied embeddings, or BERT."""
    attention, feed_forward = 4, 8  # matrices of H H
    if made.classifies:
        blocks = made.blocks * (attention + feed_forward) * made.hidden**2
        return {
            "blocks": made.blocks,
            "hidden": made.hidden,
            "vocabulary": _LABELS,
            "parameters": blocks + made.hidden**2 + made.vocabulary * made.hidden,
            "task": "classification",
        }
    blocks = made.encoder_blocks * (attention + feed_forward) + made.blocks * (2 * attention + feed_forward)
    return {
        "blocks": made.blocks,
        "hidden": made.hidden,
        "vocabulary": made.vocabulary,
        "parameters": blocks * made.hidden**2 + made.vocabulary * made.hidden,
        "task": "seq2seq",
    }


def _read_sizes(model: Model) -> dict[str, Any]:
    # Torch is loaded here, so that a workflow that only counts does not wait for it.
    from onejump.models.loading import sizes_from_configuration, sizes_from_gguf

    if model.untrained is not None:
        return _sizes_of(model.untrained)
    source = model.hub or model.folder
    if source:
        return sizes_from_configuration(
            source,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            modules=None if model.modules is None else model.modules.model_dump(),
        )
    path = Path(model.gguf) if model.gguf else wheel_path(model)
    if not path.is_file():
        raise OneJumpError(f"{path}: not there yet; fetch it (snakemake --cores 1 {path}), or give --sizes")
    return sizes_from_gguf(path)
