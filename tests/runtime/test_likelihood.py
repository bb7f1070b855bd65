"""The distribution behind each token of a given text: what decoding with exits would have seen there."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from families import VOCABULARY, families

from onejump.exits.gates import Patience, TopProbability
from onejump.models.transformer import Transformer
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.likelihood import exit_logits
from onejump.shortcuts.kinds.identity import Identity

FAMILIES = (
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
    "Gemma2ForCausalLM",
    "OPTForCausalLM",
    "GPTNeoXForCausalLM",
)


@functools.cache
def transformer(name: str) -> Transformer:
    built: Any = next(f for f in families() if f.kind == "causal" and f.model == name).build()
    built.generation_config.eos_token_id = None
    return Transformer(built)


@functools.cache
def half(name: str) -> TopProbability:
    """A gate that about half of the tokens that reach a level can pass."""
    texts = torch.randint(3, VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))
    rows, places = torch.arange(8).repeat_interleave(16), torch.arange(16).repeat(8)
    found = transformer(name).head.logits(transformer(name).states(texts, rows, places)).softmax(-1)
    return TopProbability({level: float(found[level].amax(-1).median()) for level in (1, 2)})


def engine(name: str, mode: str, gate: Any = None) -> EarlyExit:
    gate = gate or half(name)
    # Chains never end before a token stays, so that each exit is the gate's decision.
    return EarlyExit(transformer(name), Identity(), gate=gate, mode=mode, policy=Fixed(1000), packed=False)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mode", ["trusted", "copied"])
def test_a_greedily_generated_text_is_the_most_likely_one_at_the_levels_where_it_exited(
    name: str, mode: str
) -> None:
    exits = engine(name, mode)
    prompts = torch.randint(3, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(1))
    # The last token of all comes from the full model, as nothing would follow its draft.
    found = exits.generate(prompts, max_new_tokens=31)
    # The generated texts with padding behind them, which must not count.
    texts = torch.cat([found.sequences[:, :36], torch.full((3, 4), 5)], 1)
    logits, levels = exit_logits(exits, texts, [6, 6, 6])
    assert logits[:, 5:35].argmax(-1).tolist() == [row[:30] for row in found.new_tokens]
    assert levels[:, 5:35].tolist() == [row[:30] for row in found.exit_levels]
    assert len(set(levels.flatten().tolist())) == 3
    assert set(levels[:, :6].flatten().tolist()) == {3}


@pytest.mark.parametrize("name", FAMILIES)
def test_trusted_exits_are_predicted_from_the_models_own_states(name: str) -> None:
    # Level 0 too: the states that the first block gets.
    exits = engine(name, "trusted", Patience({0: 2, 1: 2, 2: 2}) if name == "LlamaForCausalLM" else None)
    texts = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))
    logits, levels = exit_logits(exits, texts)
    whole = transformer(name)
    full = whole.model(texts, use_cache=False).logits
    states = whole.states(texts, torch.arange(2).repeat_interleave(9), torch.arange(9).repeat(2))
    assert exits.gate is not None
    for index in range(18):
        row, place = divmod(index, 9)
        earlier: list[int] = []
        expected = full[row, place]
        for level in exits.gate.levels:
            # The identity's exit: the model's own head on the early state.
            early = whole.head.logits(states[level, index])
            past = torch.tensor([earlier], dtype=torch.long).reshape(1, -1)
            if bool(exits.gate.exits(level, early[None], past)):
                expected = early
                assert levels[row, place] == level
                break
            earlier.append(int(early.argmax()))
        else:
            assert levels[row, place] == 3
        torch.testing.assert_close(logits[row, place], expected, rtol=1e-4, atol=1e-4)


def test_verified_decoding_and_a_gate_that_never_exits_have_the_full_models_distribution() -> None:
    texts = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))
    name = "LlamaForCausalLM"
    full = transformer(name).model(texts, use_cache=False).logits
    for exits in (engine(name, "verified"), engine(name, "copied", TopProbability({1: 1.0}))):
        logits, levels = exit_logits(exits, texts)
        assert torch.equal(logits, full)
        assert set(levels.flatten().tolist()) == {3}


def test_later_tokens_see_copied_exits() -> None:
    texts = torch.randint(3, VOCABULARY, (1, 9), generator=torch.Generator().manual_seed(4))
    trusted, _ = exit_logits(engine("LlamaForCausalLM", "trusted"), texts)
    copied, levels = exit_logits(engine("LlamaForCausalLM", "copied"), texts)
    first = int((levels[0] < 3).nonzero()[0])
    torch.testing.assert_close(copied[:, : first + 1], trusted[:, : first + 1])
    assert not torch.allclose(copied[:, first + 1 :], trusted[:, first + 1 :], atol=1e-2)


def test_a_text_alone_and_in_a_batch_has_the_same_distributions() -> None:
    drawn = torch.Generator().manual_seed(5)
    long, short = (torch.randint(3, VOCABULARY, (1, n), generator=drawn) for n in (12, 7))
    exits = engine("GPT2LMHeadModel", "copied")
    batch = torch.cat([long, torch.cat([short, short[:, :5]], 1)])
    logits, levels = exit_logits(exits, batch, [2, 3])
    for row, (text, first) in enumerate(((long, 2), (short, 3))):
        alone, at = exit_logits(exits, text, [first])
        torch.testing.assert_close(logits[row, : text.shape[1]], alone[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(levels[row, : text.shape[1]], at[0])
