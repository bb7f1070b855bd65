"""States inside of blocks against hooks on each family's own modules, one sentence at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from families import disturb
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.sub_layers import SubLayers
from onejump.models.transformer import Transformer

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
OPT: dict[str, Any] = SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
FALCON: dict[str, Any] = SIZES | {"new_decoder_architecture": False, "parallel_attn": True}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=97)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GROUPED, head_dim=8)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**GROUPED, residual_multiplier=0.3)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)),
    "distilbert": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(n_layers=3, dim=32, n_heads=4, hidden_dim=48, vocab_size=97)
    ),
    "albert": lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**SIZES, embedding_size=32)),
    "bloom": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(n_layer=3, hidden_size=32, n_head=4, vocab_size=97, pad_token_id=0)
    ),
    "gpt-neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**GROUPED)),
    "falcon": lambda: hf.FalconForCausalLM(hf.FalconConfig(**FALCON)),
    "qwen2-moe": lambda: hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(
            **GROUPED,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            num_experts=4,
            num_experts_per_tok=2,
        )
    ),
}
# What a module gives or takes, by family: the state it is, and whether the module's input or output it is.
WHERE: dict[str, dict[str, tuple[str, str]]] = {
    "llama": {
        "attention": ("self_attn", "out"),
        "middle": ("post_attention_layernorm", "in"),
        "feed-forward": ("mlp", "out"),
    },
    "gpt2": {"attention": ("attn", "out"), "middle": ("ln_2", "in"), "feed-forward": ("mlp", "out")},
    "gemma2": {
        "attention": ("post_attention_layernorm", "out"),
        "middle": ("pre_feedforward_layernorm", "in"),
        "feed-forward": ("post_feedforward_layernorm", "out"),
    },
    "opt": {
        "attention": ("self_attn", "out"),
        "middle": ("final_layer_norm", "in"),
        "feed-forward": ("fc2", "out"),
    },
    "bert": {
        "attention": ("attention.output.dense", "out"),
        "middle": ("attention.output.LayerNorm", "out"),
        "feed-forward": ("output.dense", "out"),
    },
    "distilbert": {
        "attention": ("attention.out_lin", "out"),
        "middle": ("sa_layer_norm", "out"),
        "feed-forward": ("ffn.lin2", "out"),
    },
    "albert": {
        "attention": ("albert_layers.0.attention.dense", "out"),
        "middle": ("albert_layers.0.attention.LayerNorm", "out"),
        "feed-forward": ("albert_layers.0.ffn_output", "out"),
    },
    "bloom": {
        "attention": ("self_attention.dense", "out"),
        "middle": ("post_attention_layernorm", "in"),
        "feed-forward": ("mlp.dense_4h_to_h", "out"),
    },
    "gpt-neox": {"one": ("attention", "out"), "other": ("mlp", "out")},
    "cohere": {"one": ("self_attn", "out"), "other": ("mlp", "out")},
    "falcon": {"one": ("self_attention", "out"), "other": ("mlp", "out")},
}
WHERE |= {"granite": WHERE["llama"], "qwen2-moe": WHERE["llama"]}
PARALLEL = ("gpt-neox", "cohere", "falcon")


def built(family: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    disturb(model, 5)
    return model


def texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 97, (length,), generator=generator).tolist() for length in (9, 6, 2)]


def first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


def by_hooks(transformer: Transformer, family: str, tokens: list[int]) -> list[dict[str, Tensor]]:
    """What modules of each block take and give for one sentence, by name; blocks as they run."""
    runs: list[dict[str, Tensor]] = []
    handles = []

    def begin(_: nn.Module, arguments: Any, named: Any) -> None:
        runs.append({"input": arguments[0] if arguments else named["hidden_states"]})

    def keep(name: str, side: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: Any, named: Any, out: Any) -> None:
            taken = arguments[0] if arguments else named.get("hidden_states")
            runs[-1][name] = (taken if side == "in" else first(out)).reshape(1, len(tokens), -1).clone()

        return hook

    for block in dict.fromkeys(transformer.blocks):
        handles.append(block.register_forward_pre_hook(begin, with_kwargs=True))
        for name, (module, side) in WHERE[family].items():
            watched = block.get_submodule(module)
            handles.append(watched.register_forward_hook(keep(name, side), with_kwargs=True))
        handles.append(block.register_forward_hook(keep("level", "out"), with_kwargs=True))
    with torch.inference_mode():
        transformer.body(torch.tensor([tokens]))
    for handle in handles:
        handle.remove()
    return runs


def read(
    transformer: Transformer, tokens: Tensor, rows: Tensor, positions: Tensor
) -> dict[tuple[int, str], Tensor]:
    found: dict[tuple[int, str], Tensor] = {}
    sub_layers = SubLayers(transformer)
    sub_layers.read(tokens, rows, positions, lambda block, state, at: found.update({(block, state): at}))
    return found


@pytest.mark.parametrize("family", MODELS)
def test_states_are_those_that_the_familys_own_modules_take_and_give(family: str) -> None:
    transformer = Transformer(built(family))
    sentences = texts()
    tokens = torch.full((3, 9), transformer.padding)
    for row, sentence in enumerate(sentences):
        tokens[row, : len(sentence)] = torch.tensor(sentence)
    rows, positions = torch.tensor([0, 0, 1, 2]), torch.tensor([8, 3, 5, 0])
    found = read(transformer, tokens, rows, positions)
    states = ("both",) if family in PARALLEL else ("attention", "middle", "feed-forward")
    expected_keys = [(0, "level"), *((block, s) for block in (1, 2, 3) for s in (*states, "level"))]
    assert sorted(found) == sorted(expected_keys)
    for sample, (row, position) in enumerate(zip(rows.tolist(), positions.tolist(), strict=True)):
        runs = by_hooks(transformer, family, sentences[row])
        assert len(runs) == 3
        torch.testing.assert_close(
            found[0, "level"][sample], runs[0]["input"][0, position], rtol=2e-4, atol=2e-4
        )
        for block, run in enumerate(runs, start=1):
            for state in (*states, "level"):
                if state == "both":
                    expected = run["one"] + run["other"]
                else:
                    # Granite scales what it adds.
                    scale = 0.3 if family == "granite" and state in ("attention", "feed-forward") else 1.0
                    expected = scale * run[state]
                at = expected[0, position]
                torch.testing.assert_close(found[block, state][sample], at, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granite", "opt", "bloom"])
def test_states_add_up_where_no_norm_stands_behind_an_addition(family: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        transformer = Transformer(built(family).to(dtype))
        every = torch.arange(6)
        found = read(transformer, torch.tensor([texts()[1]]), torch.zeros_like(every), every)
        for block in (1, 2, 3):
            before, middle, after = found[block - 1, "level"], found[block, "middle"], found[block, "level"]
            assert middle.dtype == dtype
            torch.testing.assert_close(before + found[block, "attention"], middle, rtol=0, atol=0)
            torch.testing.assert_close(middle + found[block, "feed-forward"], after, rtol=0, atol=0)


def test_levels_are_those_of_the_transformer_and_nothing_is_left_behind() -> None:
    for family in ("llama", "bert", "gpt-neox"):
        transformer = Transformer(built(family))
        tokens, rows, positions = torch.tensor(texts()[:1]), torch.tensor([0, 0]), torch.tensor([1, 8])
        expected = transformer.states(tokens, rows, positions)
        found = read(transformer, tokens, rows, positions)
        for level in range(4):
            torch.testing.assert_close(found[level, "level"], expected[level], rtol=0, atol=0)
        assert not any(
            module._forward_hooks or module._forward_pre_hooks for module in transformer.model.modules()
        )


class Threefold(nn.Module):
    """A feed-forward network that keeps a stream of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.inner(states)
        return states + self.inner(states)


def test_blocks_with_more_additions_are_refused() -> None:
    model = built("llama")
    model.model.layers[1].mlp = Threefold(model.model.layers[1].mlp)
    with pytest.raises(ModelError, match=r"LlamaDecoderLayer: .* one or two additions .* states, 4 found"):
        SubLayers(Transformer(model))


class Late(nn.Module):
    """A feed-forward network that adds once more in long texts."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.inner(states)
        return out + torch.ones_like(out) if states.shape[1] > 8 else out


def test_blocks_that_add_otherwise_than_in_the_first_run_are_refused() -> None:
    model = built("llama")
    model.model.layers[1].mlp = Late(model.model.layers[1].mlp)
    sub_layers = SubLayers(Transformer(model))
    sub_layers.read(torch.tensor(texts()[1:2]), torch.tensor([0]), torch.tensor([0]), lambda *_: None)
    with pytest.raises(ModelError, match="do not add to their states as they did"):
        sub_layers.read(torch.tensor(texts()[:1]), torch.tensor([0]), torch.tensor([0]), lambda *_: None)
