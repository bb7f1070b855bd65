"""Refuses a checkpoint that lacks weights of its model, or holds weights that the model does not use."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from onejump.base.errors import ModelError

_LOG = logging.getLogger(__name__)
# Masks and positions that old checkpoints hold in their blocks. Today's classes compute them.
_REMADE = re.compile(r"(attn|attention)\.(masked_)?bias$|rotary_emb\.|position_ids$")


def refuse_incomplete(source: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse weights that do not fit the model's class. Missing weights would be random numbers.

    Parameters
    ----------
    source : str
    model : transformers.PreTrainedModel
    report : dict
        The missing, mismatched and unexpected weights, as `from_pretrained` reports them.

    Raises
    ------
    ModelError
        If a weight is missing, has another shape, or belongs to a part of the model that does not use it.
    """
    name = type(model).__name__
    if missing := report["missing_keys"]:
        raise ModelError(
            f"{source}: weights of {name} are missing: {_shortened(missing)}: random numbers would stand in "
            "for them; a complete checkpoint of a language model with its head is accepted"
        )
    if mismatched := report["mismatched_keys"]:
        shapes = [f"{key} {tuple(given)} (expected: {tuple(taken)})" for key, given, taken in mismatched]
        raise ModelError(
            f"{source}: weights have other shapes than the configuration of {name} says: {_shortened(shapes)}"
        )
    unused = {key for key in report["unexpected_keys"] if not _REMADE.search(key)}
    if wrong := {key for key in unused if _belongs(model, key)}:
        raise ModelError(
            f"{source}: {name} as configured does not use weights of its own parts: {_shortened(wrong)}: "
            "its configuration is not that of these weights"
        )
    if unused:
        _LOG.warning("%s: %s does not use the weights %s", source, name, _shortened(unused))


def _belongs(model: nn.Module, weight: str) -> bool:
    """Whether an unused weight belongs to a block, or to a module that has other weights."""
    owner, _, _ = weight.rpartition(".")
    modules = dict(model.named_modules())
    if owner in modules and next(modules[owner].parameters(recurse=False), None) is not None:
        return True
    lists = [name for name, module in modules.items() if isinstance(module, nn.ModuleList)]
    return any(re.match(rf"{re.escape(name)}\.\d+\.", weight) for name in lists)


def _shortened(names: Collection[str], most: int = 4) -> str:
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def refuse_unread_gguf(path: str | Path, model: Any) -> None:
    """Refuse a GGUF file if transformers left out something of it that the model's predictions depend on.

    transformers ignores tensors and RoPE settings that it does not know, without a warning.

    Parameters
    ----------
    path : path
    model : transformers.PreTrainedModel
        The model that transformers made from the file.

    Raises
    ------
    ModelError
        If the model lacks a tensor of the file, one half of merged experts, or the RoPE scaling of the file.
    """
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    reader = GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    taken = set(get_gguf_hf_weights_map(model, processor))
    held = {tensor.name for tensor in reader.tensors}
    # transformers reads merged experts, and the unembedding of GPT-2, in other ways.
    unread = {name for name in held - taken if "_exps" not in name and name != "output.weight"}
    if unread:
        raise ModelError(
            f"{path}: {type(model).__name__}, as transformers reads this GGUF file, does not use its tensors "
            f"{_shortened(unread)}: load the model from its folder on the hub instead"
        )
    experts = {name for name in taken if "_exps" in name}
    if missing := {name for name in experts if not held & {name, f"{name}.weight"}}:
        raise ModelError(f"{path}: weights of {type(model).__name__} are missing: {_shortened(missing)}")
    scaling = reader.fields.get(f"{architecture}.rope.scaling.type")
    asked = "none" if scaling is None else scaling.contents()
    rope = getattr(model.config, "rope_parameters", None) or {}
    if asked not in ("none", rope.get("rope_type")):
        raise ModelError(
            f"{path}: {architecture}.rope.scaling.type is {asked}, which transformers does not read from "
            "GGUF files: load the model from its folder on the hub instead"
        )
