"""A small random model of every family of language models that the installed transformers knows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

VOCABULARY = 97
BLOCKS = 3
# The largest model that is small enough to be built.
PARAMETERS = 3_000_000

# Of a configuration, every key that is called like one of these gets this value.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(
        (
            *("hidden_size", "n_embd", "d_model", "dim", "model_dim", "emb_dim", "embedding_size"),
            *("word_embed_proj_dim", "input_embedding_size"),
        ),
        32,
    ),
    **dict.fromkeys(
        (
            *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"),
            *("num_decoder_layers",),
        ),
        BLOCKS,
    ),
    **dict.fromkeys(
        (
            *("num_attention_heads", "n_head", "n_heads", "num_heads"),
            *("decoder_attention_heads", "encoder_attention_heads"),
        ),
        4,
    ),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers"), 2),
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    **dict.fromkeys(
        (
            *("intermediate_size", "ffn_dim", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim", "hidden_dim"),
            *("moe_intermediate_size", "shared_expert_intermediate_size", "n_inner", "d_inner", "dff"),
            "ffn_hidden_size",
        ),
        48,
    ),
    **dict.fromkeys(("head_dim", "d_head", "d_kv", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length"), 64),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Latent attention has as many key heads as heads; its rotated part is all that `head_dim` means.
_LATENT: dict[str, Any] = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16}
_GROUPS: dict[str, Any] = {"n_group": 1, "topk_group": 1}
_INDEXED: dict[str, Any] = {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 8}
_MAMBA: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
# What a family needs besides.
_BESIDES: dict[str, dict[str, Any]] = {
    "AXK1Config": _LATENT | _GROUPS,
    "AXK2Config": _LATENT | _GROUPS,
    "BailingHybridConfig": _LATENT
    | {"num_expert_group": 1, "topk_group": 1, "linear_head_dim": 8, "linear_num_heads": 4}
    | {"num_experts": 4, "num_experts_per_token": 2, "layer_group_size": 3},
    "BambaConfig": _MAMBA | {"attn_layer_indices": [1]},
    "CodeGenConfig": {"rotary_dim": 4},
    "CohereCompassTextConfig": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "CpmAntConfig": {"dim_head": 8, "dim_ff": 48, "prompt_length": 2, "position_bias_num_buckets": 32},
    "DeepseekV2Config": _LATENT | {"num_experts_per_tok": 2, "n_shared_experts": 1},
    "DeepseekV3Config": _LATENT | _GROUPS,
    "DeepseekV32Config": _LATENT | _GROUPS | _INDEXED,
    "Dots1Config": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "EsmConfig": {"vocab_size": VOCABULARY, "mask_token_id": 3},
    "EsmcConfig": {"num_key_value_heads": 4},
    "FalconH1Config": _MAMBA | {"mamba_d_ssm": 64, "mamba_chunk_size": 16},
    "FunnelConfig": {"block_sizes": [1, 1, 1]},
    "Gemma3nTextConfig": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY}
    | {"hidden_size_per_layer_input": 8, "activation_sparsity_pattern": [0.0] * BLOCKS, "laurel_rank": 4},
    # With fewer than six blocks none would attend to all tokens.
    "Gemma3TextConfig": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "NeoMMEConfig": {"head_dim": 16, "embedding_rank": 24},
    "Gemma4TextConfig": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
    | {"per_layer_config": {}},
    "Gemma4UnifiedTextConfig": {"per_layer_config": {}},
    "Glm4MoeLiteConfig": _LATENT | _GROUPS,
    "GlmMoeDsaConfig": _LATENT | _GROUPS | _INDEXED,
    "GPTJConfig": {"rotary_dim": 4},
    "GPTNeoConfig": {"attention_types": [[["global", "local", "global"], 1]]},
    "GraniteMoeHybridConfig": _MAMBA | {"layer_types": ["mamba", "attention", "mamba"]},
    "HYV4Config": _LATENT | _INDEXED,
    "HunYuanDenseV1Config": {"head_dim": 8},
    "HunYuanMoEV1Config": {"head_dim": 8},
    "KimiLinearConfig": _LATENT | {"num_experts_per_token": 2, "linear_head_dim": 8, "linear_num_heads": 4},
    "Lfm2Config": {"layer_types": ["conv", "full_attention", "conv"]},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention", "conv"]},
    "LongcatFlashConfig": _LATENT | {"zero_expert_num": 2, "expert_ffn_hidden_size": 16},
    "LukeConfig": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "Mamba2Config": {"num_heads": 8},
    "MiniCPM3Config": _LATENT,
    "MinistralConfig": {"head_dim": 8},
    # Without norms, its states would grow to the edge of float32, where not all machines give the same.
    "MobileBertConfig": {"true_hidden_size": 32, "intra_bottleneck_size": 32, "embedding_size": 16}
    | {"normalization_type": "layer_norm"},
    "NemotronConfig": {"num_key_value_heads": 2},
    "PerceiverConfig": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": BLOCKS}
    | {"num_self_attention_heads": 4, "num_cross_attention_heads": 4},
    "RemBertConfig": {"input_embedding_size": 16, "output_embedding_size": 24},
    "ReformerConfig": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "feed_forward_size": 48}
    | {"attn_layers": ["local", "lsh", "local"], "attention_head_size": 8},
    "RoCBertConfig": {"pronunciation_embed_dim": 8, "pronunciation_vocab_size": 10}
    | {"shape_embed_dim": 8, "shape_vocab_size": 10},
    "UltrabertConfig": {"prediction_head_size": 24},
    "RwkvConfig": {"rescale_every": 2},
    "XmodConfig": {"default_language": "en_XX"},
    "YoutuConfig": _LATENT,
    "Zamba2Config": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention"]}
    | {"num_key_value_heads": 4, "n_mamba_heads": 4},
    "ZayaConfig": {"num_experts_per_tok": 1},
}


# Causal classes that differ in how they generate: positions, windows, soft-capping, shapes of projections.
GENERATING = (
    *("GPT2LMHeadModel", "LlamaForCausalLM", "Phi3ForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"),
    *("Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "OPTForCausalLM", "GPTNeoXForCausalLM"),
    "BloomForCausalLM",
)
# Encoder-decoders that differ so: learned, sinusoidal and relative positions, of the first block or of each.
GENERATING_FROM_SOURCES = (
    *("MarianMTModel", "BartForConditionalGeneration", "MBartForConditionalGeneration"),
    *(
        "PegasusForConditionalGeneration",
        "BlenderbotForConditionalGeneration",
        "M2M100ForConditionalGeneration",
    ),
    *("T5ForConditionalGeneration", "MT5ForConditionalGeneration", "LongT5ForConditionalGeneration"),
    *(
        "UMT5ForConditionalGeneration",
        "SwitchTransformersForConditionalGeneration",
        "T5GemmaForConditionalGeneration",
    ),
)
# So short that it ends inside the tests' texts.
WINDOW = 6


@dataclass(frozen=True)
class Family:
    """A class of models, and the configuration it is built from."""

    kind: str
    """causal, masked, seq2seq or classification."""
    model: str
    """Name of the class."""
    configuration: str
    """Name of its configuration's class."""

    def __str__(self) -> str:
        return f"{self.kind}-{self.model}-{self.configuration}"

    def build(self) -> Any:
        """A random model; raises what the model's own classes raise."""
        mapping = _MAPPINGS[self.kind]
        config_class = next(c for c in mapping.keys() if c.__name__ == self.configuration)  # noqa: SIM118
        model_class = mapping[config_class]
        values = _small(config_class)
        if self.kind == "causal" and "is_decoder" in config_class().to_dict():
            values["is_decoder"] = True
        config = config_class(**values)
        if config_class.sub_configs.get("text_config") is model_class.config_class:
            config = config.get_text_config()
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in model_class(config).parameters())
        if parameters > PARAMETERS:
            raise ValueError(f"{parameters} parameters")
        torch.manual_seed(0)
        model = model_class(config).eval()
        disturb(model, zlib.crc32(str(self).encode()))
        return model


