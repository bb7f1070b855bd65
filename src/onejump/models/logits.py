"""Measures what a model does between its unembedding and its logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError

# These numbers are put in place of the unembedding's output. Each token gets each of them, at different
# positions.
_PUT = (0.0, 0.125, 1.0, -1.0, 8.0, -64.0, 1024.0, 2.0**20)
# The largest relative error of a logit that rounding can explain.
_ROUNDING = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Logits(NamedTuple):
    """logits = cap(scale (W_U norm(h)) + offset), where cap(x) = softcap tanh(x / softcap)."""

    before: float
    """Factor between the final norm and the unembedding."""
    after: float
    """Factor on the unembedding's output. `scale` is the product of `before` and `after`."""
    softcap: float | None
    offset: Tensor | None
    """(V,), float32, added after the unembedding and its own bias; None if it is zero."""


@torch.inference_mode()
def understand_logits(
    norm: nn.Module | None, unembedding: nn.Module, run: Callable[[], Any], config: Any
) -> Logits:
    """Measure what lies between final norm and unembedding, and between unembedding and logits.

    In a run of the model, numbers from 0 to a million take the place of the unembedding's output. So a
    soft cap shows even if the model's own logits are too small to reach it.

    Parameters
    ----------
    norm : torch.nn.Module or None
        None for a model without a final norm: then nothing lies before the unembedding.
    unembedding : torch.nn.Module
    run : callable
        Runs the model over some tokens and gives back its output.
    config : transformers.PreTrainedConfig
        If a number that is measured differs from one in the configuration only by rounding, the latter is
        used.

    Raises
    ------
    ModelError
        If it is something else than factors, an offset and a soft cap.
    """
    seen: dict[str, Tensor] = {}
    numbers = _numbers(config)

    def replace(_: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
        seen.update(entered=given[0], left=output)
        positions, tokens = (torch.arange(size, device=output.device) for size in output.shape[-2:])
        put = torch.tensor(_PUT, device=output.device)[(positions[:, None] + tokens) % len(_PUT)]
        return put.expand(output.shape).clone()

    handles = [unembedding.register_forward_hook(replace)]
    if norm is not None:
        handles.append(norm.register_forward_hook(lambda _, __, output: seen.update(normalised=output)))
    try:
        logits = run().logits
    finally:
        for handle in handles:
            handle.remove()
    if norm is None and "entered" in seen:
        seen["normalised"] = seen["entered"]
    if not {"normalised", "left"} <= set(seen):
        raise ModelError("the head was not understood: its final norm or its unembedding is never run")
    if logits.shape != seen["left"].shape or logits.shape[-2] < len(_PUT):
        raise ModelError(
            f"the head was not understood: its unembedding gives {tuple(seen['left'].shape)} numbers, "
            f"its logits are {tuple(logits.shape)}"
        )
    before = _factor(seen["normalised"], seen["entered"], numbers)
    # Row i: the logits that the i-th of the numbers gives, for each token.
    where = torch.arange(len(_PUT))[:, None] - torch.arange(logits.shape[-1])
    made = logits.reshape(-1, logits.shape[-1]).gather(0, (where % len(_PUT)).to(logits.device)).double()
    rounding = _ROUNDING[logits.dtype]
    largest = made[-1].median()
    uncapped = _PUT[-1] * (made[2] - made[0]).median()
    softcap = None if largest.abs() > 0.5 * uncapped.abs() else float(largest.abs())
    # The logits without the cap. Those that are too close to the cap are clamped.
    plain = made if softcap is None else softcap * torch.atanh((made / softcap).clamp(-0.999, 0.999))
    after = _nearest(float((plain[2] - plain[0]).median()), numbers, max(rounding, 1e-5))
    softcap = None if softcap is None else _nearest(softcap, numbers, max(rounding, 1e-5))
    expected = after * torch.tensor(_PUT, dtype=torch.float64, device=made.device)[:, None] + plain[0]
    if softcap is not None:
        expected = softcap * torch.tanh(expected / softcap)
    off = float(((made - expected).abs() / (expected.abs() + abs(after))).max())
    if not (off <= rounding and after != 0.0):
        raise ModelError(
            "the head was not understood: between its unembedding and its logits lies something other than a "
            f"factor, an offset and a soft cap (off by {off:.3g})"
        )
    offset = plain[0].float()
    return Logits(before, after, softcap, offset if bool(offset.any()) else None)


def _factor(given: Tensor, made: Tensor, numbers: list[float]) -> float:
    """The factor between two tensors; 1 if there is none. The check of the head finds a wrong one."""
    if given.shape != made.shape:
        return 1.0
    dtype = made.dtype
    given, made = given.double(), made.double()
    factor = float((given * made).sum() / given.square().sum())
    if not math.isfinite(factor):
        return 1.0
    # A mean over many numbers: it is more exact than each of them, which is rounded to the model's dtype.
    return _nearest(factor, [*numbers, given.shape[-1] ** -0.5], 1e-5 if dtype == torch.float32 else 1e-3)


def _numbers(config: Any) -> list[float]:
    """The number 1, the numbers in a configuration, and their inverses."""
    values = (v for v in config.to_dict().values() if isinstance(v, int | float) and not isinstance(v, bool))
    return [1.0, *(number for v in values if v and math.isfinite(v) for number in (float(v), 1.0 / v))]


def _nearest(measured: float, numbers: list[float], tolerance: float) -> float:
    near = [number for number in numbers if math.isclose(number, measured, rel_tol=tolerance)]
    return min(near, key=lambda number: abs(number - measured), default=measured)
