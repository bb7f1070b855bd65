"""Trusted and copied exits are what the papers say, and the model stays usable."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from random_exits import always, exiting, padded, prompt, small_llama
from torch import Tensor
from transformers import DynamicCache

from onejump.exits.gates import TopProbability
from onejump.models.head import Head
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.shortcuts.kinds.identity import Identity

# Of states of a random model: about half of the tokens exit, at either level.
GATE = TopProbability({1: 0.15, 2: 0.08})
NEW = 14


@functools.cache
def model() -> Any:
    built = small_llama()
    with torch.no_grad():  # so that confidences are spread
        built.model.norm.weight.mul_(0.1)
    return built


def head() -> Head:
    return exiting(model()).transformer.head


def own(tokens: Tensor, **arguments: Any) -> Tensor:
    return model().generate(tokens, do_sample=False, attention_mask=torch.ones_like(tokens), **arguments)


def leaves(logits: Tensor, level: int) -> bool:
    return bool(logits.double().softmax(-1).max() >= GATE.thresholds[level])


@torch.inference_mode()
def trusted_by_hand(text: list[int]) -> tuple[list[int], list[int], list[bool]]:
    """Early exit where every token's prefix is computed anew, through all blocks."""
    norm_and_head, start = head(), len(text)
    text, levels, agreed = list(text), [], []
    while len(text) < start + NEW:
        out = model()(torch.tensor([text]), output_hidden_states=True, use_cache=False)
        full, level, token = int(out.logits[0, -1].argmax()), 3, None
        for checked in GATE.levels if len(levels) > 0 and len(text) + 2 <= start + NEW else ():
            logits = norm_and_head.logits(out.hidden_states[checked][0, -1:])[0]
            if leaves(logits, checked):
                level, token = checked, int(logits.argmax())
                agreed.append(token == full)
                break
        text.append(full if token is None else token)
        levels.append(level)
    return text[start:], levels, agreed


def test_trusted_exits_are_those_of_an_exact_cache() -> None:
    seen: list[int] = []
    for seed in range(4):
        tokens = prompt(5 + seed, seed)
        expected, levels, agreed = trusted_by_hand(tokens[0].tolist())
        seen += levels
        # A chain has no end but the text's: the last token, which nothing follows, does not exit.
        found = exiting(model(), gate=GATE, mode="trusted", policy=Fixed(NEW)).generate(
            tokens, max_new_tokens=NEW
        )
        assert (found.new_tokens, found.exit_levels) == ([expected], [levels])
        assert found.agreement == sum(agreed) / len(agreed)
        assert found.accepted == found.drafted == len(agreed)
    assert set(seen) == {1, 2, 3}
    assert seen.count(3) > NEW


@torch.inference_mode()
def copied_by_hand(text: list[int]) -> tuple[list[int], list[int]]:
    """Early exit where blocks above an exit get the exited state, a token after another, block by block."""
    norm_and_head, cache, layers = head(), DynamicCache(config=model().config), model().model.layers
    out = model()(torch.tensor([text]), past_key_values=cache)
    new, levels = [int(out.logits[0, -1].argmax())], [3]
    while len(new) < NEW:
        state = model().model.embed_tokens(torch.tensor([[new[-1]]]))
        position = torch.tensor([[len(text) + len(new) - 1]])
        rotary = model().model.rotary_emb(state, position)
        level, token = 3, None
        for block in range(3):
            inside = layers[block](state, position_embeddings=rotary, past_key_values=cache, use_cache=True)
            if token is None:
                state = inside
                logits = norm_and_head.logits(state[0])[0]
                if block + 1 in GATE.levels and leaves(logits, block + 1):
                    level, token = block + 1, int(logits.argmax())
        new.append(int(norm_and_head.logits(state[0])[0].argmax()) if token is None else token)
        levels.append(level)
    return new, levels


def test_copied_exits_put_the_exited_state_into_the_blocks_above() -> None:
    seen: list[int] = []
    for seed in range(4):
        tokens = prompt(5 + seed, seed)
        new, levels = copied_by_hand(tokens[0].tolist())
        found = exiting(model(), gate=GATE, mode="copied").generate(tokens, max_new_tokens=NEW)
        assert (found.new_tokens, found.exit_levels) == ([new], [levels])
        seen += levels
        assert found.agreement is None
    assert set(seen) == {1, 2, 3}
    assert seen.count(3) > NEW


