"""Drafts from the last level's state of the token before: what the jump is given, whose text comes out."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from families import GENERATING, GENERATING_FROM_SOURCES, VOCABULARY, generating
from random_exits import Drawn, always
from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.exits.gates import TopProbability
from onejump.lens.reading import Reader
from onejump.models.head import Head
from onejump.models.loading import load_model
from onejump.models.seen import state_of
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.runtime.bench import Bench
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.jump_config import JumpConfig
from onejump.runtime.likelihood import exit_logits
from onejump.runtime.weight_hash import weight_hashes
from onejump.shortcuts.kinds.one_forward import OneForward

GATE = TopProbability({0: 0.05, 1: 0.013, 2: 0.012})
NEW = 14


@functools.cache
def transformer(name: str) -> Transformer:
    return Transformer(generating(name))


def jump_for(transformer: Transformer, rank: int = 6) -> OneForward:
    """A jump that passes on a part of both states."""
    hidden, levels = transformer.hidden, len(transformer.blocks)
    drawn = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(hidden, rank, generator=drawn)).Q
    down = torch.cat([basis, 0.5 * basis])
    return OneForward(down, torch.zeros(levels, rank), basis.T, torch.zeros(hidden), "rms", 1e-6)


class Seen:
    """Predicts from the state and the one before by the head, and keeps what it is given."""

    levels, reads_previous = (0, 1, 2), True

    def __init__(self, head: Head) -> None:
        self._head = head
        self.seen: list[tuple[int, Tensor]] = []

    def logits(self, level: int, states: Tensor) -> Tensor:
        self.seen += [(level, state) for state in states]
        return self._head.logits(states.unflatten(-1, (2, -1)).sum(-2))

    def approximated(self, level: int, states: Tensor) -> Tensor:
        return states.unflatten(-1, (2, -1)).sum(-2)

    def flops(self, level: int) -> int:
        return 0


def every_state(of: Transformer, tokens: list[int]) -> Tensor:
    """States (L + 1, n, H) of a text, read by hooks in a plain run."""
    levels: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda b, _, out: levels.append(state_of(out, b)[0]))
        for block in of.blocks
    ]
    hooks.append(
        of.blocks[0].register_forward_pre_hook(
            lambda _, given, named: levels.append((given[0] if given else named["hidden_states"])[0]),
            with_kwargs=True,
        )
    )
    with torch.inference_mode():
        of.model(torch.tensor([tokens]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(levels)


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "GPT2LMHeadModel", "Gemma2ForCausalLM", "PhiForCausalLM"]
)
@pytest.mark.parametrize("mode", ["verified", "trusted"])
def test_the_jump_is_given_the_state_and_the_last_levels_state_before(name: str, mode: str) -> None:
    """One draft in each round: a place of the text after another, every state as in a plain run."""
    of = transformer(name)
    predictor = Seen(of.head)
    exits = EarlyExit(of, predictor, gate=always(1), mode=mode, policy=Fixed(1), packed=False)
    for length in (1, 6):
        predictor.seen.clear()
        prompt = torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length))
        found = exits.generate(prompt, max_new_tokens=NEW)
        states = every_state(of, [*prompt[0].tolist(), *found.new_tokens[0]])
        place = length
        for level, given in predictor.seen:
            expected = torch.cat([states[level, place], states[-1, place - 1]])
            torch.testing.assert_close(given, expected, rtol=1e-3, atol=2e-4 * float(expected.abs().max()))
            # An exit that is kept gives its token, and the full model one more.
            place += 2 if found.exit_levels[0][place - length + 1] == 1 else 1
        assert len(predictor.seen) == found.drafted > NEW // 3


def test_later_drafts_of_a_chain_go_on_from_the_jumps_own_prediction() -> None:
    of = transformer("LlamaForCausalLM")
    predictor = Seen(of.head)
    exits = EarlyExit(of, predictor, gate=always(2), mode="trusted", policy=Fixed(NEW), packed=False)
    found = exits.generate(torch.tensor([[5, 9, 4]]), max_new_tokens=NEW)
    states = every_state(of, [5, 9, 4, *found.new_tokens[0]])
    before = states[-1, 2]
    for place, (level, given) in enumerate(predictor.seen, start=3):
        torch.testing.assert_close(given, torch.cat([states[level, place], before]), rtol=2e-4, atol=2e-4)
        before = given[: of.hidden] + given[of.hidden :]
    assert len(predictor.seen) == NEW - 2


@pytest.mark.parametrize("recall", [0, 1])
@pytest.mark.parametrize("name", GENERATING)
def test_verified_texts_are_the_models_own(name: str, recall: int) -> None:
    of = transformer(name)
    exits = EarlyExit(of, jump_for(of), gate=GATE, packed=False, recall=recall)
    drawn = torch.Generator().manual_seed(4)
    drafted = accepted = 0
    for seed in range(4):
        exits.policy = Drawn(seed, (0, 1, 2))
        prompt = torch.randint(3, VOCABULARY, (1, 1 + 2 * seed), generator=drawn)
        found = exits.generate(prompt, max_new_tokens=20)
        own = of.model.generate(prompt, pad_token_id=0, do_sample=False, max_new_tokens=20)
        assert torch.equal(found.sequences, own)
        drafted += found.drafted
        accepted += found.accepted
    assert 0 < accepted < drafted


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BloomForCausalLM"])
def test_rows_and_sampled_texts_are_those_of_single_runs(name: str) -> None:
    of = transformer(name)
    prompts = torch.zeros(3, 8, dtype=torch.long)
    drawn = torch.Generator().manual_seed(5)
    for row, length in enumerate((8, 1, 5)):
        prompts[row, -length:] = torch.randint(3, VOCABULARY, (length,), generator=drawn)
    arguments: dict[str, Any] = {"attention_mask": prompts != 0, "max_new_tokens": NEW}
    for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}):

        def generators() -> list[torch.Generator]:
            return [torch.Generator().manual_seed(row) for row in range(3)]

        plain = EarlyExit(of, None, packed=False)
        expected = plain.generate(prompts, generator=generators(), **arguments, **sampling).new_tokens
        exits = EarlyExit(of, jump_for(of), gate=GATE, policy=Drawn(1, (0, 1)), packed=False)
        found = exits.generate(prompts, generator=generators(), **arguments, **sampling)
        assert found.new_tokens == expected
        assert found.accepted > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_cost_model_drafts_before_any_block(dtype: torch.dtype) -> None:
    of = Transformer(generating("LlamaForCausalLM").to(dtype))
    exits = EarlyExit(of, jump_for(of), gate=always(0), packed=False)
    prompt = torch.tensor([[5, 9, 4], [7, 8, 30]])
    plain = EarlyExit(of, None, packed=False).generate(prompt, max_new_tokens=50)
    drafted = 0
    for _ in range(3):
        found = exits.generate(prompt, max_new_tokens=50)
        # In bfloat16 a pass over several tokens may round otherwise than a pass over one.
        assert found.new_tokens == plain.new_tokens or dtype == torch.bfloat16
        drafted += found.drafted
    assert drafted > 0


def test_an_encoder_decoder_drafts_forward_too() -> None:
    name = GENERATING_FROM_SOURCES[0]
    of = transformer(name)
    exits = EarlyExit(of, jump_for(of), gate=always(0), policy=Fixed(2), packed=False)
    source = torch.tensor([[5, 9, 4, 30]])
    found = exits.generate(source, max_new_tokens=NEW)
    own = of.model.generate(
        source, attention_mask=torch.ones_like(source), pad_token_id=0, do_sample=False, max_new_tokens=NEW
    )
    assert torch.equal(found.sequences, own)
    assert found.drafted > 0


def test_a_draft_at_level_0_runs_no_block() -> None:
    of = transformer("LlamaForCausalLM")
    predictor = Seen(of.head)
    exits = EarlyExit(of, predictor, gate=always(0), policy=Fixed(1, 4), packed=False)
    found = exits.generate(torch.tensor([[5, 9, 4]]), max_new_tokens=NEW)
    rounds = found.full_passes
    # Each round takes its token, and up to four candidates behind it, through all blocks once.
    assert found.block_passes == len(of.blocks) * (rounds + 4 * found.drafted)


def test_a_kept_jump_comes_back_and_drafts(tiny_model_folder: Path, tmp_path: Path) -> None:
    of = load_model(str(tiny_model_folder), device="cpu")
    blocks, hidden = len(of.blocks), of.hidden
    config = JumpConfig(
        method="one-forward",
        kind="one-forward",
        rank=6,
        level=None,
        base_model="tiny-llama",
        architecture="LlamaForCausalLM",
        causal=True,
        blocks=blocks,
        hidden=hidden,
        vocabulary=200,
        norm="rms",
        unembedding=weight_hashes(of.head.unembedding, "float32"),
        study="tiny",
        model="tiny-llama",
        corpus="random",
    )
    OneJump(config, jump_for(of)).save_pretrained(tmp_path)
    kept = OneJump.from_pretrained(tmp_path)
    assert kept.at(1).reads_previous
    assert kept.at(1).down.shape == (2 * hidden, 6)
    assert "reads the last level's state of the token before" in kept.card
    found = EarlyExit(of, kept, gate=always(0), policy=Fixed(1, 3), packed=False).generate(
        torch.tensor([[5, 9, 4]]), max_new_tokens=NEW
    )
    plain = EarlyExit(of, None, packed=False).generate(torch.tensor([[5, 9, 4]]), max_new_tokens=NEW)
    assert found.new_tokens == plain.new_tokens
    assert found.drafted > 0
    narrow = OneForward(
        torch.ones(hidden, 6), torch.zeros(blocks, 6), torch.ones(6, hidden), torch.zeros(hidden), "rms", 1e-6
    )
    with pytest.raises(
        OneJumpError, match=rf"down: shape \({hidden}, 6\) given, \({2 * hidden}, 6\) expected"
    ):
        OneJump(config, narrow)


def test_ways_to_decode_are_compared_without_copied_states() -> None:
    of = transformer("LlamaForCausalLM")
    bench = Bench(of, jump_for(of), always(0), padding=0, max_new_tokens=4, methods=["verified", "copied"])
    runs = list(bench.compare([[5, 9, 4]], warm_up=0))
    assert {run.method for run in runs} == {"model.generate", "verified"}
    assert bench.left_out == {"copied": "the jump reads a state of the token before that exits do not have"}


def test_where_no_state_is_known_the_jump_is_refused() -> None:
    of = transformer("LlamaForCausalLM")
    jump = jump_for(of)
    with pytest.raises(OneJumpError, match="mode: 'copied' given, but the jump reads the last level's state"):
        EarlyExit(of, jump, gate=GATE, mode="copied", packed=False)
    engine = EarlyExit(of, jump, gate=GATE, mode="trusted", packed=False)
    with pytest.raises(OneJumpError, match="likelihoods take a jump that reads the state of one token"):
        exit_logits(engine, torch.tensor([[5, 9, 4]]))
    with pytest.raises(OneJumpError, match="one-forward reads the last level's state"):
        Reader(torch.zeros(4, 2, of.hidden), of.head, {"one-forward": jump.at})
