"""The arguments of generation with exits mean what they mean to `model.generate`, or are refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from families import VOCABULARY, disturb
from random_exits import Drawn, always, exiting, padded, prompt, small_llama
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
)

from onejump.base.errors import OneJumpError
from onejump.exits.gates import Entropy, Margin, Patience, TopProbability
from onejump.runtime.cost_model import CostModel, Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.record import Generated
from onejump.shortcuts.kinds.identity import Identity

MANY_STOPS = list(range(0, VOCABULARY, 6))
GATES = (
    TopProbability({1: 0.013, 2: 0.012}),
    Margin({1: 0.002, 2: 0.001}),
    Entropy({1: 0.012, 2: 0.01}),
    Patience({0: 2, 1: 2, 2: 2}),
    always(2),
)


@functools.cache
def model() -> Any:
    return small_llama()


def own(tokens: Tensor, **arguments: Any) -> Tensor:
    return model().generate(
        tokens, attention_mask=torch.ones_like(tokens), **{"do_sample": False} | arguments
    )


ARGUMENTS: dict[str, dict[str, Any]] = {
    "one token": {"max_new_tokens": 1},
    "two tokens": {"max_new_tokens": 2},
    "nothing": {},
    "max_length": {"max_length": 25},
    "stop token": {"eos_token_id": 5, "max_new_tokens": 40},
    "stop tokens": {"eos_token_id": MANY_STOPS, "max_new_tokens": 40},
    "min_new_tokens": {"eos_token_id": MANY_STOPS, "min_new_tokens": 9, "max_new_tokens": 40},
    "min_length": {"eos_token_id": MANY_STOPS, "min_length": 15, "max_new_tokens": 40},
    "repetition_penalty": {"repetition_penalty": 1.4, "max_new_tokens": 30},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2, "max_new_tokens": 30},
    "bad words": {"bad_words_ids": [[3], [8, 9], *([token, 20] for token in range(3, 60))]},
    "suppress_tokens": {"suppress_tokens": list(range(40))},
    "top_k": {"do_sample": True, "top_k": 1, "max_new_tokens": 20},
    "top_p": {"do_sample": True, "top_p": 1e-6, "temperature": 0.7, "max_new_tokens": 20},
    "all at once": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "bad_words_ids": [[7]]}
    | {"eos_token_id": [4, 44], "min_new_tokens": 5, "suppress_tokens": [1, 2, 3], "max_new_tokens": 30},
}


@pytest.mark.parametrize("named", ARGUMENTS)
def test_arguments_mean_what_they_mean_to_the_model(named: str) -> None:
    arguments = ARGUMENTS[named]
    for seed in range(2):
        gate = GATES[(list(ARGUMENTS).index(named) + 2 * seed) % len(GATES)]
        exits = exiting(model(), gate=gate, policy=Drawn(seed, gate.levels))
        tokens = prompt(1 + 6 * seed, seed)
        found = exits.generate(tokens, **arguments)
        assert torch.equal(found.sequences, own(tokens, **arguments))


def test_a_configuration_given_and_the_models_own_are_followed() -> None:
    built = small_llama()
    exits = exiting(built)
    configuration = GenerationConfig(
        max_new_tokens=9, repetition_penalty=1.3, eos_token_id=None, pad_token_id=0
    )
    found = exits.generate(prompt(), generation_config=configuration)
    assert torch.equal(found.sequences, built.generate(prompt(), generation_config=configuration))
    for values in (
        {"max_length": 12},
        {"max_new_tokens": 6, "repetition_penalty": 1.3, "eos_token_id": [5, 6]},
    ):
        built.generation_config.update(**values)
        assert torch.equal(exits.generate(prompt()).sequences, built.generate(prompt()))
        with_more = {"repetition_penalty": 1.0, "max_new_tokens": 4}
        found = exits.generate(prompt(), **with_more)
        assert torch.equal(found.sequences, built.generate(prompt(), **with_more))


def test_every_stop_token_inside_an_accepted_draft_ends_the_text() -> None:
    whole = own(prompt(), max_new_tokens=30)[0, 7:].tolist()
    # The model's last level predicts as its head does: every draft of it is accepted.
    exits = EarlyExit(model(), Identity(), gate=always(2), policy=Fixed(5), packed=False)
    kept = 0
    for stop in sorted(set(whole)):
        for stops in (stop, [stop, 96], [stop, whole[-1], 0]):
            found = exits.generate(prompt(), max_new_tokens=30, eos_token_id=stops)
            assert torch.equal(found.sequences, own(prompt(), max_new_tokens=30, eos_token_id=stops))
            kept += found.exit_levels[0][-1] == 2
    assert kept > 0


def test_stopping_criteria_see_each_row_and_end_it() -> None:
    def sum_is_large(tokens: Tensor, scores: Any, **_: Any) -> Tensor:
        assert scores is None
        assert tokens.shape[0] == 1
        return torch.tensor([int(tokens[0, -3:].sum()) > 150])

    exits = exiting(model(), gate=always(2), policy=Fixed(4))
    prompts = [prompt(length, length) for length in (9, 4, 1)]
    tokens, mask = padded(prompts)
    found = exits.generate(tokens, attention_mask=mask, max_new_tokens=30, stopping_criteria=[sum_is_large])
    lengths = set()
    for row, of in enumerate(prompts):
        whole = own(of, max_new_tokens=30)[0, of.shape[1] :].tolist()
        texts = [[*of[0].tolist(), *whole[:end]] for end in range(1, 31)]
        end = next((end for end, text in enumerate(texts, 1) if sum(text[-3:]) > 150), 30)
        assert found.new_tokens[row] == whole[:end]
        lengths.add(end)
    assert len(lengths) > 1


def test_each_row_counts_its_own_new_tokens() -> None:
    arguments = {"eos_token_id": list(range(0, VOCABULARY, 2)), "min_new_tokens": 3, "max_new_tokens": 12}
    prompts = [prompt(length, length) for length in (12, 2, 5)]
    for side in ("left", "right"):
        tokens, mask = padded(prompts, side)
        found = exiting(model()).generate(tokens, attention_mask=mask, **arguments)
        for row, of in enumerate(prompts):
            assert found.new_tokens[row] == own(of, **arguments)[0, of.shape[1] :].tolist()


def test_the_padding_token_is_padding_where_no_mask_says_otherwise() -> None:
    tokens = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt()], 1)
    found = exiting(model()).generate(tokens, max_new_tokens=9)
    assert torch.equal(found.sequences, model().generate(tokens, max_new_tokens=9, do_sample=False))
    assert found.new_tokens[0] == own(prompt(), max_new_tokens=9)[0, 7:].tolist()
    # One that ends texts is not.
    found = exiting(model()).generate(tokens, max_new_tokens=9, eos_token_id=0)
    expected = model().generate(tokens, max_new_tokens=9, do_sample=False, eos_token_id=0)
    assert torch.equal(found.sequences, expected)


LEARNED = {
    GPT2LMHeadModel: GPT2Config(n_positions=24, n_embd=32, n_layer=3, n_head=4, vocab_size=VOCABULARY),
    OPTForCausalLM: OPTConfig(
        max_position_embeddings=24,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
    ),
}


@pytest.mark.parametrize("kind", LEARNED, ids=lambda kind: kind.__name__)
def test_texts_grow_up_to_the_last_position(kind: Any) -> None:
    built = kind(LEARNED[kind]).eval()
    disturb(built, 3)
    built.generation_config.update(eos_token_id=None, pad_token_id=0)
    exits = exiting(built, gate=always(2), policy=Drawn(1, (2,)))
    # 24 positions, and a last token that is not run.
    found = exits.generate(prompt(4), max_new_tokens=21)
    assert torch.equal(found.sequences, built.generate(prompt(4), max_new_tokens=21, do_sample=False))
    with pytest.raises(OneJumpError, match="24 positions: at most 25 tokens"):
        exits.generate(prompt(4), max_new_tokens=22)


def test_texts_do_not_grow_across_a_change_of_rotary_positions() -> None:
    def scaled(kind: str) -> Any:
        factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "factor": 4.0}
        rope = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 16, **factors}
        return small_llama(rope_parameters=rope)

    longrope = scaled("longrope")
    exits = exiting(longrope, gate=always(2))
    for length, new in ((7, 10), (20, 12)):
        found = exits.generate(prompt(length), max_new_tokens=new)
        expected = longrope.generate(prompt(length), max_new_tokens=new, do_sample=False)
        assert torch.equal(found.sequences, expected)
    with pytest.raises(OneJumpError, match="original context of 16 tokens"):
        exits.generate(prompt(7), max_new_tokens=11)
    with pytest.raises(OneJumpError, match="original context of 64 tokens"):
        exiting(scaled("dynamic")).generate(prompt(7), max_new_tokens=60)


class Recorded:
    """A streamer that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}
        self.levels: dict[int, list[int]] = {}
        self.refused: list[int] = []
        self.calls: list[str] = []
        self.records: list[Generated] = []
        self.block_passes: list[int] = []

    def watch(self, record: Generated) -> None:
        self.records.append(record)

    def put(self, tokens: Tensor) -> None:
        self.calls.append("put")

    def exits(self, row: int, tokens: list[int], levels: list[int], refused: list[int]) -> None:
        self.calls.append("exits")
        assert len(tokens) == len(levels)
        self.rows.setdefault(row, []).extend(tokens)
        self.levels.setdefault(row, []).extend(levels)
        self.refused.extend(refused)
        self.block_passes.append(self.records[-1].block_passes)

    def end(self) -> None:
        self.calls.append("end")


