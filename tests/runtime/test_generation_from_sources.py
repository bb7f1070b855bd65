"""Encoder-decoders that generate with exits: verified texts are the model's own, others what papers say."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from families import GENERATING_FROM_SOURCES, VOCABULARY, generating
from random_exits import Drawn, padded
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from onejump.base.errors import OneJumpError
from onejump.exits.gates import TopProbability
from onejump.models.transformer import Transformer
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.shortcuts.kinds.identity import Identity

# So low that about half of the tokens exit: logits of random models are flat.
GATE = TopProbability({0: 0.05, 1: 0.013, 2: 0.012})
ONE_BY_ONE = ("UMT5ForConditionalGeneration",)
NEW = 14


@functools.cache
def model(name: str) -> Any:
    return generating(name)


@functools.cache
def transformer(name: str) -> Transformer:
    return Transformer(model(name))


def exiting(name: str, **options: Any) -> EarlyExit:
    return EarlyExit(transformer(name), Identity(), packed=False, **({"gate": GATE} | options))


def source(length: int, seed: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


def own(name: str, tokens: Tensor, **arguments: Any) -> Tensor:
    options = {"pad_token_id": 0, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    found: Tensor = model(name).generate(tokens, **options, **arguments)
    return found


@pytest.mark.parametrize("name", GENERATING_FROM_SOURCES)
def test_verified_greedy_output_is_the_models_own(name: str) -> None:
    exits = exiting(name)
    drafted = accepted = 0
    for seed in range(3):
        exits.policy = Drawn(seed, (0, 1, 2))
        tokens = source(1 + 4 * seed, seed)
        found = exits.generate(tokens, max_new_tokens=20)
        assert torch.equal(found.sequences, own(name, tokens, max_new_tokens=20))
        drafted += found.drafted
        accepted += found.accepted
    assert 0 < accepted < drafted


class EvenTokens(TopProbability):
    """Lets tokens exit whose prediction has an even number: some rows of a batch, at any level."""

    def exits(self, level: int, logits: Tensor, earlier: Tensor) -> Tensor:
        return logits.argmax(-1) % 2 == 0


@pytest.mark.parametrize("mode", ["verified", "trusted", "copied"])
@pytest.mark.parametrize("name", GENERATING_FROM_SOURCES)
def test_each_row_of_a_batch_is_its_own_single_run(name: str, mode: str) -> None:
    sources = [source(length, length) for length in (7, 1, 12, 4)]
    tokens, mask = padded(sources, "right" if mode == "copied" else "left")
    # Where a row is one of others, a policy that draws would not draw the same for it.
    policy = Drawn(6, (0, 1, 2)) if mode == "verified" else Fixed(3)
    gate = GATE if mode == "verified" else EvenTokens(GATE.thresholds)
    exits = exiting(name, gate=gate, mode=mode, policy=policy, recall=int(mode == "verified"))
    assert exits.passes.rows_differ == (name not in ONE_BY_ONE)
    found = exits.generate(tokens, attention_mask=mask, max_new_tokens=NEW)
    assert found.sequences[:, 0].tolist() == [1] * 4
    for row, of in enumerate(sources):
        if mode == "verified":
            assert found.new_tokens[row] == own(name, of, max_new_tokens=NEW)[0, 1:].tolist()
        else:
            alone = exits.generate(of, max_new_tokens=NEW)
            assert found.new_tokens[row] == alone.new_tokens[0]
            assert found.exit_levels[row] == alone.exit_levels[0]
    assert found.accepted > 0


def test_each_row_of_a_batch_is_held_to_its_own_source() -> None:
    asked = {"encoder_repetition_penalty": 3.0}
    name, sources = "MarianMTModel", [source(6, 1), source(9, 2), source(4, 3)]
    tokens, mask = padded(sources, "right")
    arguments = {"attention_mask": mask, "max_new_tokens": NEW}
    found = exiting(name).generate(tokens, **arguments, **asked)
    free = exiting(name).generate(tokens, **arguments)
    for row, of in enumerate(sources):
        assert found.new_tokens[row] == own(name, of, max_new_tokens=NEW, **asked)[0, 1:].tolist()
    assert found.new_tokens != free.new_tokens


@functools.cache
def some_leave(name: str) -> TopProbability:
    """A gate that lets about half of a random text's tokens exit at each level; none has to be certain."""
    text = torch.cat([torch.tensor([[1]]), source(40, 9)], 1)
    with torch.inference_mode():
        out = model(name)(source(6, 8), decoder_input_ids=text, output_hidden_states=True)
    head = transformer(name).head
    tops = {level: head.logits(out.decoder_hidden_states[level][0]).softmax(-1).amax(-1) for level in (1, 2)}
    return TopProbability({level: min(float(top.median()), 0.95) for level, top in tops.items()})


