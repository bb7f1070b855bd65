"""Partial passes: tokens that leave at any level and are caught up with give what the whole model gives."""

from __future__ import annotations

import functools
import inspect
import random
import threading
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from families import GENERATING, VOCABULARY, families, generating
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.integrations import sdpa_attention

from onejump.base.errors import ModelError
from onejump.models.passes import PartialPasses
from onejump.models.row_cache import Place
from onejump.models.transformer import Transformer

# Besides: blocks that return a tuple.
FAMILIES = (*GENERATING, "FalconForCausalLM", "GPTJForCausalLM")
LENGTH = 24


@functools.cache
def passes(name: str) -> PartialPasses:
    return PartialPasses(Transformer(generating(name)))


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
            found = passes.run(at, to, tokens[:, of], Place(of[0]), cache, states=began)
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
        cache, plain = parts.cache(), DynamicCache(config=parts.model.config)
        logits = exits_and_catches_up(parts, tokens, levels, cache)
        whole = parts.model(tokens, past_key_values=plain, use_cache=True).logits
        torch.testing.assert_close(logits, whole, rtol=1e-3, atol=1e-3 * float(whole.std()))
        for ours, theirs in zip(cache.layers, plain.layers, strict=True):
            # A block with a window keeps the last keys only; a row of ours keeps all.
            kept = theirs.keys.shape[-2]
            for mine, own in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
                torch.testing.assert_close(mine[:, :, LENGTH - kept : LENGTH], own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_rows_of_different_lengths_give_what_each_gives_alone(name: str) -> None:
    parts = passes(name)
    assert parts.rows_differ == (name != "BloomForCausalLM")
    if not parts.rows_differ:
        return
    drawn = torch.Generator().manual_seed(3)
    lengths = [LENGTH, 9, LENGTH - 5]
    tokens = torch.randint(3, VOCABULARY, (3, LENGTH), generator=drawn)
    blocks, cache = parts.blocks, parts.cache(3, 4)
    columns = torch.arange(LENGTH).expand(3, -1)
    place = Place(0, columns=columns, positions=columns, length=LENGTH)
    middle = parts.run(0, 1, tokens, place, cache)
    logits = parts.run(1, blocks, tokens, place, cache, states=middle)
    for row, length in enumerate(lengths):
        alone = parts.model(tokens[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(logits[row, :length], alone, rtol=1e-3, atol=1e-4)
    # Some rows go on alone, each behind its own last token, over columns that padding was written to.
    more = torch.randint(3, VOCABULARY, (2, 2), generator=drawn)
    behind = torch.tensor([[9, 10], [LENGTH - 5, LENGTH - 4]])
    place = Place(0, columns=behind, positions=behind, length=LENGTH, rows=torch.tensor([1, 2]))
    logits = parts.run(0, blocks, more, place, cache)
    for index, row in enumerate((1, 2)):
        sequence = torch.cat([tokens[row, : lengths[row]], more[index]])[None]
        whole = parts.model(sequence).logits[0, -2:]
        torch.testing.assert_close(logits[index], whole, rtol=1e-3, atol=1e-3 * float(whole.std()))


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "BloomForCausalLM"])
def test_siblings_do_not_see_each_other(name: str) -> None:
    parts = passes(name)
    tokens = torch.arange(5, 15)[None]
    cache, blocks = parts.cache(), parts.blocks
    parts.run(0, blocks, tokens, Place(0), cache)
    # Two candidates for position 10, and a child of the second at position 11.
    candidates = torch.tensor([[40, 50, 60]])
    positions = torch.tensor([[10, 10, 11]])
    visible = torch.ones(1, 3, 13, dtype=torch.bool)
    visible[0, :, 10:] = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)
    key_positions = torch.cat([torch.arange(10), positions[0]])[None]
    place = Place(
        10,
        columns=torch.tensor([[10, 11, 12]]),
        positions=positions,
        key_positions=key_positions,
        visible=visible,
        length=13,
    )
    logits = parts.run(0, blocks, candidates, place, cache)
    for index, branch in enumerate(([40], [50], [50, 60])):
        alone = parts.model(torch.cat([tokens, torch.tensor([branch])], 1)).logits[0, -1]
        torch.testing.assert_close(logits[0, index], alone, rtol=1e-3, atol=1e-4)
    # The second branch is kept: its tokens move to the columns of their positions.
    rows = torch.zeros(2, dtype=torch.long)
    cache.move(rows, torch.tensor([11, 12]), torch.tensor([10, 11]))
    logits = parts.run(0, blocks, torch.tensor([[70]]), Place(12), cache)
    sequence = torch.cat([tokens, torch.tensor([[50, 60, 70]])], 1)
    torch.testing.assert_close(logits[0, -1], parts.model(sequence).logits[0, -1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_a_pass_for_keys_only_keeps_those_of_the_states_given(name: str) -> None:
    parts = passes(name)
    tokens, blocks = torch.arange(5, 12)[None], parts.blocks
    cache, expected = parts.cache(), parts.cache()
    states = parts.run(0, 1, tokens, Place(0), cache)
    assert torch.equal(parts.run(1, blocks, tokens, Place(0), cache, states=states, keys_only=True), states)
    for level in range(1, blocks):
        parts.run(level, level + 1, tokens, Place(0), expected, states=states)
    for ours, theirs in zip(cache.layers[1:], expected.layers[1:], strict=True):
        assert torch.equal(ours.keys[:, :, :7], theirs.keys[:, :, :7])
        assert torch.equal(ours.values[:, :, :7], theirs.values[:, :, :7])


@torch.inference_mode()
def test_the_model_itself_stays_as_it_was() -> None:
    parts = passes("GPT2LMHeadModel")
    tokens = torch.arange(5, 12)[None]
    before = parts.model(tokens).logits
    parts.run(0, 1, tokens, Place(0), parts.cache())
    assert torch.equal(parts.model(tokens).logits, before)
    assert [type(block) for block in parts.model.transformer.h] == [type(parts.transformer.blocks[0])] * 3


@torch.inference_mode()
def test_a_model_that_is_brought_to_another_precision_runs_in_it() -> None:
    torch.manual_seed(2)
    family = next(family for family in families() if family.model == "LlamaForCausalLM")
    parts = PartialPasses(Transformer(family.build()))
    tokens = torch.arange(5, 12)[None]
    parts.run(0, 2, tokens, Place(0), parts.cache())
    parts.model.to(torch.float64)
    cache = parts.cache()
    states = parts.run(0, 2, tokens, Place(0), cache)
    assert states.dtype == torch.float64
    logits = parts.run(2, 3, tokens, Place(0), cache, states=states)
    torch.testing.assert_close(logits, parts.model(tokens).logits)


def test_threads_that_share_a_model_do_not_disturb_each_other() -> None:
    parts = passes("GPT2LMHeadModel")
    found: dict[int, Tensor] = {}

    def run(start: int) -> None:
        tokens = torch.arange(start, start + 9)[None]
        with torch.inference_mode():
            for _ in range(20):
                cache = parts.cache()
                states = parts.run(0, 1, tokens, Place(0), cache)
                found[start] = parts.run(1, 3, tokens, Place(0), cache, states=states)

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


@pytest.fixture
def llama() -> Any:
    return next(family for family in families() if family.model == "LlamaForCausalLM").build()


@torch.inference_mode()
def _middle(parts: PartialPasses) -> tuple[Tensor, Tensor]:
    """Logits of a pass up to level 1 and one behind it, and those of the model."""
    tokens, cache = torch.arange(5, 12)[None], parts.cache()
    states = parts.run(0, 1, tokens, Place(0), cache)
    return parts.run(1, 3, tokens, Place(0), cache, states=states), parts.model(tokens).logits


def test_modules_with_hooks_of_accelerate_run_in_parts(llama: Any) -> None:
    for module in llama.modules():
        add_hook_to_module(module, ModelHook())
    ran: list[nn.Module] = []
    llama.model.layers[0].register_forward_hook(lambda block, _, __: ran.append(block))
    parts = PartialPasses(Transformer(llama))
    found, expected = _middle(parts)
    torch.testing.assert_close(found, expected)
    tokens, cache = torch.arange(5, 12)[None], parts.cache()
    with torch.inference_mode():
        states = parts.run(0, 1, tokens, Place(0), cache)
        ran.clear()
        parts.run(1, 3, tokens, Place(0), cache, states=states)
    assert not ran


def test_a_forward_that_cannot_be_given_other_blocks_is_refused(llama: Any) -> None:
    whole = llama.model.forward
    llama.model.forward = lambda *arguments, **named: whole(*arguments, **named)
    transformer = Transformer(llama)
    with pytest.raises(ModelError, match="its code ran past its blocks"):
        PartialPasses(transformer)


def test_a_model_in_double_precision_runs_in_parts(llama: Any) -> None:
    found, expected = _middle(PartialPasses(Transformer(llama.to(torch.float64))))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(
    "TRANSFORMERS_SDPA_FORCE_GQA" not in inspect.getsource(sdpa_attention),
    reason="this version of transformers always copies them",
)
@torch.inference_mode()
def test_keys_that_query_heads_share_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of the tests has 4 query heads and 2 of keys; a pass of several tokens has a mask."""
    seen = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def recorded(query: Tensor, key: Tensor, *others: Any, **named: Any) -> Tensor:
        seen.append((query.shape[1], key.shape[1], named.get("attn_mask") is not None))
        return attention(query, key, *others, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    parts = passes("LlamaForCausalLM")
    cache, tokens = parts.cache(), torch.arange(3, 12)[None]
    parts.run(0, parts.blocks, tokens[:, :6], Place(0), cache)
    seen.clear()
    parts.run(0, parts.blocks, tokens[:, 6:], Place(6), cache)
    assert seen == [(4, 2, True)] * parts.blocks
