"""Small files of tensors: safetensors with a checksum over the whole file, whose numbers are finite."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onejump.base.checksum import DELETE, PLACEHOLDER, stamp, verify
from onejump.base.errors import DamagedFileError, OneJumpError


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a number that is not finite."""
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors to a path that nobody reads yet (`onejump.base.files.replacing`).

    Parameters
    ----------
    path : Path
    kind : str
        What the file holds: "shortcut" or "head". It is the key of `about` in the file's metadata.
    tensors : mapping of str to Tensor
    about : mapping
        What the tensors do not say; kept as JSON.
    """
    # One key: the order of several is not the same in every run.
    metadata = {kind: json.dumps({"checksum": PLACEHOLDER, **about})}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    stamp(path)


def read_tensors(
    path: str | Path, kind: str, remedy: str = DELETE
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Parameters
    ----------
    path : path
    kind : str
        What the file has to hold.
    remedy : str
        As of `onejump.base.checksum.verify`.

    Returns
    -------
    tensors : dict of str to Tensor
    about : dict

    Raises
    ------
    DamagedFileError
        If the file is damaged, an older onejump wrote it, or a number in it is not finite.
    OneJumpError
        If the file is missing, not readable, or of another kind.
    """
    verify(path, remedy)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OneJumpError(f"{path}: not a readable safetensors file ({error})") from error
    if kind not in metadata:
        there = ", ".join(metadata) or "nothing"
        raise OneJumpError(f"{path}: a {kind} was expected, its metadata name {there}")
    if wrong := not_finite(tensors):
        raise DamagedFileError(f"{path}: {', '.join(wrong)}: not all numbers are finite: {remedy}")
    about = json.loads(metadata[kind])
    del about["checksum"]
    return tensors, about