def leaves(name: str, logits: Tensor, level: int) -> bool:
    return bool(logits.double().softmax(-1).max() >= some_leave(name).thresholds[level])


NAMES = ("MarianMTModel", "T5ForConditionalGeneration")


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_trusted_exits_are_those_of_an_exact_cache(name: str) -> None:
    """Each token's prefix is computed anew, through all blocks."""
    head = transformer(name).head
    seen: list[int] = []
    for seed in range(3):
        agreed: list[bool] = []
        tokens, text = source(5 + seed, seed), [1]
        levels: list[int] = []
        while len(levels) < NEW:
            out = model(name)(tokens, decoder_input_ids=torch.tensor([text]), output_hidden_states=True)
            full, level, token = int(out.logits[0, -1].argmax()), 3, None
            for checked in (1, 2) if 0 < len(levels) < NEW - 1 else ():
                logits = head.logits(out.decoder_hidden_states[checked][0, -1:])[0]
                if leaves(name, logits, checked):
                    level, token = checked, int(logits.argmax())
                    agreed.append(token == full)
                    break
            text.append(full if token is None else token)
            levels.append(level)
        exits = exiting(name, gate=some_leave(name), mode="trusted", policy=Fixed(NEW))
        found = exits.generate(tokens, max_new_tokens=NEW)
        assert (found.new_tokens, found.exit_levels) == ([text[1:]], [levels])
        assert found.agreement == (sum(agreed) / len(agreed) if agreed else None)
        seen += levels
    assert {1, 3} <= set(seen)


def step(name: str, block: int, state: Tensor, cache: EncoderDecoderCache, encoded: Tensor) -> Tensor:
    """One token through one block, by the block's own code."""
    decoder = model(name).get_decoder()
    if name == "MarianMTModel":
        found: Tensor = decoder.layers[block](state, None, encoded, past_key_values=cache)
        return found
    past = cache.self_attention_cache.get_seq_length(block)
    first = decoder.block[0].layer[0].SelfAttention
    bias = first.compute_bias(1, past + 1, past_seen_tokens=past)
    made: Tensor = decoder.block[block](state, None, bias, encoded, past_key_values=cache)[0]
    return made


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_copied_exits_put_the_exited_state_into_the_blocks_above(name: str) -> None:
    """A token after another, block by block, with transformers' own caches."""
    built, head = model(name), transformer(name).head
    seen: list[int] = []
    decoder = built.get_decoder()
    for seed in range(3):
        tokens = source(5 + seed, seed)
        encoded = built.get_encoder()(tokens)[0]
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        text = [1]
        levels: list[int] = []
        while len(levels) < NEW:
            state = decoder.embed_tokens(torch.tensor([text[-1:]]))
            if name == "MarianMTModel":
                state = state * decoder.embed_scale + decoder.embed_positions((1, 1), len(text) - 1)
            level, token = 3, None
            for block in range(3):
                logits = head.logits(state[0])[0]
                if token is None and levels and block in (1, 2) and leaves(name, logits, block):
                    level, token = block, int(logits.argmax())
                inside = step(name, block, state, cache, encoded)
                state = inside if token is None else state
            text.append(int(head.logits(state[0])[0].argmax()) if token is None else token)
            levels.append(level)
        exits = exiting(name, gate=some_leave(name), mode="copied")
        found = exits.generate(tokens, max_new_tokens=NEW)
        assert (found.new_tokens, found.exit_levels) == ([text[1:]], [levels])
        seen += levels
    assert {1, 3} <= set(seen)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "forced": {"forced_bos_token_id": 9, "forced_eos_token_id": 8},
    "start": {"decoder_start_token_id": 5, "repetition_penalty": 1.3},
    "lengths": {"max_length": 9, "min_length": 5, "eos_token_id": [*range(3, 40)], "max_new_tokens": None},
    "n-grams": {"no_repeat_ngram_size": 2, "bad_words_ids": [[3], [8, 9]]},
    "source": {
        "encoder_repetition_penalty": 1.5,
        "encoder_no_repeat_ngram_size": 1,
        "repetition_penalty": 1.2,
    },
}


