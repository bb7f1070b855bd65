"""Families of models: states of padded batches against single sentences, and models that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from accelerate import dispatch_model
from tiny_models import disturb_norms
from torch import nn

from onejump.base.errors import ModelError
from onejump.models.loading import load_model, load_tokenizer, mask_token, sizes_from_configuration
from onejump.models.model_stage import describe
from onejump.models.prompts import Prompt, batches, pad
from onejump.models.transformer import Transformer

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 97,
}
WIDE: dict[str, Any] = SIZES | {"intermediate_size": 64}
GROUPED: dict[str, Any] = WIDE | {"num_key_value_heads": 2}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=97, n_positions=64),
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "phi3": lambda: hf.Phi3Config(**GROUPED, pad_token_id=0),
    "mistral": lambda: hf.MistralConfig(**GROUPED, sliding_window=4),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=8),
    "gemma": lambda: hf.GemmaConfig(**GROUPED, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=4),
    "opt": lambda: hf.OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**WIDE),
}
MASKED: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**WIDE, max_position_embeddings=64, initializer_range=0.2),
    "roberta": lambda: hf.RobertaConfig(
        **WIDE, max_position_embeddings=66, pad_token_id=1, initializer_range=0.2
    ),
    "distilbert": lambda: hf.DistilBertConfig(
        n_layers=3, dim=32, n_heads=4, hidden_dim=64, vocab_size=97, initializer_range=0.2
    ),
    "electra": lambda: hf.ElectraConfig(**WIDE, embedding_size=16, initializer_range=0.2),
    "eurobert": lambda: hf.EuroBertConfig(
        **WIDE, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2, mask_token_id=3
    ),
}


def tiny(family: str) -> Any:
    """A random model whose norms are not the identity, so that a missing one shows."""
    torch.manual_seed(0)
    if family in MASKED:
        model = hf.AutoModelForMaskedLM.from_config(MASKED[family]()).eval()
        disturb_norms(model)
        return model
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_f" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def final_norm(model: Any) -> Any:
    body = getattr(model.base_model, "decoder", model.base_model)
    names = ("norm", "ln_f", "final_layer_norm")
    return next(getattr(body, name) for name in names if hasattr(body, name))


@pytest.mark.parametrize("family", CONFIGS)
def test_states_of_padded_prefixes_are_those_of_whole_sentences(family: str) -> None:
    model = tiny(family)
    transformer = Transformer(model)
    assert (transformer.levels, transformer.hidden) == (4, 32)
    generator = np.random.default_rng(0)
    sentences = {i: generator.integers(1, 97, size=length) for i, length in enumerate((14, 12, 9, 9, 5, 1))}
    kept = {0: [3, 13], 1: [0, 10], 2: [7], 3: [2, 5], 4: [1], 5: [0]}
    prompts = [Prompt(i, s[: kept[i][-1] + 1].tolist(), np.array(kept[i])) for i, s in sentences.items()]
    prompts.sort(key=lambda prompt: -len(prompt.tokens))
    (batch,) = batches(prompts, 1000)
    states = transformer.states(*pad(batch))
    assert states.shape == (4, 9, 32)

    column = 0
    for prompt in batch:
        before_norm: list[torch.Tensor] = []
        hook = final_norm(model).register_forward_pre_hook(lambda _, a, into=before_norm: into.append(a[0]))
        with torch.inference_mode():
            whole = model(torch.from_numpy(sentences[prompt.sentence])[None], output_hidden_states=True)
        hook.remove()
        for position in prompt.positions:
            for level in range(3):
                expected = whole.hidden_states[level][0, position]
                torch.testing.assert_close(states[level, column], expected, rtol=1e-4, atol=1e-5)
            last = states[3, column]
            torch.testing.assert_close(last, before_norm[0][0, position], rtol=1e-4, atol=1e-5)
            with torch.inference_mode():
                normed = final_norm(model)(last)
            torch.testing.assert_close(normed, whole.hidden_states[-1][0, position], rtol=1e-4, atol=1e-5)
            # What the trap is about: the last of hidden_states is another thing than level L.
            assert (last - whole.hidden_states[-1][0, position]).abs().max() > 1e-2
            torch.testing.assert_close(
                transformer.head.logits(last), whole.logits[0, position], rtol=1e-3, atol=1e-4
            )
            column += 1
    assert column == states.shape[1]


@pytest.mark.parametrize("family", MASKED)
def test_states_of_padded_masked_sentences_are_those_of_each_alone(family: str) -> None:
    model = tiny(family)
    transformer = Transformer(model)
    assert not transformer.causal
    assert transformer.padding == model.config.pad_token_id
    assert (transformer.levels, transformer.hidden) == (4, 32)
    generator = np.random.default_rng(0)
    lengths, kept = (14, 12, 12, 5, 1), (3, 0, 11, 4, 0)
    prompts = [
        Prompt(i, generator.integers(4, 97, size=length).tolist(), np.array([position]), mask=3)
        for i, (length, position) in enumerate(zip(lengths, kept, strict=True))
    ]
    states = transformer.states(*pad(prompts, transformer.padding))
    for column, (prompt, position) in enumerate(zip(prompts, kept, strict=True)):
        alone = torch.tensor([prompt.tokens])
        alone[0, position] = 3
        with torch.inference_mode():
            whole = model(alone, output_hidden_states=True)
        # A final norm beside the blocks is in the last of hidden_states; a transform is not.
        levels = 3 if family == "eurobert" else 4
        for level in range(levels):
            expected = whole.hidden_states[level][0, position]
            torch.testing.assert_close(states[level, column], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            transformer.head.logits(states[3, column]), whole.logits[0, position], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_levels_of_an_encoder_begin_behind_its_embeddings_norm_and_end_before_its_transform(
    family: str,
) -> None:
    model = tiny(family)
    transformer = Transformer(model)
    dense = {
        "bert": lambda: model.cls.predictions.transform.dense,
        "roberta": lambda: model.lm_head.dense,
        "distilbert": lambda: model.vocab_transform,
    }[family]()
    first: list[torch.Tensor] = []
    last: list[torch.Tensor] = []
    model.base_model.embeddings.LayerNorm.register_forward_hook(lambda _, __, output: first.append(output))
    dense.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    tokens, every = torch.arange(5, 15)[None], torch.arange(10)
    with torch.inference_mode():
        model(tokens)
    states = transformer.states(tokens, torch.zeros_like(every), every)
    torch.testing.assert_close(states[0], first[0][0])
    torch.testing.assert_close(states[-1], last[0][0])


def test_reading_leaves_no_hooks_behind() -> None:
    transformer = Transformer(tiny("llama"))
    with pytest.raises(IndexError):
        transformer.states(torch.tensor([[1, 2]]), torch.tensor([0]), torch.tensor([5]))
    for block in transformer.blocks:
        assert not block._forward_hooks
        assert not block._forward_pre_hooks


def test_a_model_can_have_no_final_norm() -> None:
    model = tiny("llama")
    model.model.norm = nn.Identity()
    head = Transformer(model).head
    assert (head.config.norm, head.first_norm) == (None, None)
    states = torch.randn(3, head.hidden)
    torch.testing.assert_close(head.logits(states), states @ model.lm_head.weight.T)


def test_a_norm_of_any_name_is_found() -> None:
    model = tiny("llama")
    expected = Transformer(model).head.gain
    norm = model.model.norm
    model.model.norm = nn.Sequential(nn.Dropout(), norm)
    assert torch.equal(Transformer(model).head.gain, expected)


def test_a_norm_of_another_kind_is_named() -> None:
    model = tiny("llama")
    model.model.norm = nn.Softmax(-1)
    with pytest.raises(
        ModelError, match=r"norm Softmax was not understood: looked for an RMSNorm or LayerNorm"
    ):
        Transformer(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_with_gains_as_large_as_those_of_gemma_3(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = hf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=4)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.model.norm.weight.copy_(torch.linspace(-1, 300, 32))
    head = Transformer(model.to(dtype)).head
    # Gemma keeps the gain's distance from one; taking its weight for its gain would be off by 2% or less.
    assert torch.equal(head.gain, 1 + model.model.norm.weight.float())


def test_missing_blocks_are_named() -> None:
    model = tiny("llama")
    model.config.num_hidden_layers = 5
    with pytest.raises(ModelError, match=r"blocks were not found: looked for .* run 5 times .*layers: 3"):
        Transformer(model)


class _Doubled(hf.LlamaForCausalLM):
    """Its configuration counts other blocks, and its unembedding is a secret."""

    def get_output_embeddings(self) -> None:
        return None


def doubled() -> Any:
    torch.manual_seed(0)
    model = _Doubled(CONFIGS["llama"]())
    model.config.num_hidden_layers = 6
    disturb_norms(model)
    return model


NAMED = {"blocks": "model.layers", "norm": "model.norm", "head": "lm_head"}


def test_modules_that_are_named_need_not_be_found() -> None:
    model = doubled()
    with pytest.raises(ModelError, match="head was not found"):
        Transformer(model)
    with pytest.raises(ModelError, match=r"blocks were not found.* run 6 times in all.*`modules`"):
        Transformer(model, {"head": "lm_head"})
    transformer = Transformer(model, NAMED)
    tokens, every = torch.arange(5, 15)[None], torch.arange(10)
    states = transformer.states(tokens, torch.zeros_like(every), every)
    with torch.inference_mode():
        own = model(tokens, output_hidden_states=True)
    torch.testing.assert_close(states[:-1], torch.stack(own.hidden_states)[:-1, 0])
    torch.testing.assert_close(model.model.norm(states[-1]), own.hidden_states[-1][0])
    torch.testing.assert_close(transformer.head.logits(states[-1]), own.logits[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"blocks": "model.layer"}, r"modules.blocks: 'model.layer' given.* such as model\.layers"),
        ({"head": "nowhere"}, r"modules.head: 'nowhere' given, _Doubled has no such module.*lm_head"),
        (
            {"blocks": "model.norm"},
            r"modules.blocks: a list of blocks was expected, no module of LlamaRMSNorm",
        ),
        ({"norm": "model.layers.0.input_layernorm"}, r"modules.norm: a norm that runs behind the last block"),
        ({"norms": "model.norm"}, r"modules: 'norms' given, accepted is blocks, norm, head"),
        ({"head": "model.rotary_emb"}, r"modules.head: .* LlamaRotaryEmbedding has no weight"),
        (
            {"norm": "lm_head"},
            r"modules.norm: a norm .* the unembedding was expected, Linear is not one",
        ),
    ],
)
def test_a_name_of_nothing_says_what_there_is(named: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Transformer(doubled(), NAMED | named)


def test_named_modules_travel_with_the_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    paths = tmp_path / "m.json", tmp_path / "h.safetensors"
    describe(*paths, source=str(tiny_model_folder), device="cpu", modules=NAMED)
    assert json.loads(paths[0].read_text(encoding="utf-8"))["modules"] == NAMED
    sizes = sizes_from_configuration(str(tiny_model_folder), modules=NAMED)
    assert (sizes["blocks"], sizes["vocabulary"]) == (4, 200)
    with pytest.raises(ModelError, match=r"modules.norm: 'norm' given"):
        describe(*paths, source=str(tiny_model_folder), device="cpu", modules={"norm": "norm"})


def test_a_missing_head_is_named() -> None:
    model = tiny("llama")
    model.lm_head = None
    with pytest.raises(ModelError, match=r"head was not found: looked for get_output_embeddings"):
        Transformer(model)


class _Twice(nn.Linear):
    """A head with a factor that its weight does not show."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return 1.1 * super().forward(states)


