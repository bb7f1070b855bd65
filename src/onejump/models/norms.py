"""What a norm, and what the transform before it, does: found by running it, whatever its class is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.head import ACTIVATIONS, NormKind, normalised

# Largest difference of our logits from the model's, in units of the logits' own spread. Half precision
# rounds each of the model's own steps; a missing or wrong norm is off by far more than either.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}

# Largest difference of a norm from what was measured of it, in units of its gain: float32 rounds by 1e-5.
_EXPLAINED = 1e-3


_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps")


class Norm(NamedTuple):
    """What a final norm does: gain * normalised(states, kind, eps) + bias."""

    kind: NormKind
    eps: float
    gain: Tensor
    """(width,), float32."""
    bias: Tensor
    """(width,), float32."""


# Not in inference mode: what comes of it stays in the head, which may be trained through.
@torch.no_grad()
def understand_norm(norm: nn.Module, width: int, device: torch.device | str = "cpu") -> Norm:
    """Measure what a norm does by running a float32 copy of it, whatever its class and weights are called.

    A state whose coordinates are all a or -a, a power of two, is normalised to 1 and -1 without rounding: one
    such state and its negative give gain and bias exactly. How much a short one loses gives epsilon. What was
    found has to explain other states: long, short and shifted ones, and ones with coordinates a thousand
    times larger than the rest.

    Parameters
    ----------
    norm : torch.nn.Module
    width : int
        Coordinates of the states that it normalises.
    device : torch.device
        Where its weights are, or the head is to be, if it has none.

    Raises
    ------
    ModelError
        If it is no RMSNorm or LayerNorm of that width.
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
            continue  # it takes no states of this width
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
        # accelerate replaces the forward of a module that it moves; a copy would still run the original.
        for name in ("forward", "_old_forward", "_hf_hook"):
            module.__dict__.pop(name, None)
    return copied.float()


def _measure(norm: nn.Module, kind: NormKind, width: int, device: torch.device) -> Norm:
    signs = 1.0 - 2.0 * (torch.arange(width, device=device) % 2)

    def run(length: float) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised states in float64, and what the norm makes of them and of their negative."""
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
            # kept = length / sqrt(length^2 + eps), the mean of squares of a probe being length^2 but for
            # the centre of an odd number of coordinates.
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
    """Largest difference between a norm and what was found of it, in units of its gain."""
    gain, bias = found.gain.double(), found.bias.double()
    ours = normalised(states.double(), found.kind, found.eps) * gain + bias
    scale = (gain.abs() + bias.abs()).clamp_min(1e-3 * float(gain.abs().max()) + 1e-30)
    off = float(((norm(states).double() - ours).abs() / scale).max())
    return off if math.isfinite(off) else math.inf


@torch.no_grad()
def understand_activation(
    dense: nn.Module, norm: nn.Module, run: Callable[[], Any], dtype: torch.dtype
) -> str:
    """What lies between a transform's dense map and its norm, found by what it does in a run of the model.

    Returns
    -------
    str
        One of `onejump.models.head.ACTIVATIONS`.

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
