"""Norms of many classes: gain, bias and epsilon are measured exactly, whatever their sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from onejump.base.errors import ModelError
from onejump.models.head import normalised
from onejump.models.norms import understand_norm

NORMS: dict[str, tuple[str, Callable[[int, float], Any], int]] = {
    "llama": ("rms", lambda width, eps: LlamaRMSNorm(width, eps), 0),
    "gemma3": ("rms", lambda width, eps: Gemma3RMSNorm(width, eps), 1),
    "torch": ("layer", lambda width, eps: nn.LayerNorm(width, eps), 0),
    "without-bias": ("layer", lambda width, eps: nn.LayerNorm(width, eps, bias=False), 0),
    "cohere": ("layer", lambda width, eps: CohereLayerNorm(width, eps), 0),
    "nemotron": ("layer", lambda width, eps: NemotronLayerNorm1P(width, eps), 1),
}


def weights(width: int, dtype: torch.dtype) -> Tensor:
    """As large as those of Gemma 3, with negative ones, zeros and small ones among them."""
    values = 300 * torch.rand(width, generator=torch.Generator().manual_seed(1)) - 60
    values[:4] = torch.tensor([300.0, 0.0, -1.0, 0.01])
    return values.to(dtype)


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-6, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NORMS)
def test_gain_bias_and_epsilon_are_exact(name: str, dtype: torch.dtype, eps: float) -> None:
    kind, make, added = NORMS[name]
    norm = make(48, eps).to(dtype)
    norm.weight.data.copy_(weights(48, dtype))
    if getattr(norm, "bias", None) is not None:
        norm.bias.data.copy_(weights(48, dtype).flip(0))
    found = understand_norm(norm, 48)
    assert (found.kind, found.eps) == (kind, eps)
    gain = weights(48, dtype).float() + added
    bias = weights(48, dtype).float().flip(0) if getattr(norm, "bias", None) is not None else torch.zeros(48)
    # A bias shares its last bits with a gain of 300.
    tolerance = 300 * 2**-23 if bias.any() else 0.0
    torch.testing.assert_close(found.gain, gain, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.bias, bias, rtol=0, atol=tolerance)
    assert norm.weight.dtype == dtype


@pytest.mark.parametrize("width", [31, 33, 576])
@pytest.mark.parametrize("name", NORMS)
def test_odd_and_large_widths(name: str, width: int) -> None:
    _, make, added = NORMS[name]
    norm = make(width, 1e-6)
    norm.weight.data.copy_(weights(width, torch.float32))
    found = understand_norm(norm, width)
    torch.testing.assert_close(found.gain, norm.weight.detach() + added, rtol=1e-6, atol=1e-4)
    states = 1000 * torch.randn(5, width, generator=torch.Generator().manual_seed(2))
    ours = normalised(states, found.kind, found.eps) * found.gain + found.bias
    torch.testing.assert_close(ours, norm(states).detach(), rtol=1e-4, atol=1e-3)


def test_a_norm_without_weights_and_with_an_epsilon_of_its_own() -> None:
    found = understand_norm(OlmoLayerNorm(32), 32)
    assert found.kind == "layer"
    assert found.eps == pytest.approx(1e-5, rel=1e-5)
    assert bool((found.gain == 1).all())
    assert not found.bias.any()


class _AddsToTheRoot(nn.Module):
    """Epsilon outside of the root: another norm for short states."""

    def forward(self, states: Tensor) -> Tensor:
        return states / (states.square().mean(-1, keepdim=True).sqrt() + 1e-3)


class _Clipped(nn.LayerNorm):
    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states).clamp(-3, 3)


class _Mixed(LlamaRMSNorm):
    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states).roll(1, -1)


@pytest.mark.parametrize(
    "norm",
    [nn.Linear(32, 32), nn.Identity(), _AddsToTheRoot(), _Clipped(32), _Mixed(32), nn.LayerNorm(16)],
    ids=lambda norm: type(norm).__name__,
)
def test_what_is_no_such_norm_is_refused(norm: nn.Module) -> None:
    with pytest.raises(
        ModelError, match=rf"norm {type(norm).__name__} was not understood: looked for an RMS"
    ):
        understand_norm(norm, 32)
