"""Drafts that are recalled from the text: what they are, and that they change no text."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from families import generating
from hypothesis import given
from hypothesis import strategies as st
from random_exits import Drawn, exiting, padded, prompt, small_llama

from onejump.base.errors import OneJumpError
from onejump.runtime.cost_model import CostModel, Fixed, Round, RoundSeen
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.recall import Recall


def searched(tokens: list[int], drafts: list[int], length: int) -> int | None:
    """What followed the last tokens where they stood last, searched from the end."""
    last = [*tokens, *drafts][-length:]
    for start in range(len(tokens) - length - 1, -1, -1):
        if tokens[start : start + length] == last:
            return tokens[start + length]
    return None


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=30),
    st.lists(st.integers(0, 2), max_size=3),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_a_draft_is_what_followed_the_last_tokens_before(
    tokens: list[int], drafts: list[int], length: int, drawn: random.Random
) -> None:
    recall = Recall(length)
    end = 0
    while end < len(tokens):
        end = min(len(tokens), end + drawn.randint(1, 4))
        assert recall.draft(tokens[:end], drafts) == searched(tokens[:end], drafts, length)


NAMES = ("LlamaForCausalLM", "GPT2LMHeadModel", "BloomForCausalLM", "Gemma2ForCausalLM")


@pytest.mark.parametrize("name", NAMES)
def test_recalled_drafts_leave_greedy_text_as_it_is(name: str) -> None:
    model = generating(name)
    kept = 0
    for seed in range(6):
        text = prompt(4 + seed, seed).repeat(1, 2)
        exits = exiting(model, policy=Drawn(seed, (1,)), recall=1 + seed % 3)
        found = exits.generate(text, max_new_tokens=20)
        own = model.generate(text, pad_token_id=0, do_sample=False, max_new_tokens=20)
        assert torch.equal(found.sequences, own)
        assert found.recalled_kept <= found.recalled <= found.drafted
        kept += found.recalled_kept
    assert kept > 0


@pytest.mark.parametrize("jump", [True, False])
def test_rows_of_a_batch_recall_from_their_own_text(jump: bool) -> None:
    model = small_llama()
    tokens, mask = padded([prompt(5, 1).repeat(1, 2), prompt(3, 2).repeat(1, 2), prompt(1, 3)])
    policy = Fixed(2 * jump, recalled=2)
    exits = exiting(model, policy=policy, recall=2)
    if not jump:
        exits = EarlyExit(model, None, policy=policy, recall=2, packed=False)
    together = exits.generate(tokens, attention_mask=mask, max_new_tokens=24)
    alone = [
        exits.generate(row[seen.bool()][None], max_new_tokens=24)
        for row, seen in zip(tokens, mask, strict=True)
    ]
    assert together.new_tokens == [of.new_tokens[0] for of in alone]
    assert together.recalled == sum(of.recalled for of in alone) > 0
    assert together.recalled_kept == sum(of.recalled_kept for of in alone) > 0
    assert together.full_passes < 23 * 3


def test_recalled_drafts_leave_sampled_text_as_it_is() -> None:
    model, text = small_llama(), prompt(6, 4).repeat(1, 2)
    arguments: dict[str, Any] = {"do_sample": True, "temperature": 0.3, "max_new_tokens": 24}

    def sampled(exits: EarlyExit) -> Any:
        return exits.generate(text, generator=torch.Generator().manual_seed(9), **arguments)

    plain = sampled(EarlyExit(model, None, packed=False))
    found = sampled(exiting(model, policy=Drawn(3, (1,)), recall=1))
    assert found.new_tokens == plain.new_tokens
    assert found.recalled > 0


def test_a_text_that_repeats_itself_needs_fewer_passes() -> None:
    """A model that copies: each token is followed by the one with the next number, 3 to 7 in a circle."""
    model = small_llama()
    follow = {number: 3 + (number - 2) % 5 for number in range(3, 8)}

    embed, head = model.get_input_embeddings().weight.data, model.lm_head.weight.data
    for block in model.model.layers:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    head.zero_()
    for number, following in follow.items():
        head[following] = embed[number]
    embed[3:8] *= 10
    exits = EarlyExit(model, None, recall=2, policy=Fixed(0, recalled=3), packed=False)
    found = exits.generate(torch.tensor([[3, 4, 5, 6, 7, 3, 4]]), max_new_tokens=25)
    assert found.new_tokens[0] == [5, 6, 7, 3, 4] * 5
    assert found.recalled_kept == found.recalled
    assert found.full_passes == 24 / 4
    assert found.exit_levels[0].count(0) == 18


def learned(policy: CostModel, kept: float, rounds: int = 200, more: float = 0.1) -> list[Round]:
    """Rounds in which the text always has drafts; a token more in a pass costs a part of the pass."""
    drawn = random.Random(0)
    plans = []
    for _ in range(rounds):
        plan = policy.next_round()
        plans.append(plan)
        accepted = 0
        while accepted < plan.recalled and drawn.random() < kept:
            accepted += 1
        count = plan.recalled
        agreed = (True,) * accepted + (False,) * (accepted < count)
        seconds = 1 + more * count
        policy.learn(
            RoundSeen(plan, count, accepted, accepted + 1, (0,) * count, agreed, seconds, (True,) * count)
        )
    return plans


def test_the_cost_model_recalls_as_far_as_it_pays() -> None:
    asked = [plan.recalled for plan in learned(CostModel((), 30, most_recalled=4), 0.9)]
    assert asked[-20:].count(4) > 15  # 1 + .9 + .81 + .73 + .66 tokens for 1.4 passes
    # One draft gives 1.3 tokens for 1.1 passes, two of them 1.39 for 1.2, which is as much
    asked = [plan.recalled for plan in learned(CostModel((), 30, most_recalled=4), 0.3)]
    assert set(asked[-20:]) <= {1, 2}
    asked = [plan.recalled for plan in learned(CostModel((), 30, most_recalled=4), 0.05)]
    assert sum(recalled > 0 for recalled in asked[50:]) < 10
    assert all(plan == Round(0) for plan in learned(CostModel((), 30), 0.9))


@pytest.mark.parametrize("mode", ["trusted", "copied"])
def test_modes_that_keep_all_drafts_recall_none(mode: str) -> None:
    with pytest.raises(
        OneJumpError, match=f"recall: 2 given with the mode {mode}, it is accepted with verif"
    ):
        EarlyExit(small_llama(), None, mode=mode, recall=2)


@pytest.mark.parametrize("recall", [-1, True, 1.5, "2"])
def test_a_length_that_cannot_be_is_refused(recall: Any) -> None:
    with pytest.raises(OneJumpError, match=f"recall: {recall!r} given, a whole number from 0 on is accepted"):
        EarlyExit(small_llama(), None, recall=recall)
