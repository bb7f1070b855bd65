"""Rotary positions whose frequencies depend on the length of the sequence (longrope, dynamic scaling).

Up to the original context, such a model is like any other. Beyond it, the longest sequence of a batch
decides the frequencies of all its sequences, so that a sequence's states depend on the others in the batch.
With dynamic scaling, later and shorter batches keep the frequencies of the longest sequence so far.

So a longer sequence runs alone, with the frequencies of a fresh model. Its states still depend on its own
length: extraction runs a sentence up to its last sampled position, and no further.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_BY_LENGTH = ("longrope", "dynamic", "su")


def original_context(config: Any) -> int | None:
    """Find up to how many tokens no state depends on the length of the batch; None if none ever does.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The configuration of the text model.
    """
    limits = []
    for kind, parameters in _by_kind(config):
        if not any(name in kind for name in _BY_LENGTH):
            continue
        names = ["max_position_embeddings"]
        if "dynamic" not in kind:
            names.insert(0, "original_max_position_embeddings")
        held = (parameters.get(name) or getattr(config, name, None) for name in names)
        limits.append(next((int(limit) for limit in held if limit), 0))
    return min(limits, default=None)


def grows(config: Any) -> bool:
    """Whether frequencies change with every token beyond the original context, and not only once.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        Of the text model.
    """
    return any("dynamic" in kind for kind, _ in _by_kind(config))


def _by_kind(config: Any) -> list[tuple[str, dict[str, Any]]]:
    """The parameters of rotary positions: one set, or one for each kind of attention."""
    said = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    every = [said, *(value for value in said.values() if isinstance(value, dict))]
    return [(str(parameters.get("rope_type") or parameters.get("type")), parameters) for parameters in every]


def forget_lengths(body: nn.Module) -> None:
    """Reset a model's rotary frequencies to those of a fresh model."""
    for module in body.modules():
        names = [*vars(module), *(name for name, _ in module.named_buffers(recurse=False))]
        for name in names:
            if name.endswith("original_inv_freq"):
                kept: Tensor = getattr(module, name)
                current = name.replace("original_inv_freq", "inv_freq")
                # The model itself writes over these, also where there is no inference mode.
                with torch.inference_mode(mode=False):
                    setattr(module, current, kept.to(getattr(module, current).device, copy=True))
            elif name.endswith("max_seq_len_cached") and hasattr(module, "original_max_seq_len"):
                setattr(module, name, module.original_max_seq_len)