def test_a_transform_between_head_and_logits_is_refused() -> None:
    model = tiny("llama")
    head = _Twice(32, 97, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    with pytest.raises(ModelError, match="do not give the model's own logits"):
        Transformer(model)


def test_a_norm_after_the_one_found_is_refused() -> None:
    model = tiny("llama")
    norm, extra = model.model.norm, nn.LayerNorm(32)
    with torch.no_grad():
        extra.weight.mul_(torch.linspace(0.5, 2, 32))
    norm.register_forward_hook(
        lambda _, __, out: extra(out) if out.shape[0] == 1 and out.dim() == 3 else None
    )
    with pytest.raises(ModelError, match="do not give the model's own logits"):
        Transformer(model)


def test_a_convolution_between_two_blocks_is_refused() -> None:
    torch.manual_seed(0)
    config = hf.DebertaV2Config(
        **WIDE,
        conv_kernel_size=3,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
    )
    model = hf.DebertaV2ForMaskedLM(config)
    disturb_norms(model)
    with pytest.raises(ModelError, match="output of block 1 is not the input of block 2"):
        Transformer(model)


def test_a_small_change_in_place_between_two_blocks_is_refused() -> None:
    model = tiny("llama")
    # A hook that comes before those of the library stands for the model's own code.
    model.model.layers[1].register_forward_pre_hook(lambda _, given: (given[0].add_(1e-5),))
    with pytest.raises(ModelError, match="output of block 1 is not the input of block 2"):
        Transformer(model)


def test_dropout_behind_the_last_block_changes_nothing() -> None:
    model = tiny("llama")
    model.model.norm = nn.Sequential(nn.Dropout(0.5), model.model.norm)
    assert Transformer(model).levels == 4


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_states_beyond_the_range_of_a_dtype_are_told_by_level(dtype: torch.dtype, name: str) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(1e4 if name == "float16" else 1e38)
        model.model.layers[1].mlp.up_proj.weight.fill_(1e4)
    with pytest.raises(ModelError, match=f"a state of level 2 is not finite in {name}"):
        Transformer(model.to(dtype))


def test_a_model_that_sees_what_follows_is_refused() -> None:
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**WIDE, attn_implementation="eager", initializer_range=0.2))
    for block in model.model.layers:
        attention = block.self_attn
        attention.register_forward_pre_hook(
            lambda _, arguments, named: (arguments, named | {"attention_mask": None}), with_kwargs=True
        )
    with pytest.raises(ModelError, match="a causal model was expected"):
        Transformer(model)