@pytest.mark.parametrize("mode", ["trusted", "copied"])
def test_each_row_of_other_modes_is_its_own_single_run(mode: str) -> None:
    prompts = [prompt(length, length) for length in (9, 2, 5)]
    exits = exiting(model(), gate=GATE, mode=mode, policy=Fixed(NEW))
    tokens, mask = padded(prompts)
    found = exits.generate(tokens, attention_mask=mask, max_new_tokens=NEW)
    for row, of in enumerate(prompts):
        alone = exits.generate(of, max_new_tokens=NEW)
        assert found.new_tokens[row] == alone.new_tokens[0]
        assert found.exit_levels[row] == alone.exit_levels[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_model_brought_to_another_precision_generates(dtype: torch.dtype) -> None:
    built = small_llama()
    exits = exiting(built, gate=GATE)
    built.to(dtype)
    found = exits.generate(prompt(), max_new_tokens=NEW)
    assert len(found.new_tokens[0]) == NEW
    assert found.drafted > 0
    if dtype == torch.float64:
        assert torch.equal(found.sequences, built.generate(prompt(), max_new_tokens=NEW, do_sample=False))


@pytest.mark.parametrize(
    "configuration",
    [{"attn_implementation": "eager"}, {"tie_word_embeddings": True}, {"blocks": 1}],
    ids=str,
)
def test_other_models_generate_their_own_tokens(configuration: dict[str, Any]) -> None:
    built = small_llama(**configuration)
    gate = always(0) if configuration.get("blocks") == 1 else GATE
    tokens, mask = padded([prompt(8, 1), prompt(3, 2)])
    for mode in ("verified", "trusted", "copied"):
        found = exiting(built, gate=gate, mode=mode).generate(tokens, attention_mask=mask, max_new_tokens=NEW)
        assert found.drafted > 0
        if mode == "verified":
            for row, of in enumerate((prompt(8, 1), prompt(3, 2))):
                alone = built.generate(of, max_new_tokens=NEW, do_sample=False)
                assert found.new_tokens[row] == alone[0, of.shape[1] :].tolist()


class Stopper:
    """A streamer and a criterion that raise an error at the fifth token."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error, self.left = error, 5

    def put(self, tokens: Tensor) -> None:
        self(tokens)

    def end(self) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> bool:
        self.left -= 1
        if self.left == 0:
            raise self.error("stop")
        return False


@pytest.mark.parametrize("where", ["streamer", "stopping_criteria"])
def test_an_interrupted_generation_leaves_the_model_as_it_was(where: str) -> None:
    exits = exiting(model(), gate=GATE, policy=Fixed(3))
    before = own(prompt(), max_new_tokens=NEW)

    def given(error: type[BaseException]) -> dict[str, Any]:
        stopper = Stopper(error)
        return {where: stopper if where == "streamer" else [stopper]}

    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error):
            exits.generate(prompt(), max_new_tokens=NEW, **given(error))
    assert torch.equal(own(prompt(), max_new_tokens=NEW), before)
    assert torch.equal(exits.generate(prompt(), max_new_tokens=NEW).sequences, before)


def test_generations_in_threads_do_not_disturb_each_other() -> None:
    exits = exiting(model(), gate=GATE)
    found: dict[int, Tensor] = {}

    def run(seed: int) -> None:
        batch = prompt(6, seed).expand(1 + seed, -1)
        found[seed] = exits.generate(batch, max_new_tokens=NEW).sequences

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for seed, sequences in found.items():
        assert torch.equal(sequences[-1:], own(prompt(6, seed), max_new_tokens=NEW))


def test_a_gate_that_never_exits_costs_no_pass() -> None:
    plain = EarlyExit(model(), None, packed=False).generate(prompt(), max_new_tokens=NEW)
    assert plain.exit_levels == [[3] * NEW]
    assert (plain.full_passes, plain.blocks, plain.drafted) == (NEW - 1, 3, 0)
    assert plain.flops == plain.plain_flops
    for gate in (TopProbability({}), None):
        exits = EarlyExit(model(), Identity(), gate=gate, packed=False)
        never = exits.generate(prompt(), max_new_tokens=NEW)
        assert torch.equal(never.sequences, plain.sequences)
        assert (never.full_passes, never.flops) == (plain.full_passes, plain.flops)


@pytest.mark.parametrize("rows", [1, 3])
def test_the_record_counts_blocks_and_operations_as_one_does_by_hand(rows: int) -> None:
    tokens = prompt(6).expand(rows, -1)
    found = EarlyExit(model(), None, packed=False).generate(tokens, max_new_tokens=NEW)
    # Queries and output, keys and values, three matrices of the MLP; the products of attention; the head.
    block = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    positions = range(6, 6 + NEW - 1)
    by_hand = sum(3 * (block + 2 * 2 * 32 * (position + 1)) + 2 * 32 * 97 for position in positions)
    assert found.flops == found.plain_flops == rows * by_hand
    assert found.blocks == 3
    drafting = exiting(model(), gate=always(1), policy=Fixed(1)).generate(tokens, max_new_tokens=NEW)
    assert [len(levels) for levels in drafting.exit_levels] == [NEW] * rows
    kept = sum(level == 1 for levels in drafting.exit_levels for level in levels)
    assert drafting.accepted == kept
    # A round of one draft runs two tokens through three blocks; the one without a draft has one.
    rounds = rows * (NEW - 1) - kept
    assert drafting.block_passes == 3 * (rounds + drafting.drafted)
    assert drafting.blocks == drafting.block_passes / (rows * (NEW - 1))


class Recorded(TopProbability):
    """A gate that keeps how many earlier tokens it was told, for each check."""

    def __init__(self, thresholds: dict[int, float]) -> None:
        super().__init__(thresholds)
        self.told: list[tuple[int, int]] = []

    def exits(self, level: int, logits: Tensor, earlier: Tensor) -> Tensor:
        self.told.append((level, earlier.shape[1]))
        return super().exits(level, logits, earlier)


def test_only_a_gate_that_looks_back_is_told_the_tokens_of_levels_before() -> None:
    for looks, expected in ((True, {(1, 0), (2, 1)}), (False, {(1, 0), (2, 0)})):
        gate = Recorded({1: 0.15, 2: 0.08})
        gate.looks_back = looks
        exiting(model(), gate=gate).generate(prompt(), max_new_tokens=NEW)
        assert set(gate.told) == expected
