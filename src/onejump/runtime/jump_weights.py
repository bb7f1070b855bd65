"""The tensors of a kept jump: `model.safetensors`, which is a file of a shortcut like those of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from onejump.base.errors import DamagedFileError, FormatError, MissingFileError, OneJumpError
from onejump.base.format import check_keys
from onejump.base.tensors import read_tensors
from onejump.models.source_files import file_digest
from onejump.runtime.jump_config import REMEDY, JumpConfig
from onejump.shortcuts.files import ABOUT, SHORTCUT, kind_named
from onejump.shortcuts.kinds.one_forward import OneForward
from onejump.shortcuts.kinds.one_jump import OneJump as OneJumpKind
from onejump.shortcuts.kinds.shortlist import FIRST, SECOND, Shortlist, ShortlistAt
from onejump.shortcuts.shortcut import DistilledKind, LowRank, Shortcut

WEIGHTS = "model.safetensors"
_LARGEST_HEADER = 1_000_000  # bytes; a jump has at most thirteen tensors
_OF_ALL_LEVELS = (OneJumpKind.kind, Shortlist.kind, OneForward.kind)


def read_weights(path: Path, config: JumpConfig, digest: str) -> Shortcut:
    """Read the tensors of a jump, if they are those that its configuration describes.

    Parameters
    ----------
    path : Path
    config : JumpConfig
    digest : str
        SHA-256 that the file has to have.

    Raises
    ------
    DamagedFileError
        If the file is damaged, or belongs to another configuration.
    FormatError
        If it holds no jump, or one of other sizes than the configuration says.
    OneJumpError
        If it is missing or not readable.
    """
    _refuse_other_sizes(path, config)
    found = file_digest(path)
    tensors, about, model_digest = read_tensors(path, SHORTCUT, REMEDY)
    if found != digest:
        raise DamagedFileError(
            f"{path}: its SHA-256 is {found[:12]}..., that of the tensors which "
            f"{path.parent.name}/config.json describes is {digest[:12]}...: {REMEDY}"
        )
    check_keys(path, about, ("kind", "config"), ABOUT)
    try:
        for name, stated, expected in (
            ("kind", about["kind"], config.kind),
            ("model_digest", model_digest, config.model_digest),
        ):
            if stated != expected:
                raise OneJumpError(f"{name}: {stated!r} given, {expected!r} accepted, as config.json says")
        shortcut = kind_named(config.kind).restore(tensors, about["config"])
        shortcut.level, shortcut.model_digest = config.level, model_digest
        check_shapes(shortcut, config)
    except OneJumpError as error:
        raise FormatError(f"{path}: {error}") from error
    return shortcut


def check_shapes(shortcut: Shortcut, config: JumpConfig) -> None:
    """Refuse a shortcut that cannot serve all levels of a model of these sizes.

    Raises
    ------
    OneJumpError
        If it is of another kind, of other sizes, has impossible constants, or makes no finite prediction.
    """
    if not isinstance(shortcut, LowRank | OneJumpKind | Shortlist):
        raise OneJumpError(
            f"kind {shortcut.kind!r} given, accepted is a low-rank jump (n-njtc, njtc, distilled), one-jump, "
            "one-forward or shortlist"
        )
    if shortcut.kind != config.kind:
        raise OneJumpError(f"kind {shortcut.kind!r} given, the configuration says {config.kind!r}")
    sizes = _sizes(config)
    for name, tensor in shortcut.state_dict().items():
        _check_tensor(name, tuple(tensor.shape), sizes)
    if isinstance(shortcut, DistilledKind | Shortlist):
        _check_constants(shortcut)
    if isinstance(shortcut, Shortlist) and shortcut.candidates > config.vocabulary:
        raise OneJumpError(f"candidates: {shortcut.candidates} given, the vocabulary has {config.vocabulary}")
    probe = torch.ones(_width(config))
    with torch.inference_mode():
        for level in range(config.blocks if config.kind in _OF_ALL_LEVELS else 1):
            at = shortcut.at(level)
            predicted = [at(probe)] if not isinstance(at, ShortlistAt) else [at(probe), at.first(probe)]
            if not all(bool(torch.isfinite(states).all()) for states in predicted):
                raise OneJumpError(
                    f"its prediction from level {level} is not finite, even of a state of ones"
                )


def _check_constants(shortcut: DistilledKind | Shortlist) -> None:
    if shortcut.norm not in (None, "rms", "layer"):
        raise OneJumpError(f"norm: {shortcut.norm!r} given, accepted is rms, layer or null")
    eps = shortcut.eps
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
        raise OneJumpError(f"eps: {eps!r} given, accepted is a number from 0 on")


def _sizes(config: JumpConfig) -> Mapping[str, tuple[int, ...]]:
    """Shapes of all tensors that a jump may have."""
    hidden, levels = config.hidden, config.blocks
    if config.kind != Shortlist.kind:
        of_all_levels = config.kind in _OF_ALL_LEVELS
        of_jump = _sizes_of_jump(hidden, config.rank, levels, of_all_levels=of_all_levels)
        # The inputs of one-forward are two states.
        width = _width(config)
        return of_jump | {"down": (width, config.rank), "scale": (levels, width)}
    sizes: dict[str, tuple[int, ...]] = {"weights": (levels, 2)}
    for part, rank in ((FIRST, config.rank), (SECOND, config.correction)):
        if rank is not None:
            of_jump = _sizes_of_jump(hidden, rank, levels, of_all_levels=True)
            sizes |= {part + name: shape for name, shape in of_jump.items()}
    return sizes


def _width(config: JumpConfig) -> int:
    """How many numbers a jump reads."""
    return (2 if config.kind == OneForward.kind else 1) * config.hidden


def _sizes_of_jump(hidden: int, rank: int, levels: int, *, of_all_levels: bool) -> dict[str, tuple[int, ...]]:
    each_level = (levels,) if of_all_levels else ()
    return {
        "down": (hidden, rank),
        "up": (rank, hidden),
        **dict.fromkeys(("bias", "gamma", "beta", "mean", "variance"), (hidden,)),
        "offset": (*each_level, rank),
        "scale": (levels, hidden),
        "mix": (levels, rank, rank),
    }


def _check_tensor(name: str, shape: tuple[int, ...], sizes: Mapping[str, tuple[int, ...]]) -> None:
    if name not in sizes:
        raise OneJumpError(f"tensor {name!r} given, accepted are {', '.join(sizes)}")
    if shape != sizes[name]:
        raise OneJumpError(
            f"{name}: shape {shape} given, {sizes[name]} expected for the sizes that config.json says"
        )


def _refuse_other_sizes(path: Path, config: JumpConfig) -> None:
    """Refuse a file by its header alone, before any tensor is read."""
    if not path.exists():
        raise MissingFileError(path)
    sizes = _sizes(config)
    most = _LARGEST_HEADER + 4 * sum(map(math.prod, sizes.values()))
    size = path.stat().st_size
    if size > most:
        raise FormatError(
            f"{path}: {size / 1e6:.1f} MB given, a jump of the sizes that config.json says has at most "
            f"{most / 1e6:.1f} MB"
        )
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                _check_tensor(name, tuple(part.get_shape()), sizes)
                if part.get_dtype() != "F32":
                    raise OneJumpError(f"{name}: {part.get_dtype()} given, tensors of float32 are accepted")
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{path}: not a readable safetensors file ({reason}): {REMEDY}") from error
    except OneJumpError as error:
        raise FormatError(f"{path}: {error}") from error