@pytest.mark.parametrize("named", ARGUMENTS)
def test_arguments_mean_what_they_mean_to_the_model(named: str) -> None:
    arguments = {"max_new_tokens": NEW} | ARGUMENTS[named]
    for name in NAMES:
        for seed in range(2):
            tokens = source(6, seed)
            found = exiting(name, policy=Drawn(seed, (0, 1, 2))).generate(tokens, **arguments)
            assert torch.equal(found.sequences, own(name, tokens, **arguments))


@pytest.mark.parametrize("name", NAMES)
def test_packed_weights_write_the_same_texts(name: str) -> None:
    exits = EarlyExit(transformer(name), Identity(), gate=GATE, packed=True)
    assert exits.transformer is not transformer(name)
    for seed in range(2):
        tokens = source(6, seed)
        assert torch.equal(
            exits.generate(tokens, max_new_tokens=NEW).sequences, own(name, tokens, max_new_tokens=NEW)
        )


def test_a_sampled_text_does_not_depend_on_what_was_drafted() -> None:
    tokens = source(6, 1)
    arguments: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "max_new_tokens": NEW}
    plain = EarlyExit(transformer("MarianMTModel"), None, packed=False)
    expected = plain.generate(tokens, generator=torch.Generator().manual_seed(1), **arguments)
    for seed in range(3):
        exits = exiting("MarianMTModel", policy=Drawn(seed, (1, 2)))
        found = exits.generate(tokens, generator=torch.Generator().manual_seed(1), **arguments)
        assert found.new_tokens == expected.new_tokens


def test_long_texts_grow_beyond_the_first_table_of_positions() -> None:
    """T5's first block makes a table for all others; it is made anew when texts outgrow it."""
    tokens, name = source(6, 1), "T5ForConditionalGeneration"
    found = exiting(name).generate(tokens, max_new_tokens=150)
    assert torch.equal(found.sequences, own(name, tokens, max_new_tokens=150))
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    both = exiting(name).generate(tokens.repeat(2, 1), attention_mask=mask, max_new_tokens=150)
    assert both.new_tokens[0] == found.new_tokens[0]
    assert both.new_tokens[1] == own(name, tokens[:, :4], max_new_tokens=150)[0, 1:].tolist()


@pytest.mark.parametrize(
    ("given", "arguments", "said"),
    [
        (6, {"num_beams": 4}, "num_beams: 4 given, or asked for by the model's generation configuration"),
        (6, {"decoder_start_token_id": [1, 2]}, "decoder_start_token_id: [1, 2] given, the one token"),
        (6, {"penalty_alpha": 0.6}, "penalty_alpha: 0.6 given, generation with exits does not know it"),
        (65, {}, "a source of 65 tokens given, the encoder has 64 positions"),
        (6, {"max_new_tokens": 65}, "a prompt of 1 tokens and 65 new ones given, the model has 64 positions"),
    ],
)
def test_what_exits_cannot_be_made_of_is_refused_in_one_line(
    given: int, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(OneJumpError) as error:
        exiting("MarianMTModel").generate(source(given, 0), **({"max_new_tokens": 4} | arguments))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_record_counts_attention_to_the_source() -> None:
    found = EarlyExit(transformer("MarianMTModel"), None, packed=False).generate(
        source(6, 0), max_new_tokens=NEW
    )
    # Self-attention, query and output of the attention to the source, the feed-forward network; the head.
    block = 2 * (4 * 32 * 32 + 2 * 32 * 32 + 2 * 32 * 48)
    by_hand = sum(
        3 * (block + 2 * 2 * 32 * (position + 1 + 6)) + 2 * 32 * VOCABULARY for position in range(1, NEW)
    )
    assert found.flops == found.plain_flops == by_hand
    assert found.blocks == 3
