"""Generation with exits: verified output is the model's own, whatever exits."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from families import GENERATING, VOCABULARY, generating
from random_exits import Drawn
from torch import Tensor

from onejump.exits.gates import TopProbability
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit
from onejump.shortcuts.kinds.identity import Identity


@functools.cache
def model(name: str) -> Any:
    return generating(name)


@functools.cache
def transformer(name: str) -> Transformer:
    return Transformer(model(name))


def own(name: str, prompt: Tensor, **arguments: Any) -> Tensor:
    return model(name).generate(prompt, pad_token_id=0, do_sample=False, **arguments)


# So low that about half of the tokens exit: logits of random models are flat.
GATE = TopProbability({0: 0.05, 1: 0.013, 2: 0.012})


@pytest.mark.parametrize("name", GENERATING)
def test_verified_greedy_output_is_the_models_own(name: str) -> None:
    drawn = torch.Generator().manual_seed(4)
    exits = EarlyExit(transformer(name), Identity(), gate=GATE, packed=False)
    drafted = accepted = 0
    for seed in range(12):
        exits.policy = Drawn(seed, (0, 1, 2))
        prompt = torch.randint(3, VOCABULARY, (1, 1 + seed % 9), generator=drawn)
        found = exits.generate(prompt, max_new_tokens=24)
        assert torch.equal(found.sequences, own(name, prompt, max_new_tokens=24))
        drafted += found.drafted
        accepted += found.accepted
    assert 0 < accepted < drafted


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_of_a_batch_is_its_own_single_run(name: str, side: str) -> None:
    drawn = torch.Generator().manual_seed(5)
    lengths = [7, 1, 12, 4]
    prompts = [torch.randint(3, VOCABULARY, (length,), generator=drawn) for length in lengths]
    padded = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, prompt in enumerate(prompts):
        at = slice(-len(prompt), None) if side == "left" else slice(len(prompt))
        padded[row, at], mask[row, at] = prompt, 1
    exits = EarlyExit(transformer(name), Identity(), gate=GATE, policy=Drawn(6, (1, 2)), packed=False)
    found = exits.generate(padded, attention_mask=mask, max_new_tokens=15)
    for row, prompt in enumerate(prompts):
        alone = own(name, prompt[None], max_new_tokens=15)
        assert found.new_tokens[row] == alone[0, len(prompt) :].tolist()
    assert torch.equal(found.sequences[:, : max(lengths)], padded)
    assert found.accepted > 0


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Gemma2ForCausalLM", "BloomForCausalLM"])
def test_a_sampled_text_does_not_depend_on_what_was_drafted(name: str) -> None:
    prompts = torch.randint(3, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(7))
    arguments: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 16}

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(row) for row in range(3)]

    plain = EarlyExit(transformer(name), None, packed=False)
    expected = plain.generate(prompts, generator=generators(), **arguments).new_tokens
    exits = EarlyExit(transformer(name), Identity(), gate=GATE, packed=False)
    accepted = 0
    for seed in range(4):
        exits.policy = Drawn(seed, (1, 2))
        found = exits.generate(prompts, generator=generators(), **arguments)
        assert found.new_tokens == expected
        accepted += found.accepted
    assert accepted > 0
    alone = exits.generate(prompts[1:2], generator=generators()[1:2], **arguments)
    assert alone.new_tokens == expected[1:2]


# These count positions themselves: RoBERTa and its kin from the padding token's number on, BART from 2 on.
COUNTING = ("RobertaForCausalLM", "XLMRobertaForCausalLM", "BartForCausalLM", "PegasusForCausalLM")


@torch.inference_mode()
def by_logits(name: str, text: list[int], new: int) -> list[int]:
    """Tokens that the model's own logits give, one after the other, without a cache and without padding."""
    text, start = list(text), len(text)
    while len(text) < start + new:
        logits = model(name)(torch.tensor([text]), use_cache=False).logits[0, -1]
        logits[0] = -torch.inf
        text.append(int(logits.argmax()))
    return text[start:]


@pytest.mark.parametrize("name", COUNTING)
def test_positions_that_a_model_counts_itself_are_kept(name: str) -> None:
    drawn = torch.Generator().manual_seed(8)
    prompts = [torch.randint(3, VOCABULARY, (length,), generator=drawn) for length in (5, 1, 9)]
    tokens = torch.zeros(3, 9, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    accepted = 0
    for seed in range(3):
        exits = EarlyExit(
            transformer(name), Identity(), gate=GATE, policy=Drawn(seed, (0, 1, 2)), packed=False
        )
        assert exits.passes.rows_differ
        found = exits.generate(tokens, attention_mask=tokens != 0, max_new_tokens=12, suppress_tokens=[0])
        assert found.new_tokens == [by_logits(name, prompt.tolist(), 12) for prompt in prompts]
        accepted += found.accepted
    assert accepted > 0
