"""Rotary positions whose frequencies depend on the length of what is run (longrope, dynamic scaling).

Up to the original context these models are like any other. Beyond it, all positions of a batch get
frequencies by its longest sequence, so that a sequence's states change with its neighbours; and dynamic
scaling keeps the frequencies of the longest sequence so far for later, shorter ones.

Such a sequence is run alone, from the frequencies of a fresh model. Its states still depend on its own
length: extraction runs a sentence up to its last sampled position, and no further.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_BY_LENGTH = ("longrope", "dynamic", "su")


def original_context(config: Any) -> int | None:
    """Tokens up to which no state depends on the length of the batch; None for any number.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        Of the text model.
    """
    said = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # One set of parameters, or one for each kind of attention.
    every = [said, *(value for value in said.values() if isinstance(value, dict))]
    limits = []
    for parameters in every:
        kind = str(parameters.get("rope_type") or parameters.get("type"))
        if not any(name in kind for name in _BY_LENGTH):
            continue
        names = ["max_position_embeddings"]
        if "dynamic" not in kind:
            names.insert(0, "original_max_position_embeddings")
        held = (parameters.get(name) or getattr(config, name, None) for name in names)
        limits.append(next((int(limit) for limit in held if limit), 0))
    return min(limits, default=None)


def forget_lengths(body: nn.Module) -> None:
    """Take a model's rotary frequencies back to what they are before it runs anything."""
    for module in body.modules():
        names = [*vars(module), *(name for name, _ in module.named_buffers(recurse=False))]
        for name in names:
            if name.endswith("original_inv_freq"):
                kept: Tensor = getattr(module, name)
                current = name.replace("original_inv_freq", "inv_freq")
                setattr(module, current, kept.to(getattr(module, current).device, copy=True))
            elif name.endswith("max_seq_len_cached") and hasattr(module, "original_max_seq_len"):
                setattr(module, name, module.original_max_seq_len)
