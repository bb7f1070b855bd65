"""The head against Hugging Face's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from onejump.base.errors import ModelError
from onejump.models.head import ACTIVATIONS, Head, HeadConfig
from onejump.models.transformer import Transformer

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "vocab_size": 61,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "rms": lambda: transformers.LlamaConfig(**SIZES, rms_norm_eps=0.1),
    "layer": lambda: transformers.GPTNeoXConfig(**SIZES, layer_norm_eps=0.1),
    "softcap": lambda: transformers.Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0
    ),
    "bias": lambda: transformers.PhiConfig(**SIZES),
    "logit_scale": lambda: transformers.CohereConfig(**SIZES, logit_scale=0.3, pad_token_id=0),
    "logits_scaling": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=4.0),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_logits_are_the_models_own(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[case]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    head = Transformer(model).head
    assert head.config.norm == ("layer" if case in ("layer", "bias", "logit_scale") else "rms")
    assert (head.config.softcap is not None) == (case == "softcap")
    assert (head.logit_bias is not None) == (case == "bias")
    assert (head.config.scale != 1) == (case in ("logit_scale", "logits_scaling"))
    before: list[torch.Tensor] = []
    body = model.base_model
    norm = next(
        getattr(body, name) for name in ("norm", "final_layer_norm", "final_layernorm") if hasattr(body, name)
    )
    norm.register_forward_pre_hook(lambda _, arguments: before.append(arguments[0]))
    with torch.inference_mode():
        expected = model(torch.randint(0, 61, (2, 9))).logits
    found = head.logits(before[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    head.save(tmp_path / "head.safetensors")
    again = Head.load(tmp_path / "head.safetensors")
    assert again.config == head.config
    assert torch.equal(again.logits(before[0]), found)


# What the model's configuration is, the activation that its head's transform has, and its width.
MASKED: dict[str, tuple[Callable[[], Any], str, int]] = {
    "bert": (lambda: transformers.BertConfig(**SIZES), "gelu", 32),
    "bert-tanh": (lambda: transformers.BertConfig(**SIZES, hidden_act="gelu_new"), "gelu_tanh", 32),
    # RoBERTa's own head takes gelu whatever its configuration says.
    "roberta": (lambda: transformers.RobertaConfig(**SIZES, hidden_act="relu"), "gelu", 32),
    "distilbert": (
        lambda: transformers.DistilBertConfig(
            n_layers=2, dim=32, n_heads=4, hidden_dim=48, vocab_size=61, activation="relu"
        ),
        "relu",
        32,
    ),
    "modernbert": (
        lambda: transformers.ModernBertConfig(
            **SIZES, **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0), norm_bias=True
        ),
        "gelu",
        32,
    ),
    "roberta-prelayernorm": (lambda: transformers.RobertaPreLayerNormConfig(**SIZES), "gelu", 32),
    "electra": (lambda: transformers.ElectraConfig(**SIZES, embedding_size=16), "gelu", 16),
}


@pytest.mark.parametrize("case", MASKED)
def test_logits_behind_a_transform_are_the_models_own(case: str, tmp_path: Path) -> None:
    make, activation, width = MASKED[case]
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(make())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    head = Transformer(model).head
    assert head.config.activation == activation
    assert (head.hidden, head.vocabulary, len(head.gain)) == (32, 61, width)
    tokens = torch.randint(5, 61, (2, 9))
    with torch.inference_mode():
        blocks: list[torch.Tensor] = []
        hook = Transformer(model).blocks[-1].register_forward_hook(lambda _, __, out: blocks.append(out))
        expected = model(tokens).logits
        hook.remove()
        last = blocks[0][0] if isinstance(blocks[0], tuple) else blocks[0]
    found = head.logits(last)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    head.save(tmp_path / "head.safetensors")
    again = Head.load(tmp_path / "head.safetensors")
    assert again.config == head.config
    assert torch.equal(again.logits(last), found)


def test_a_file_holds_no_tensors_that_the_head_lacks(make_head: Callable[..., Head], tmp_path: Path) -> None:
    make_head(16, 5, "layer", bias=True).save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["gain", "logit_bias", "norm_bias", "unembedding"]


def test_a_transform_has_a_known_activation(make_head: Callable[..., Head]) -> None:
    with pytest.raises(ModelError, match="with a transform: activation 'swish' given, accepted is gelu, "):
        make_head(16, 5, activation="swish")
    ones = torch.ones(16)
    with pytest.raises(ModelError, match="without a transform: activation 'gelu' given, accepted is None"):
        Head(HeadConfig("rms", 1e-5, activation="gelu"), ones, ones, torch.ones(5, 16))


@pytest.mark.parametrize(
    ("activation", "first"), [*((name, None) for name in (None, *ACTIVATIONS)), ("gelu", "rms")]
)
def test_no_logit_depends_on_more_than_the_essence(
    activation: str | None, first: str | None, make_head: Callable[..., Head]
) -> None:
    """A length is seen behind a transform only, and not if a norm comes before that."""
    head = make_head(16, 5, "layer", activation=activation, first=first).double()
    without_length = activation is None or first is not None
    states = 3 * torch.randn(7, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    essence = head.essence(states)
    torch.testing.assert_close(head.logits(essence), head.logits(states), rtol=1e-4, atol=1e-4)
    alike = torch.allclose(essence.square().mean(-1), torch.ones(7, dtype=torch.float64), rtol=1e-4)
    assert alike == without_length
    same = torch.allclose(head.logits(2 * states), head.logits(states), rtol=1e-4, atol=1e-4)
    assert same == without_length


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_normalise_is_torchs(norm: str, make_head: Callable[..., Head]) -> None:
    head = make_head(16, 5, norm)
    states = 3 * torch.randn(7, 16, generator=torch.Generator().manual_seed(1)) + 2
    if norm == "rms":
        expected = torch.nn.functional.rms_norm(states, (16,), head.gain, 1e-5)
    else:
        expected = torch.nn.functional.layer_norm(states, (16,), head.gain, head.norm_bias, 1e-5)
    torch.testing.assert_close(head.normalise(states), expected)


def test_a_head_is_finite(make_head: Callable[..., Head], tmp_path: Path) -> None:
    head = make_head(16, 5)
    head.gain[3] = float("nan")
    head.unembedding[0, 0] = float("inf")
    with pytest.raises(ModelError, match="head: gain, unembedding: not all numbers are finite"):
        head.save(tmp_path / "head.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_half_precision_states_have_the_logits_of_the_same_states_in_float32(
    make_head: Callable[..., Head], norm: str, activation: str | None, dtype: torch.dtype
) -> None:
    head = make_head(8, 20, norm, bias=True, activation=activation)
    states = (1000 * torch.randn(5, 8, generator=torch.Generator().manual_seed(4))).to(dtype)
    for found, expected in (
        (head.logits(states), head.logits(states.float())),
        (head.essence(states), head.essence(states.float())),
        (head.features(states), head.features(states.float())),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