@pytest.mark.parametrize("together", [True, False])
def test_a_streamer_is_told_every_token_of_every_row(together: bool) -> None:
    if together:
        built = model()
    else:
        torch.manual_seed(0)
        config = BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4)
        built = BloomForCausalLM(config).eval()
        built.generation_config.update(eos_token_id=None, pad_token_id=0)
    tokens, mask = padded([prompt(length, length) for length in (9, 4, 1)])
    exits = exiting(built, policy=Fixed(3), gate=always(1))
    assert exits.passes.rows_differ == together
    streamer = Recorded()
    found = exits.generate(tokens, attention_mask=mask, max_new_tokens=12, streamer=streamer)
    assert streamer.rows == dict(enumerate(found.new_tokens))
    assert streamer.levels == dict(enumerate(found.exit_levels))
    assert len(streamer.refused) == found.drafted - found.accepted
    assert found.drafted > 0
    assert (streamer.calls[0], streamer.calls[-1]) == ("put", "end")
    assert set(streamer.calls[1:-1]) == {"exits"}
    # The records that it watches grow from update to update, and become the one that is returned.
    assert len(streamer.records) == (1 if together else 3)
    assert streamer.records[0] is found
    assert (streamer.block_passes[0], 0 < streamer.block_passes[-1] <= found.block_passes) == (0, True)


