"""Checkpoints that lack weights, or hold others than their configuration says, are refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from gguf import GGUFWriter, TokenType
from safetensors.torch import load_file, save_file

from onejump.base.errors import ModelError
from onejump.models.gguf_header import check_gguf
from onejump.models.loading import convert_gguf, load_model, sizes_from_gguf

Weights = dict[str, torch.Tensor]
SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "initializer_range": 0.2,
}
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., str]:
    """changed(change, **configuration): folder of a tiny Llama, its weights changed in place."""

    def make(change: Callable[[Weights], Any] = lambda _: None, **configuration: Any) -> str:
        torch.manual_seed(0)
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES | {"tie_word_embeddings": False} | configuration))
        folder = tmp_path / "tiny-llama"
        model.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    return make


@pytest.mark.parametrize(
    "missing", [DOWN, "lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_a_missing_weight_is_named(changed: Callable[..., str], missing: str) -> None:
    source = changed(lambda weights: weights.pop(missing))
    with pytest.raises(ModelError, match=rf"LlamaForCausalLM are missing: {missing}: random numbers"):
        load_model(source, device="cpu")


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    hf.LlamaModel(hf.LlamaConfig(**SIZES)).save_pretrained(tmp_path / "body")
    with pytest.raises(ModelError, match=r"weights of LlamaForCausalLM are missing: lm_head\.weight"):
        load_model(str(tmp_path / "body"), device="cpu")


def test_a_reward_model_is_refused(tmp_path: Path) -> None:
    config = hf.LlamaConfig(**SIZES, num_labels=1, pad_token_id=0)
    hf.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    with pytest.raises(ModelError, match="a model of 1 label, a regression given, accepted is a classifier"):
        load_model(str(tmp_path / "reward"), device="cpu")


def test_an_encoder_without_its_head_is_refused(tmp_path: Path) -> None:
    config = hf.BertConfig(**SIZES, architectures=["BertForMaskedLM"])
    hf.BertModel(config).save_pretrained(tmp_path / "body")
    saved = hf.BertConfig.from_pretrained(tmp_path / "body")
    saved.architectures = ["BertForMaskedLM"]
    saved.save_pretrained(tmp_path / "body")
    with pytest.raises(ModelError, match=r"missing: cls\.predictions\.bias, .* and 2 more"):
        load_model(str(tmp_path / "body"), device="cpu")


def test_a_long_list_of_missing_weights_is_shortened(changed: Callable[..., str]) -> None:
    source = changed(lambda weights: [weights.pop(name) for name in list(weights) if "mlp" in name])
    with pytest.raises(ModelError, match=r"missing: model\.layers\.0\.mlp\.down_proj\.weight, .* and 5 more"):
        load_model(source, device="cpu")


def test_tied_weights_and_buffers_that_are_not_saved_are_not_missing(changed: Callable[..., str]) -> None:
    assert load_model(changed(tie_word_embeddings=True), device="cpu").levels == 4


def test_a_weight_of_another_shape_is_named(changed: Callable[..., str]) -> None:
    source = changed(lambda weights: weights.update({DOWN: torch.zeros(32, 63)}))
    with pytest.raises(ModelError, match=rf"other shapes .*: {DOWN} \(32, 63\) \(expected: \(32, 64\)\)"):
        load_model(source, device="cpu")


@pytest.mark.parametrize(
    "unused",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.3.mlp.up_proj.weight",
        "lm_head.bias",
        "model.norm.bias",
    ],
)
def test_a_weight_that_the_class_does_not_take_is_refused(changed: Callable[..., str], unused: str) -> None:
    source = changed(lambda weights: weights.update({unused: torch.ones(32)}))
    with pytest.raises(ModelError, match=rf"does not use weights of its own parts: {unused}"):
        load_model(source, device="cpu")


def test_another_task_head_is_left_out_with_a_warning(
    changed: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    extra = {
        "v_head.summary.weight": torch.zeros(1, 32),
        "model.pooler.dense.weight": torch.zeros(32, 32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
        "model.layers.0.attn.masked_bias": torch.zeros(1),
    }
    source = changed(lambda weights: weights.update(extra))
    with caplog.at_level(logging.WARNING, logger="onejump.models.checkpoint"):
        load_model(source, device="cpu")
    (record,) = [record for record in caplog.records if record.name == "onejump.models.checkpoint"]
    assert record.getMessage().endswith(
        "LlamaForCausalLM does not use the weights model.pooler.dense.weight, v_head.summary.weight"
    )


@pytest.fixture
def gguf_of(tmp_path: Path) -> Callable[..., Path]:
    """gguf_of(change, **fields): the GGUF file of a tiny Llama, its tensors changed in place."""

    def make(change: Callable[[dict[str, Any]], Any] = lambda _: None, **fields: str) -> Path:
        path = tmp_path / "tiny.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_name("tiny")
        writer.add_block_count(2)
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(40)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*"abcdefghijklmnopqrstuvwxyz0123456789.,", "ab", "cd"])
        writer.add_token_types([TokenType.NORMAL] * 40)
        writer.add_token_merges(["a b", "c d"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        for key, value in fields.items():
            writer.add_string(key, value)
        generator = np.random.default_rng(0)
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (40, 32),
            "output.weight": (40, 32),
            "output_norm.weight": (32,),
        }
        for block in range(2):
            shapes |= {
                f"blk.{block}.{name}.weight": shape
                for name, shape in {
                    "attn_norm": (32,),
                    "ffn_norm": (32,),
                    "attn_q": (32, 32),
                    "attn_k": (16, 32),
                    "attn_v": (16, 32),
                    "attn_output": (32, 32),
                    "ffn_gate": (64, 32),
                    "ffn_up": (64, 32),
                    "ffn_down": (32, 64),
                }.items()
            }
        tensors = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        change(tensors)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def test_a_whole_gguf_file_is_unpacked(gguf_of: Callable[..., Path], tmp_path: Path) -> None:
    convert_gguf(gguf_of(), tmp_path / "weights")
    assert load_model(str(tmp_path / "weights"), device="cpu").levels == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("blk.1.ffn_down.weight"), rf"are missing: {DOWN}"),
        (lambda t: t.pop("output_norm.weight"), r"are missing: model\.norm\.weight"),
        (lambda t: t.update({"rope_freqs.weight": np.ones(4, np.float32)}), r"tensors rope_freqs\.weight"),
        (lambda t: t.update({"blk.0.attn_q.bias": np.ones(32, np.float32)}), r"tensors blk\.0\.attn_q\.bias"),
    ],
)
def test_a_gguf_file_that_the_model_is_not_all_of_is_refused(
    gguf_of: Callable[..., Path], tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        convert_gguf(gguf_of(change), tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_a_gguf_file_that_is_cut_off_is_refused(gguf_of: Callable[..., Path], tmp_path: Path) -> None:
    path = gguf_of()
    whole = path.read_bytes()
    check_gguf(path)
    for size in [*range(0, 3000, 37), *range(3000, len(whole), 1009), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut off|damaged"):
            check_gguf(path)
    for read in (sizes_from_gguf, lambda path: convert_gguf(path, tmp_path / "weights")):
        with pytest.raises(ModelError, match=rf"cut off: its header says that there are {len(whole)} bytes"):
            read(path)


@pytest.mark.parametrize(
    ("key", "number", "accepted"),
    [("block_count", 2**31, 21), ("embedding_length", 2**32 - 1, 64), ("feed_forward_length", 2**30, 64)],
)
def test_sizes_that_the_tensors_of_a_gguf_file_do_not_have_are_refused(
    gguf_of: Callable[..., Path], tmp_path: Path, key: str, number: int, accepted: int
) -> None:
    path = gguf_of()
    content = bytearray(path.read_bytes())
    at = content.index(key.encode()) + len(key) + 4
    content[at : at + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)
    for read in (sizes_from_gguf, lambda path: convert_gguf(path, tmp_path / "weights")):
        with pytest.raises(
            ModelError, match=rf"llama\.{key} of the GGUF file is {number}, .* 0 to {accepted}"
        ):
            read(path)


def test_no_damage_of_a_gguf_files_header_is_more_than_an_error(gguf_of: Callable[..., Path]) -> None:
    path = gguf_of()
    whole = path.read_bytes()
    refused = []
    for at in range(4, 3000, 11):
        content = bytearray(whole)
        content[at : at + 4] = b"\xff\xff\xff\x7f"
        path.write_bytes(content)
        try:
            sizes_from_gguf(path)
        except ModelError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in line for line in refused)


def test_rope_scaling_of_a_gguf_file_is_not_passed_over(gguf_of: Callable[..., Path], tmp_path: Path) -> None:
    path = gguf_of(**{"llama.rope.scaling.type": "yarn"})
    with pytest.raises(ModelError, match=r"llama\.rope\.scaling\.type is yarn"):
        convert_gguf(path, tmp_path / "weights")
