"""What a norm, and what the transform before it, does: found by running it, whatever its class is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onejump.errors import ModelError
from onejump.head import ACTIVATIONS, Head, HeadConfig, NormKind

# Largest difference of our logits from the model's, in units of the logits' own spread. Half precision
# rounds each of the model's own steps; a missing or wrong norm is off by far more than either.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@torch.inference_mode()
def understand_norm(norm: nn.Module, hidden: int) -> tuple[NormKind, float, Tensor, Tensor]:
    """Kind, epsilon, gain and bias of a norm, found by what it does, whatever its class is called."""
    eps = next(
        (float(getattr(norm, name)) for name in ("eps", "variance_epsilon") if hasattr(norm, name)), None
    )
    weight = getattr(norm, "weight", None)
    bias = getattr(norm, "bias", None)
    if eps is not None and (weight is None or weight.shape == (hidden,)):
        like = weight if weight is not None else torch.empty(hidden)
        probe = torch.linspace(-2, 3, 2 * hidden, device=like.device).view(2, hidden).sin() * 5 + 1
        expected = norm(probe.to(like.dtype)).float()
        stored = like.float() if weight is not None else torch.ones(hidden, device=like.device)
        shift = bias.float() if isinstance(bias, Tensor) else torch.zeros_like(stored)
        kinds: tuple[NormKind, ...] = ("rms", "layer")
        for kind in kinds:
            for gain in (stored, 1 + stored):  # Gemma keeps the gain's distance from one
                ours = Head(HeadConfig(kind, eps), gain, shift, gain[None]).normalise(
                    probe.to(like.dtype).float()
                )
                if torch.allclose(ours, expected, rtol=2e-2, atol=2e-2 * float(expected.abs().max())):
                    return kind, eps, gain, shift
    raise ModelError(
        f"the final norm {type(norm).__name__} was not understood: looked for an RMSNorm or LayerNorm of "
        f"width {hidden} with eps or variance_epsilon"
    )


@torch.inference_mode()
def understand_activation(
    dense: nn.Module, norm: nn.Module, run: Callable[[], Any], dtype: torch.dtype
) -> str:
    """What lies between a transform's dense map and its norm, found by what it does in a run of the model.

    Returns
    -------
    str
        One of `onejump.head.ACTIVATIONS`.

    Raises
    ------
    ModelError
        If it is none of these.
    """
    seen: dict[str, Tensor] = {}
    handles = [
        dense.register_forward_hook(lambda _, __, output: seen.update(given=output)),
        norm.register_forward_pre_hook(lambda _, inputs: seen.update(made=inputs[0])),
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) < 2:
        raise ModelError("the head's transform was not understood: its Linear or its norm is never run")
    # In the model's own dtype, so that two that are close to one another stay apart in half precision.
    given, made = seen["given"], seen["made"].float()
    off = {
        name: float((activation(given).float() - made).norm() / made.norm())
        for name, activation in ACTIVATIONS.items()
    }
    closest = min(off, key=lambda name: off[name])
    if not off[closest] <= TOLERANCE[dtype]:
        raise ModelError(
            "the activation of the head's transform was not understood: accepted are "
            f"{', '.join(ACTIVATIONS)} (closest: {closest}, off by {off[closest]:.3g})"
        )
    return closest
