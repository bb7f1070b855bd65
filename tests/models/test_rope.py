"""Rotary positions that depend on a batch's longest sequence: no state depends on what else is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from test_transformer import GROUPED

from onejump.base.errors import ModelError
from onejump.data.shard_writer import StoreOptions
from onejump.data.store import ActivationStore
from onejump.experiments.sub_modules import evaluate_part
from onejump.models.activations import extract
from onejump.models.parts import Part
from onejump.models.prompts import Prompt, batches, pad
from onejump.models.rope import original_context
from onejump.models.transformer import Transformer
from onejump.shortcuts.kinds.jtc import JTC

CONTEXT = 16
SIZES = GROUPED | {"initializer_range": 0.2, "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [1.5, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": CONTEXT,
    "rope_theta": 10000.0,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
CONFIGS: dict[str, Callable[[], Any]] = {
    "longrope": lambda: hf.Phi3Config(
        **SIZES,
        pad_token_id=0,
        rope_parameters=LONG,
        max_position_embeddings=64,
        original_max_position_embeddings=CONTEXT,
    ),
    "longrope-llama": lambda: hf.LlamaConfig(**SIZES, rope_parameters=LONG, max_position_embeddings=64),
    "dynamic": lambda: hf.LlamaConfig(**SIZES, rope_parameters=DYNAMIC, max_position_embeddings=CONTEXT),
    "by-layer": lambda: hf.Gemma3TextConfig(
        **(SIZES | {"head_dim": 8, "sliding_window": 64, "max_position_embeddings": CONTEXT}),
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": DYNAMIC,
        },
    ),
}


def model_of(name: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(hf.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval())


def prompts_of(lengths: tuple[int, ...]) -> list[Prompt]:
    generator = np.random.default_rng(0)
    made = [(i, generator.integers(1, 97, size=60).tolist()[:length]) for i, length in enumerate(lengths)]
    return [Prompt(i, tokens, np.array([len(tokens) // 2, len(tokens) - 1])) for i, tokens in made]


@pytest.mark.parametrize("name", CONFIGS)
def test_states_beyond_the_original_context_do_not_depend_on_their_neighbours(name: str) -> None:
    transformer = model_of(name)
    assert transformer.context == CONTEXT
    # As long as the context, too: dynamic scaling would keep the frequencies of longer ones for it.
    prompts = prompts_of((40, 39, 38, 17, 16, 16, 15, 5))
    together = {}
    for batch in batches(prompts, 1000, transformer.context):
        states = transformer.states(*pad(batch))
        for column, row in enumerate(pad(batch)[1].tolist()):
            together.setdefault(batch[row].sentence, []).append(states[:, column])
    for prompt in reversed(prompts):
        alone = model_of(name).states(*pad([prompt]))
        torch.testing.assert_close(
            torch.stack(together[prompt.sentence], 1), alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max())
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_context_is_where_the_model_itself_changes(name: str) -> None:
    """Else the tests above would show nothing."""
    model = model_of(name).model
    tokens = torch.arange(1, 1 + CONTEXT + 1)[None]

    def logits(length: int) -> torch.Tensor:
        model_here = model_of(name).model if length > CONTEXT else model
        with torch.inference_mode():
            return model_here(tokens[:, :length]).logits[0, 8]

    torch.testing.assert_close(logits(CONTEXT), logits(9), rtol=1e-4, atol=1e-4)
    assert (logits(CONTEXT + 1) - logits(9)).abs().max() > 1e-4


def test_several_sequences_beyond_the_context_are_refused() -> None:
    transformer = model_of("dynamic")
    with pytest.raises(ModelError, match=r"2 sequences of up to 20 tokens given; beyond .* of 16 tokens"):
        transformer.states(*pad(prompts_of((20, 8))))


@pytest.mark.parametrize("name", ["longrope", "dynamic"])
def test_extraction_and_parts_run_long_prompts_alone(name: str, tmp_path: Path) -> None:
    transformer = model_of(name)
    prompts = prompts_of((40, 39, 17, 16, 5))
    found = []
    for batch_tokens in (1, 1000):
        path = tmp_path / f"{batch_tokens}.zarr"
        extract(
            transformer, prompts, path, batch_tokens=batch_tokens, top_k=3, store=StoreOptions(keepbits=None)
        )
        found.append(ActivationStore([path]).shard(0))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)
    maps = [JTC(0.1 * torch.eye(32)) for _ in range(3)]
    part = Part(transformer, "feed-forward")
    tables = [evaluate_part(part, maps, transformer, prompts, [1], batch_tokens=n) for n in (1, 1000)]
    np.testing.assert_allclose(tables[0]["value"], tables[1]["value"], rtol=1e-3, atol=1e-5)


def test_other_models_have_no_such_limit() -> None:
    yarn = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 8}
    for config in (
        hf.LlamaConfig(**GROUPED),
        hf.GPT2Config(),
        hf.LlamaConfig(**GROUPED, rope_parameters=yarn),
    ):
        assert original_context(config) is None