def test_max_time_begins_no_new_round() -> None:
    tokens, mask = padded([prompt(length, length) for length in (9, 4)])
    found = exiting(model()).generate(tokens, attention_mask=mask, max_new_tokens=12, max_time=1e-9)
    assert [len(new) for new in found.new_tokens] == [1, 1]


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a list": ([[5, 6]], {}, "input_ids: a list given"),
    "one dimension": (prompt()[0], {}, r"input_ids of shape \(7,\) given"),
    "no row": (prompt()[:0], {}, r"input_ids of shape \(0, 7\) given"),
    "an empty prompt": (prompt()[:, :0], {}, "prompt 0 is empty"),
    "a masked prompt": (prompt(), {"attention_mask": torch.zeros(1, 7)}, "prompt 0 is empty"),
    "another mask": (prompt(), {"attention_mask": torch.ones(1, 6)}, r"attention_mask of shape \(1, 6\)"),
    "broken numbers": (prompt().float(), {}, "input_ids of torch.float32 given"),
    "a large token": (prompt() + 97, {}, r"token \d+ given, 0 to 96"),
    "a negative token": (-prompt(), {}, r"token -\d+ given, 0 to 96"),
    "beams": (prompt(), {"num_beams": 4}, "num_beams: 4 given"),
    "several texts": (prompt(), {"do_sample": True, "num_return_sequences": 2}, "num_return_sequences: 2"),
    "unknown": (prompt(), {"colour": "red"}, "colour given, accepted arguments are max_new_tokens"),
    "stop strings": (prompt(), {"stop_strings": "."}, "stop_strings: '.' given"),
    "no new token": (prompt(), {"max_new_tokens": 0}, "max_new_tokens"),
    "words for a number": (prompt(), {"max_new_tokens": "many"}, "not accepted by transformers"),
    "no room": (prompt(), {"max_length": 7}, "no room for a new token: the prompt has 7 tokens"),
    "no temperature": (prompt(), {"do_sample": True, "temperature": 0.0}, "temperature: 0.0 given"),
    "a negative top_p": (prompt(), {"do_sample": True, "top_p": -0.1}, "top_p"),
    "two generators": (prompt(), {"generator": [torch.Generator()] * 2}, "2 generators given for 1 prompts"),
    "a seed": (prompt(), {"generator": 3}, "generator: 3 given"),
    "a mapping": (prompt(), {"generation_config": {"top_k": 1}}, "generation_config: a dict given"),
    "a number to stream to": (prompt(), {"streamer": 3}, "streamer: a int given"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_accepted_is_refused_in_one_line(what: str) -> None:
    tokens, arguments, said = WRONG[what]
    with pytest.raises(OneJumpError, match=said) as caught:
        exiting(model()).generate(tokens, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mode": "fast"}, "mode: 'fast' given, accepted is verified, trusted, copied"),
        ({"gate": "95%"}, "the jump has no calibrated gate"),
        ({"gate": {1: 0.5}}, "a gate of onejump.exits.gates is accepted"),
        ({"gate": always(3)}, "the gate checks level 3, the jump predicts from level 0 to 2"),
        ({"policy": 3}, "policy: 3 given"),
        (
            {"gate": always(1, 2), "policy": Fixed(2, 1, (0, 2))},
            "policy: it asks for level 0, the gate checks level 1, 2",
        ),
        ({"jump": "a folder"}, "jump: a str given"),
        ({"model": "a name"}, "model: a str given"),
    ],
)
def test_what_exits_cannot_be_made_of_is_refused_in_one_line(arguments: dict[str, Any], said: str) -> None:
    given = {"model": model(), "jump": Identity(), "gate": None, "packed": False} | arguments
    with pytest.raises(OneJumpError, match=said) as caught:
        EarlyExit(given.pop("model"), given.pop("jump"), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["verified", "trusted", "copied"])
def test_a_policy_that_was_changed_is_held_against_the_gate_before_anything_runs(mode: str) -> None:
    exits = exiting(model(), gate=always(1), mode=mode)
    exits.policy = CostModel((1, 2), 3)
    streamed: list[Any] = []
    streamer = type("Streamer", (), {"put": streamed.append, "end": lambda self: None})()
    with pytest.raises(OneJumpError, match=r"policy: it asks for level 2, the gate checks level 1$"):
        exits.generate(prompt(), streamer=streamer)
    assert not streamed
    exits.gate = always(1, 2)
    assert len(exits.generate(prompt(), max_new_tokens=4).new_tokens[0]) == 4