_MAPPINGS = {
    "causal": MODEL_FOR_CAUSAL_LM_MAPPING,
    "masked": MODEL_FOR_MASKED_LM_MAPPING,
    "seq2seq": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}
KINDS = tuple(_MAPPINGS)
# Parts of names that are not tried: encoder-decoders that count as masked models too; models of speech, and
# models that are made of two others.
_OTHERS = {
    "causal": (),
    "masked": ("ForConditionalGeneration",),
    "seq2seq": ("Audio", "Speech", "ASR", "Asr", "Voxtral", "EncoderDecoder", "Transcribe", "Seamless"),
    "classification": (),
}


def families() -> list[Family]:
    """Every one, in the order of their names."""
    found = {
        Family(kind, mapping[config].__name__, config.__name__)
        for kind, mapping in _MAPPINGS.items()
        for config in mapping.keys()  # noqa: SIM118
        if not any(part in mapping[config].__name__ for part in _OTHERS[kind])
    }
    return sorted(found, key=str)


def generating(family: Family | str) -> Any:
    """A random causal model or encoder-decoder without stop tokens; windows, if it has some, are short."""
    if isinstance(family, str):
        family = next(of for of in families() if of.kind != "masked" and of.model == family)
    model = family.build()
    config = model.config.get_text_config()
    if getattr(config, "sliding_window", None) is not None:
        config.sliding_window = WINDOW
    # Tokens that translation and speech recognition force or suppress, which exits do not know.
    forced = dict.fromkeys(("forced_eos_token_id", "forced_bos_token_id", "begin_suppress_tokens"))
    model.generation_config.update(eos_token_id=None, suppress_tokens=None, **forced)
    if family.kind == "seq2seq":
        # Some classes name tokens beyond a small vocabulary, or ask for beams.
        model.generation_config.update(
            decoder_start_token_id=1, bad_words_ids=None, num_beams=1, max_length=None
        )
    return model


def _small(config_class: Any) -> dict[str, Any]:
    default = config_class()
    given = default.to_dict()
    given |= {key: given.get(name) for key, name in default.attribute_map.items()}
    values = {
        key: value
        for key, value in _SIZES.items()
        if key in given and (key.endswith("_token_id") or given[key] is not None)
    }
    for name in config_class.sub_configs:
        part = getattr(default, name, None)
        if part is not None:
            values[name] = _small(type(part)) | {"model_type": part.model_type}
    values |= _BESIDES.get(config_class.__name__, {})
    return {key: value for key, value in values.items() if value is not None}


def disturb(model: nn.Module, seed: int) -> None:
    """Weights of real sizes: each block changes the state, no norm is near the identity, no bias near 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: torch.Tensor) -> torch.Tensor:
        return torch.randn(parameter.shape, generator=generator)

    def gains(parameter: nn.Parameter) -> torch.Tensor:
        spread = torch.empty(parameter.shape).uniform_(-1.6, 1.6, generator=generator).exp()
        spread[::11] *= 20
        return spread

    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1:
                    parameter.copy_(normal(parameter) / parameter.shape[-1] ** 0.5)
                elif "Norm" in type(module).__name__ and name != "bias":
                    parameter.copy_(gains(parameter))
                elif name == "bias":
                    parameter.copy_(0.3 * normal(parameter))
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.copy_(normal(module.weight))