def test_an_encoder_that_is_no_masked_language_model_is_refused() -> None:
    torch.manual_seed(0)
    model = hf.BertLMHeadModel(MASKED["bert"]())
    with pytest.raises(ModelError, match=r"a causal model was expected, or .*ForMaskedLM"):
        Transformer(model)


def test_padding_that_is_seen_is_refused() -> None:
    model = tiny("bert")
    model.base_model.register_forward_pre_hook(
        lambda _, arguments, named: (arguments, named | {"attention_mask": None}), with_kwargs=True
    )
    with pytest.raises(ModelError, match=r"depends on padding \(token 0\)"):
        Transformer(model)


def test_padding_that_is_not_known_is_refused() -> None:
    model = tiny("bert")
    model.config.pad_token_id = None
    with pytest.raises(ModelError, match="no token for padding: looked for pad_token_id"):
        Transformer(model)


def test_an_unknown_activation_is_refused() -> None:
    model = tiny("bert")
    model.cls.predictions.transform.transform_act_fn = nn.Softplus()
    with pytest.raises(ModelError, match=r"activation .* not understood: accepted are gelu, gelu_tanh, relu"):
        Transformer(model)


def test_a_second_norm_in_the_transform_is_refused() -> None:
    model = tiny("roberta")
    model.lm_head.layer_norm = nn.Sequential(nn.LayerNorm(32), nn.LayerNorm(32))
    with pytest.raises(ModelError, match=r"activation of the head's transform was not understood"):
        Transformer(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_masked_models_load_by_their_architecture(
    family: str, dtype: str, tiny_masked_folder: Callable[[str], Path]
) -> None:
    transformer = load_model(str(tiny_masked_folder(family)), dtype=dtype, device="cpu")
    assert type(transformer.model).__name__.endswith("ForMaskedLM")
    assert transformer.head.config.activation == "gelu"
    assert transformer.head.unembedding.dtype == torch.float32


def test_sizes_of_a_masked_model_come_from_its_configuration(
    tiny_masked_folder: Callable[[str], Path],
) -> None:
    model = hf.AutoModelForMaskedLM.from_pretrained(tiny_masked_folder("bert"))
    expected = {"blocks": 4, "hidden": 32, "vocabulary": 200, "parameters": model.num_parameters()}
    assert sizes_from_configuration(str(tiny_masked_folder("bert"))) == expected | {"task": "masked"}


def test_the_description_says_what_task_a_model_has(
    tiny_masked_folder: Callable[[str], Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    for source, task in ((tiny_masked_folder("roberta"), "masked"), (tiny_model_folder, "causal")):
        describe(tmp_path / "m.json", tmp_path / "h.safetensors", source=str(source), device="cpu")
        description = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
        assert description["task"] == task
        assert description["hidden"] == 32


def test_a_tokenizer_without_a_mask_is_refused(
    tiny_masked_folder: Callable[[str], Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    assert mask_token(load_tokenizer(str(tiny_masked_folder("bert")))) == 4
    hf.AutoModelForMaskedLM.from_pretrained(tiny_masked_folder("bert")).save_pretrained(tmp_path / "model")
    load_tokenizer(str(tiny_model_folder)).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="its tokenizer has no mask token"):
        describe(tmp_path / "m.json", tmp_path / "h", source=str(tmp_path / "model"), device="cpu")
    assert not (tmp_path / "m.json").exists()


def test_half_precision_loads(tiny_model_folder: Path) -> None:
    full = load_model(str(tiny_model_folder), device="cpu")
    half = load_model(str(tiny_model_folder), dtype="bfloat16", device="cpu")
    arguments = torch.tensor([[5, 6, 7, 8]]), torch.zeros(4, dtype=torch.int64), torch.arange(4)
    states = half.states(*arguments)
    assert states.dtype == torch.bfloat16
    expected = full.states(*arguments)
    assert float((states - expected).norm() / expected.norm()) < 0.05
    assert half.head.unembedding.dtype == torch.float32


def test_a_model_spread_over_devices_gives_the_same(tmp_path: Path) -> None:
    arguments = torch.arange(8)[None], torch.zeros(8, dtype=torch.int64), torch.arange(8)
    whole = Transformer(tiny("llama"))
    # The disk stands for a second GPU: weights are elsewhere until their module runs.
    places = {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.rotary_emb": "cpu"}
    places |= dict.fromkeys(("model.layers.1", "model.layers.2", "model.norm", "lm_head"), "disk")
    spread = Transformer(
        dispatch_model(tiny("llama"), places, main_device="cpu", offload_dir=str(tmp_path / "elsewhere"))
    )
    assert spread.blocks[2].self_attn.q_proj.weight.device.type == "meta"
    torch.testing.assert_close(spread.states(*arguments), whole.states(*arguments), rtol=0, atol=0)
    for name, tensor in whole.head.state_dict().items():
        torch.testing.assert_close(spread.head.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_masked_model_spread_over_devices_has_the_same_head(tmp_path: Path) -> None:
    whole = Transformer(tiny("bert"))
    places = {"bert.embeddings": "cpu", "bert.encoder": "cpu", "cls": "disk"}
    spread = Transformer(
        dispatch_model(tiny("bert"), places, main_device="cpu", offload_dir=str(tmp_path / "elsewhere"))
    )
    assert spread.head.config == whole.head.config
    for name, tensor in whole.head.state_dict().items():
        torch.testing.assert_close(spread.head.state_dict()[name], tensor, rtol=0, atol=0)


def test_what_cannot_be_loaded(tmp_path: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(ModelError, match="nothing-here"):
        load_model(str(tmp_path / "nothing-here"))
    with pytest.raises(ModelError, match="nothing-here"):
        load_tokenizer(str(tmp_path / "nothing-here"))
    words = load_tokenizer(str(tiny_model_folder))("The old farmer found a small clock.")["input_ids"]
    assert len(set(words)) == 8
