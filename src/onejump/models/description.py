"""What the model stage found out about a model: `model.json`. Importing this module is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from onejump.base.errors import MissingFileError, OutdatedFileError
from onejump.base.files import read_json, write_json
from onejump.base.format import MODEL, from_keys
from onejump.models.tasks import Task


@dataclass(frozen=True)
class ModelDescription:
    """A model that was loaded and checked: where it comes from, and its sizes."""

    source: str
    """Name on the hub, or the folder that it was loaded from."""
    revision: str | None
    """Commit on the hub."""
    model_digest: str
    """The model's identity: its commit, or a digest of its files (`onejump.models.source_files`)."""
    architecture: str
    """The name of its class in transformers."""
    task: Task
    """What the model is trained to do."""
    blocks: int
    """L."""
    hidden: int
    """H."""
    vocabulary: int
    """V."""
    parameters: int
    block_flops: list[int]
    """FLOPs of each block for one token: products with its matrices (`onejump.models.flops`)."""
    dtype: str
    """The dtype in which the model runs."""
    trust_remote_code: bool
    modules: Mapping[str, str | None] | None
    """Where its blocks, norm and head are, if the study names them (`onejump.models.named`)."""
    allow_pickle: bool
    pairs: Mapping[str, str | None] | None
    """How an encoder-decoder takes a pair of texts, if the study says so: prefix, source_language,
    target_language."""

    @property
    def causal(self) -> bool:
        """Whether a token's state depends only on that token and the ones before it."""
        return self.task == "causal"


def write_description(path: str | Path, description: ModelDescription) -> None:
    """Write `model.json`."""
    write_json(path, asdict(description), MODEL)


def read_description(path: str | Path) -> ModelDescription:
    """Read `model.json`.

    Raises
    ------
    DamagedFileError
        If it is damaged.
    FormatError
        If an older or newer onejump wrote it, or one of its keys is missing or unknown.
    OneJumpError
        If it is missing or not readable.
    """
    return from_keys(ModelDescription, path, read_json(path, MODEL))


def known_description(path: str | Path) -> ModelDescription | None:
    """Read `model.json`. Give None if it is missing or outdated, as Snakemake will then write it.

    Raises
    ------
    OneJumpError
        As in `read_description`, except for a missing or an outdated file.
    """
    try:
        return read_description(path)
    except (MissingFileError, OutdatedFileError):
        return None
