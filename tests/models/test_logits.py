"""What lies between final norm and logits is measured; what is no factor, offset or soft cap is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from test_transformer import GROUPED, tiny
from tiny_models import disturb_norms
from torch import nn

from onejump.base.errors import ModelError
from onejump.models.transformer import Transformer

CONFIGS: dict[str, tuple[Callable[[], Any], float, float | None]] = {
    "llama": (lambda: hf.LlamaConfig(**GROUPED), 1.0, None),
    "cohere": (lambda: hf.CohereConfig(**GROUPED, logit_scale=0.3, pad_token_id=0), 0.3, None),
    "granite": (lambda: hf.GraniteConfig(**GROUPED, logits_scaling=7.0), 1 / 7, None),
    "gemma2": (
        lambda: hf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=4, final_logit_softcapping=30.0),
        1.0,
        30.0,
    ),
    "recurrent-gemma": (
        lambda: hf.RecurrentGemmaConfig(
            **GROUPED, lru_width=32, logits_soft_cap=11.0, attention_window_size=4, block_types=["attention"]
        ),
        1.0,
        11.0,
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", CONFIGS)
def test_scale_and_soft_cap_are_those_of_the_configuration(family: str, dtype: torch.dtype) -> None:
    config, scale, softcap = CONFIGS[family]
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config()).eval()
    disturb_norms(model)
    head = Transformer(model.to(dtype)).head
    assert (head.config.scale, head.config.softcap) == (scale, softcap)
    assert head.logit_bias is None


class _Behind(nn.Module):
    """A model whose logits are changed at the end."""

    def __init__(self, model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        model.register_forward_hook(
            lambda _, __, output: type(output)(**{**output, "logits": change(output.logits)})
        )
        self.model = model


def changed(change: Callable[[torch.Tensor], torch.Tensor], family: str = "llama") -> Any:
    return _Behind(tiny(family), change).model


def logits_of(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, every = torch.arange(20, 30)[None], torch.arange(10)
    transformer = Transformer(model)
    ours = transformer.head.logits(transformer.states(tokens, torch.zeros_like(every), every)[-1])
    with torch.inference_mode():
        return ours, model(tokens).logits[0]


@pytest.mark.parametrize("family", ["llama", "bert", "opt"])
def test_an_offset_a_factor_and_a_cap_that_no_configuration_names(family: str) -> None:
    offset = torch.linspace(-2, 3, 97)
    ours, theirs = logits_of(changed(lambda logits: 1.5 * torch.tanh((2 * logits + offset) / 1.5), family))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_factor_between_norm_and_unembedding() -> None:
    model = tiny("llama")
    model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (0.37 * given[0],))
    ours, theirs = logits_of(model)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits.clamp(-20, 20),
        lambda logits: logits + logits.mean(-1, keepdim=True),
        lambda logits: logits.abs(),
        lambda logits: logits * torch.linspace(1, 1.01, 97),
        lambda logits: logits.log_softmax(-1),
    ],
    ids=["clamp", "mean", "abs", "factors", "softmax"],
)
def test_another_function_of_the_logits_is_refused(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(ModelError, match="between its unembedding and its logits lies something other than"):
        Transformer(changed(change))


def test_fewer_logits_than_the_unembedding_gives_are_refused() -> None:
    with pytest.raises(ModelError, match=r"gives \(1, 8, 97\) numbers, its logits are \(1, 8, 90\)"):
        Transformer(changed(lambda logits: logits[..., :90]))
