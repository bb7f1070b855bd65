"""Small files of tensors: safetensors with a checksum over the whole file, and with finite numbers only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onejump.base.checksum import DELETE, PLACEHOLDER, stamp, verify
from onejump.base.errors import DamagedFileError, FormatError, OneJumpError
from onejump.base.format import FORMAT, KIND, MODEL_DIGEST, Format, check_keys


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a number that is not finite."""
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]


def write_tensors(
    path: Path,
    form: Format,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    *,
    model_digest: str | None = None,
) -> None:
    """Write tensors to a path that nobody reads yet (`onejump.base.files.replacing`).

    Parameters
    ----------
    path : Path
    form : Format
        What the file holds: a shortcut, or a head. Its kind is the key of `about` in the file's metadata.
    tensors : mapping of str to Tensor
    about : mapping
        All else that the file holds; kept as JSON.
    model_digest : str, optional
        The identity of the model that the tensors belong to.
    """
    stated = form.statement(model_digest)
    # One key, as safetensors would write several keys in an order that differs from run to run.
    metadata = {stated.pop(KIND): json.dumps({"checksum": PLACEHOLDER, **stated, "about": about})}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    stamp(path)


class Tensors(NamedTuple):
    """What a file of tensors holds."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]
    """All else that the file holds."""
    model_digest: str | None
    """The identity of the model that they belong to; None if the file does not state it."""


def read_tensors(path: str | Path, form: Format, remedy: str = DELETE) -> Tensors:
    """Read what `write_tensors` wrote.

    Parameters
    ----------
    path : path
    form : Format
        What the file has to hold.
    remedy : str
        As in `onejump.base.checksum.verify`.

    Raises
    ------
    DamagedFileError
        If the file is damaged, or a number in it is not finite.
    FormatError
        If an older or newer onejump wrote the file, or it is of another kind.
    OneJumpError
        If the file is missing or not readable.
    """
    verify(path, remedy)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied, as a product is rounded differently if its numbers begin at another place in memory. The
            # place where they begin in the file depends on the length of the metadata.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OneJumpError(f"{path}: not a readable safetensors file ({error})") from error
    if form.kind not in metadata:
        there = ", ".join(metadata) or "nothing"
        raise FormatError(f"{path}: a {form.kind} was expected, its metadata name {there}")
    stated = json.loads(metadata[form.kind])
    form.check(path, {**stated, KIND: form.kind}, remedy)
    check_keys(path, stated, ("checksum", FORMAT, "about"), (MODEL_DIGEST,))
    if wrong := not_finite(tensors):
        raise DamagedFileError(f"{path}: {', '.join(wrong)}: not all numbers are finite: {remedy}")
    return Tensors(tensors, stated["about"], stated.get(MODEL_DIGEST))
