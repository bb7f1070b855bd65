"""FLOPs that are counted from shapes, against those that torch counts in a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import families
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, MixtralConfig, MixtralForCausalLM

from onejump.models.flops import block_flops, head_flops
from onejump.models.transformer import Transformer

# Of another shape each: fused and grouped projections, no gate, heads wider than H / heads, windows.
MODELS = (
    *("GPT2LMHeadModel", "LlamaForCausalLM", "Phi3ForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"),
    *("Gemma2ForCausalLM", "Gemma3ForCausalLM", "OPTForCausalLM", "GPTNeoXForCausalLM", "PegasusForCausalLM"),
)


def counted(model: Any, tokens: torch.Tensor, cached: int) -> int:
    """FLOPs of torch's own counter for the tokens behind the first `cached` ones."""
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        if cached:
            model(tokens[:, :cached], past_key_values=cache, use_cache=True)
        with FlopCounterMode(display=False) as counter:
            model(tokens[:, cached:], past_key_values=cache, use_cache=True)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", MODELS)
def test_blocks_and_head_cost_what_torch_counts_when_a_token_is_decoded(name: str) -> None:
    family = next(f for f in families() if f.model == name and f.kind == "causal")
    model = family.build()
    model.set_attn_implementation("eager")  # the counter does not see into the CPU's fused attention
    transformer = Transformer(model)
    tokens = torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    of_blocks = sum(block.of(3, attended=12) for block in block_flops(transformer))
    assert of_blocks + 3 * head_flops(transformer.head) == counted(model, tokens, cached=11)


def test_a_window_ends_what_a_token_attends_to() -> None:
    family = next(f for f in families() if f.model == "MistralForCausalLM")
    configuration = family.build().config
    configuration.sliding_window = 5
    configuration._attn_implementation = "eager"
    model = type(family.build())(configuration).eval()
    transformer = Transformer(model)
    assert {block.window for block in block_flops(transformer)} == {5}
    tokens = torch.randint(3, 90, (1, 12), generator=torch.Generator().manual_seed(0))
    of_blocks = sum(block.of(1, attended=12) for block in block_flops(transformer))
    assert of_blocks + head_flops(transformer.head) == counted(model, tokens, cached=11)


def test_only_the_experts_count_that_a_token_goes_through() -> None:
    configuration = MixtralConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
        num_local_experts=4,
        num_experts_per_tok=3,
    )
    first = block_flops(Transformer(MixtralForCausalLM(configuration)))[0]
    attention = 2 * 8 * 8 + 2 * 8 * 4
    router, experts = 8 * 4, 3 * (3 * 8 * 12)
    assert first.token == 2 * (attention + router + experts)
    assert first.attended == 2 * 2 * (4 + 4)
