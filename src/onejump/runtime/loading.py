"""Load what a generation needs: model, tokenizer, jump and gate, from what a user names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onejump.base.device import pick_device
from onejump.base.errors import GateError, OneJumpError, StudyError
from onejump.exits.gates import GATES, Gate, gate_from_dict
from onejump.exits.learned_gate import any_gate_from_dict
from onejump.models.languages import write_in_target_language
from onejump.models.loading import convert_gguf, load_model, load_tokenizer
from onejump.models.source_files import unpacked_name
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump

BASE_MODEL = "auto"
"""In place of a model: the base model that the jump names."""
NO_GATE = "none"
"""In place of a gate: nothing exits."""
DEFAULT_GATE = "95%"


@dataclass(frozen=True)
class Loaded:
    """A model and what belongs to it."""

    transformer: Transformer
    """The model."""
    tokenizer: Any
    """Its tokenizer."""
    jump: OneJump | None
    """The jump; None for plain decoding."""
    source: str
    """Folder or hub name that the model was loaded from."""

    @property
    def blocks(self) -> int:
        """L."""
        return len(self.transformer.blocks)


def load_for_use(
    model: str,
    jump: str | None = None,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    languages: Mapping[str, str] | None = None,
) -> Loaded:
    """Load a model with its tokenizer, and a jump that fits it.

    Parameters
    ----------
    model : str
        A folder, a name on the Hugging Face hub, a GGUF file, or "auto": the base model that the jump names.
        A GGUF file is unpacked once into `cache_folder()`.
    jump : str, optional
        A folder that a study exported, or a name on the hub.
    revision : str, optional
        Branch, tag or commit of the model on the hub. With "auto", the default is the commit that the jump
        names.
    dtype : {"float32", "float16", "bfloat16"}
    device : str
        "auto" takes a GPU where there is one.
    trust_remote_code : bool
        Whether Python code that comes with the model may run.
    languages : mapping of {"src_lang", "tgt_lang"} -> str, optional
        Of an encoder-decoder: languages of source and target, as its tokenizer calls them.

    Raises
    ------
    OneJumpError
        If something cannot be loaded, or the jump does not fit the model.
    """
    _check_device(device)
    kept = None if jump is None else OneJump.from_pretrained(jump)
    source = model
    if model == BASE_MODEL and not Path(model).is_dir():
        if kept is None:
            raise OneJumpError(f"model {BASE_MODEL!r} given without a jump: a jump names its base model")
        if not kept.config.is_on_hub:
            raise OneJumpError(
                f"{jump}: its model came from a folder, {kept.config.base_model!r}, not from the hub: give "
                f"that folder in place of {BASE_MODEL!r}"
            )
        source, revision = kept.config.base_model, revision or kept.config.revision
    if source.endswith(".gguf"):
        source = str(unpacked_gguf(source))
    transformer = load_model(
        source, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code
    )
    if kept is not None:
        kept.check_fits(transformer)
    tokenizer = load_tokenizer(
        source, revision=revision, trust_remote_code=trust_remote_code, languages=languages
    )
    if transformer.task == "seq2seq":
        write_in_target_language(transformer.model, tokenizer)
    return Loaded(transformer, tokenizer, kept, source)


def _check_device(device: str) -> None:
    try:
        pick_device(device)
    except (StudyError, RuntimeError):  # a GPU that is not there; a name that torch does not know
        accepted = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise OneJumpError(f"device: {device!r} given, accepted are {', '.join(accepted)}") from None


def cache_folder() -> Path:
    """Folder of what is unpacked once: `onejump` in XDG_CACHE_HOME, or in ~/.cache where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onejump"


def unpacked_gguf(gguf: str | Path) -> Path:
    """Folder that a GGUF file is unpacked to; it is unpacked if that has not been done, or the file changed.

    Raises
    ------
    ModelError
        If it is no GGUF file of a model that transformers knows.
    """
    gguf = Path(gguf).absolute()
    name = unpacked_name(gguf)
    if gguf.is_file():
        status = gguf.stat()
        state = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:8]
        name = f"{name}-{state}"
    folder = cache_folder() / name
    if not folder.is_dir():
        convert_gguf(gguf, folder)
    return folder


def gate_from_text(
    text: str,
    *,
    calibrated: Mapping[str, Gate],
    levels: Sequence[int] | None = None,
    blocks: int | None = None,
) -> Gate | None:
    """Read a gate that is given as text, on a command line or in a task's options.

    Parameters
    ----------
    text : str
        The name of a calibrated gate ("95%"), a kind with one threshold for all levels
        ("top-probability:0.9") or with one for each ("top-probability:0.9,0.7"), or "none".
    calibrated : mapping of name -> Gate
        The calibrated gates of the jump.
    levels : sequence of int, optional
        The levels to check. Of a calibrated gate, some of its own; a kind with a threshold needs them.
    blocks : int, optional
        L of the model. Levels have to lie below it.

    Raises
    ------
    GateError
        If there is no such gate, or a level or the threshold is impossible.
    """
    if text == NO_GATE:
        return None
    if text in calibrated:
        return calibrated[text] if levels is None else _narrowed(calibrated[text], text, levels)
    kind, colon, thresholds = text.partition(":")
    if not colon or kind not in GATES:
        names = ", ".join(calibrated) or "none"
        raise GateError(
            f"gate {text!r} given; accepted are the calibrated gates of the jump ({names}), KIND:THRESHOLD "
            f"with KIND of {', '.join(GATES)}, and {NO_GATE}"
        )
    if not levels:
        raise GateError(f"gate {text!r} given without levels: say which levels it checks, such as 3,8")
    numbers = [_threshold(kind, part, text) for part in thresholds.split(",")]
    if len(numbers) == 1:
        numbers *= len(levels)
    if len(numbers) != len(levels):
        raise GateError(
            f"gate {text!r} given for {len(levels)} levels, {', '.join(map(str, levels))}: one threshold for "
            "all, or one for each, is accepted"
        )
    return gate_from_dict({"kind": kind, "levels": list(levels), "thresholds": numbers}, blocks)


def _threshold(kind: str, text: str, gate: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise GateError(f"gate {gate!r} given, its threshold {text!r} is no number") from None
    return int(number) if kind == "patience" and number.is_integer() else number


def _narrowed(gate: Gate, name: str, levels: Sequence[int]) -> Gate:
    """A gate that checks only some of the levels that it checks."""
    content = gate.to_dict()
    thresholds = dict(zip(content["levels"], content["thresholds"], strict=True))
    unknown = [level for level in levels if level not in thresholds]
    if unknown:
        accepted = ", ".join(map(str, thresholds)) or "none"
        raise GateError(f"level {unknown[0]} given, the gate {name} has thresholds for {accepted}")
    kept = sorted(set(levels))
    places = [content["levels"].index(level) for level in kept]
    # All that a gate says of its levels is in lists as long as theirs.
    narrowed = {
        key: value if key == "kind" else [value[place] for place in places] for key, value in content.items()
    }
    return any_gate_from_dict(narrowed)
