"""Partial passes: tokens that leave at any level and are caught up with give what the whole model gives."""

from __future__ import annotations

import functools
import random
import threading
from typing import Any

import pytest
import torch
from families import VOCABULARY, families
from torch import Tensor

from onejump.base.errors import ModelError
from onejump.models.passes import PartialPasses
from onejump.models.transformer import Transformer

FAMILIES = (
    *("GPT2LMHeadModel", "LlamaForCausalLM", "Phi3ForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"),
    *("Qwen3ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "OPTForCausalLM", "GPTNeoXForCausalLM"),
    # Positions by the distance of tokens (ALiBi); blocks that return a tuple.
    *("BloomForCausalLM", "FalconForCausalLM", "GPTJForCausalLM"),
)
LENGTH = 24
WINDOW = 6


@functools.cache
def passes(name: str) -> PartialPasses:
    torch.manual_seed(1)
    family = next(family for family in families() if family.kind == "causal" and family.model == name)
    model = family.build()
    if getattr(model.config, "sliding_window", None) is not None:
        model.config.sliding_window = WINDOW
    return PartialPasses(Transformer(model))


def exits_and_catches_up(passes: PartialPasses, tokens: Tensor, levels: list[int], cache: Any) -> Tensor:
    """Run tokens one by one, each to a level of its own, and the last one through all blocks.

    A token needs keys and values of all tokens before it: those that left earlier go on beside it.
    """
    blocks = len(passes.transformer.blocks)
    reached = [blocks] * tokens.shape[1]
    states: dict[int, Tensor] = {}
    logits: dict[int, Tensor] = {}
    for newest, exit_level in enumerate([*levels[:-1], blocks]):
        reached[newest] = 0
        at = 0
        while at < exit_level:
            of = [token for token in range(newest + 1) if reached[token] == at]
            to = min([exit_level, *(level for level in reached[: newest + 1] if level > at)])
            began = torch.cat([states[token] for token in of], 1) if at else None
            ends = torch.tensor([of])
            found = passes.run(at, to, tokens[:, of], ends, cache, states=began)
            for index, token in enumerate(of):
                (logits if to == blocks else states)[token] = found[:, index : index + 1]
                reached[token] = to
            at = to
    return torch.cat([logits[token] for token in range(tokens.shape[1])], 1)


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_tokens_that_left_at_any_level_end_as_in_a_run_of_all_blocks(name: str) -> None:
    parts = passes(name)
    blocks = len(parts.transformer.blocks)
    drawn = random.Random(name)
    for _ in range(3):
        tokens = torch.tensor([[drawn.randrange(3, VOCABULARY) for _ in range(LENGTH)]])
        levels = [drawn.randint(1, blocks) for _ in range(LENGTH)]
        cache, plain = parts.cache(), parts.cache()
        logits = exits_and_catches_up(parts, tokens, levels, cache)
        whole = parts.model(tokens, past_key_values=plain, use_cache=True).logits
        torch.testing.assert_close(logits, whole, rtol=1e-3, atol=1e-3 * float(whole.std()))
        for ours, theirs in zip(cache.layers, plain.layers, strict=True):
            assert ours.get_seq_length() == theirs.get_seq_length() == LENGTH
            kept = min(ours.keys.shape[-2], theirs.keys.shape[-2])
            torch.testing.assert_close(
                ours.keys[..., -kept:, :], theirs.keys[..., -kept:, :], rtol=1e-3, atol=1e-4
            )
            torch.testing.assert_close(
                ours.values[..., -kept:, :], theirs.values[..., -kept:, :], rtol=1e-3, atol=1e-4
            )


@torch.inference_mode()
def test_rows_that_are_padded_on_the_left_give_what_each_gives_alone() -> None:
    parts = passes("LlamaForCausalLM")
    one, other = torch.arange(5, 15)[None], torch.arange(20, 26)[None]
    padded = torch.cat([one, torch.nn.functional.pad(other, (4, 0))])
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    cache = parts.cache()
    middle = parts.run(0, 2, padded, positions, cache, mask=mask)
    logits = parts.run(2, 3, padded, positions, cache, states=middle, mask=mask)
    torch.testing.assert_close(logits[:1], parts.model(one).logits, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(logits[1:, 4:], parts.model(other).logits, rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_the_model_itself_stays_as_it_was() -> None:
    parts = passes("GPT2LMHeadModel")
    tokens = torch.arange(5, 12)[None]
    before = parts.model(tokens).logits
    parts.run(0, 1, tokens, torch.arange(7)[None], parts.cache())
    assert torch.equal(parts.model(tokens).logits, before)
    assert [type(block) for block in parts.model.transformer.h] == [type(parts.transformer.blocks[0])] * 3


@torch.inference_mode()
def test_a_model_that_is_brought_to_another_precision_runs_in_it() -> None:
    torch.manual_seed(2)
    family = next(family for family in families() if family.model == "LlamaForCausalLM")
    parts = PartialPasses(Transformer(family.build()))
    tokens, positions = torch.arange(5, 12)[None], torch.arange(7)[None]
    parts.run(0, 2, tokens, positions, parts.cache())
    parts.model.to(torch.float64)
    cache = parts.cache()
    states = parts.run(0, 2, tokens, positions, cache)
    assert states.dtype == torch.float64
    logits = parts.run(2, 3, tokens, positions, cache, states=states)
    torch.testing.assert_close(logits, parts.model(tokens).logits)


def test_threads_that_share_a_model_do_not_disturb_each_other() -> None:
    parts = passes("GPT2LMHeadModel")
    positions = torch.arange(9)[None]
    found: dict[int, Tensor] = {}

    def run(start: int) -> None:
        tokens = torch.arange(start, start + 9)[None]
        with torch.inference_mode():
            for _ in range(20):
                cache = parts.cache()
                states = parts.run(0, 1, tokens, positions, cache)
                found[start] = parts.run(1, 3, tokens, positions, cache, states=states)

    threads = [threading.Thread(target=run, args=(start,)) for start in (5, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        for start, logits in found.items():
            whole = parts.model(torch.arange(start, start + 9)[None]).logits
            torch.testing.assert_close(logits, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "MambaForCausalLM", "JambaForCausalLM"])
def test_a_model_that_does_not_run_in_parts_is_refused(name: str) -> None:
    family = next(family for family in families() if family.model == name)
    transformer = Transformer(family.build())
    with pytest.raises(ModelError, match=rf"^{name}: "):
        PartialPasses(transformer)
