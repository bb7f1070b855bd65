"""Finds out what a norm, or the transform before it, does, by running it. Names of classes do not count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.head import ACTIVATIONS, NormKind, normalised

# Largest difference of onejump's logits from the model's, in units of the logits' spread. In half precision,
# each step of the model rounds. A missing or wrong norm gives a far larger difference than any of these.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}

# Largest difference between a norm and what was measured of it, in units of its gain. float32 rounds by 1e-5.
_EXPLAINED = 1e-3


_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps")


def distance(logits: Tensor, reference: Tensor) -> float:
    """Measure the largest difference of logits, in units of the spread of the reference."""
    return float((logits - reference).abs().max() / reference.std().clamp_min(1e-12))


class Norm(NamedTuple):
    """What a final norm does: gain * normalised(states, kind, eps) + bias."""

    kind: NormKind | None
    eps: float
    gain: Tensor
    """(width,), float32."""
    bias: Tensor
    """(width,), float32."""


def no_norm(width: int, device: torch.device | str = "cpu") -> Norm:
    """Give what stands for the final norm in a model without one: it changes nothing."""
    return Norm(None, 0.0, torch.ones(width, device=device), torch.zeros(width, device=device))


# Not in inference mode: the head keeps these tensors, and gradients may have to pass through it.
@torch.no_grad()
def understand_norm(norm: nn.Module, width: int, device: torch.device | str = "cpu") -> Norm:
    """Measure what a norm does, by running a float32 copy of it.

    If all coordinates of a state are a or -a, with a power of two as a, they are normalised to 1 and -1
    without rounding. So one such state and its negative give gain and bias exactly. A short state is
    normalised to less than 1; how much less gives epsilon. What was measured has to explain other states as
    well: long, short and shifted ones, and ones with a few coordinates a thousand times larger than the
    rest.

    Parameters
    ----------
    norm : torch.nn.Module
    width : int
        The number of coordinates of the states that it normalises.
    device : torch.device
        Where to measure a norm that has no weights.

    Raises
    ------
    ModelError
        If it is not an RMSNorm or LayerNorm of that width.
    """
    measured = _in_float32(norm)
    held = next(measured.parameters(), next(measured.buffers(), None))
    device = device if held is None else held.device
    closest = math.inf
    kinds: tuple[NormKind, ...] = ("rms", "layer")
    for kind in kinds:
        try:
            found = _measure(measured, kind, width, torch.device(device))
            off = max(_off(measured, found, probe) for probe in _probes(width, torch.device(device)))
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue  # the norm does not take states of this width
        if off <= _EXPLAINED:
            return found
        closest = min(closest, off)
    raise ModelError(
        f"the final norm {type(norm).__name__} was not understood: looked for an RMSNorm or LayerNorm of "
        f"width {width}" + (f" (off by {closest:.3g} of its gain)" if math.isfinite(closest) else "")
    )


def _in_float32(norm: nn.Module) -> nn.Module:
    copied = deepcopy(norm)
    for module in copied.modules():
        # accelerate replaces the forward of a module that it moves. The copy's would still run the original
        # module.
        for name in ("forward", "_old_forward", "_hf_hook"):
            module.__dict__.pop(name, None)
    return copied.float()


def _measure(norm: nn.Module, kind: NormKind, width: int, device: torch.device) -> Norm:
    signs = 1.0 - 2.0 * (torch.arange(width, device=device) % 2)

    def run(length: float) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised states in float64, and what the norm makes of the states and of their negative."""
        states = length * signs
        made = norm(torch.stack([states, -states])).double()
        return normalised(states.double(), kind, 0.0), made[0], made[1]

    unit, plus, minus = run(2.0**7)
    gain, bias = (plus - minus) / (2 * unit), (plus + minus) / 2
    strongest = gain.abs().argmax()
    eps = 0.0
    for halvings in range(60):
        length = 2.0**-halvings
        unit, plus, minus = run(length)
        kept = float(((plus - minus) / (2 * unit * gain))[strongest])
        if kept < 0.9:
            # kept = sqrt(square / (square + eps)). The mean of squares is length^2, except for a LayerNorm
            # with an odd number of coordinates, as their mean is not zero.
            square = float((length * signs).double().var(correction=0)) if kind == "layer" else length**2
            eps = square * (1 / kept**2 - 1) if kept > 0 else math.nan
            break
    said = (getattr(norm, name, None) for name in _EPS_NAMES)
    eps = next((s for s in said if isinstance(s, float) and math.isclose(s, eps, rel_tol=1e-3)), eps)
    return Norm(kind, eps, gain.float(), bias.float())


def _probes(width: int, device: torch.device) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(8, width, generator=generator)
    massive = torch.where(torch.rand(8, width, generator=generator) < 2 / width, 1000 * plain, plain)
    for states in (plain, 1e-3 * plain, 100 * plain, plain + 1, massive):
        yield states.to(device)


def _off(norm: nn.Module, found: Norm, states: Tensor) -> float:
    """Largest difference between a norm and what was measured of it, in units of its gain."""
    gain, bias = found.gain.double(), found.bias.double()
    assert found.kind is not None
    ours = normalised(states.double(), found.kind, found.eps) * gain + bias
    scale = (gain.abs() + bias.abs()).clamp_min(1e-3 * float(gain.abs().max()) + 1e-30)
    off = float(((norm(states).double() - ours).abs() / scale).max())
    return off if math.isfinite(off) else math.inf


@torch.no_grad()
def understand_activation(
    dense: nn.Module, norm: nn.Module, run: Callable[[], Any], dtype: torch.dtype
) -> str:
    """Find the activation between a transform's dense map and its norm, from a run of the model.

    Returns
    -------
    str
        One of `onejump.models.head.ACTIVATIONS`.

    Raises
    ------
    ModelError
        If it is not one of these.
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
    if seen["given"].shape != seen["made"].shape:
        raise ModelError(
            "the head was not understood: more than an activation lies behind its transform's Linear"
        )
    # In the model's own dtype, so that similar activations can be told apart in half precision.
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
