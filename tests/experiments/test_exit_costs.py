"""What exits cost: FLOPs against torch's own counter, times against a clock that ticks once a look."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from families import families
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, DynamicCache

from onejump.experiments import decoding_times
from onejump.experiments import exit_costs as experiment
from onejump.experiments.decoding_times import Decoding
from onejump.experiments.exit_costs import FULL, exit_costs
from onejump.experiments.random_shapes import Shapes, one_block, reshaped
from onejump.models.transformer import Transformer
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.methods import ShortcutAt
from onejump.shortcuts.shortcut import LowRank, Shortcut

H, R, L = 32, 3, 3
CAUSAL = ("LlamaForCausalLM", "GPT2LMHeadModel", "Gemma3ForCausalLM", "OPTForCausalLM")
SHAPES = Shapes(blocks=5, hidden=16, feed_forward=24, heads=4, key_heads=2, vocabulary=50, dtype="float32")


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def methods(levels: int = L) -> dict[str, ShortcutAt]:
    """One method of each way to exit: nothing, a full matrix, a jump for each level, one for all."""
    identity, matrix = Identity(), JTC(normal(H, H))
    jumps = [NNJTC(normal(H, R), normal(R, H), *(torch.ones(H) for _ in range(4))) for _ in range(levels)]
    one = OneJump(normal(H, R), normal(levels, R), normal(R, H), normal(H), "rms", 1e-5)
    found: dict[str, ShortcutAt] = {"identity": lambda _: identity, "jtc": lambda _: matrix}
    return found | {"n-njtc": lambda level: jumps[level], "one-jump": one.at, "ojfa": lambda _: jumps[1]}


def causal(name: str) -> Transformer:
    model = next(f for f in families() if f.model == name and f.kind == "causal").build()
    model.set_attn_implementation("eager")  # torch's counter does not see into the CPU's fused attention
    return Transformer(model)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later at each look."""
    ticks = itertools.count()
    for module in (decoding_times, experiment):
        monkeypatch.setattr(module, "now", lambda _: float(next(ticks)))


def counted(run: Callable[[], object]) -> dict[str, int]:
    """Count the FLOPs of a run with torch's own counter: of each module by its name, and "Global" for all."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return {name: sum(of_kinds.values()) for name, of_kinds in counter.get_flop_counts().items()}


@pytest.mark.parametrize("name", CAUSAL)
def test_flops_are_those_that_torch_counts_when_a_token_exits(name: str) -> None:
    transformer = causal(name)
    batch, context = 3, 7
    exits = methods()
    table = exit_costs(transformer, exits, batch=batch, context=context, rounds=1)
    found = table.set_index(["method", "level"])["flops"]
    model, head = transformer.model, transformer.head
    tokens = torch.randint(3, 90, (batch, context + 1), generator=torch.Generator().manual_seed(0))
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(tokens[:, :-1], past_key_values=cache, use_cache=True)
    of_modules = counted(lambda: model(tokens[:, -1:], past_key_values=cache, use_cache=True))
    names = {module: name for name, module in model.named_modules()}
    of_blocks = [of_modules[f"{name}.{names[block]}"] for block in transformer.blocks]
    assert found[FULL, L] == of_modules["Global"] == sum(of_blocks) + of_modules[f"{name}.lm_head"]
    states = normal(batch, H)
    for method, level in itertools.product(exits, range(L)):
        shortcut = exits[method](level)
        if isinstance(shortcut, LowRank):
            exit_head = ExitHead.of(head, shortcut)
            of_exit = counted(
                lambda exit_head=exit_head, jump=shortcut: exit_head.logits(jump.reduce(states))
            )
        else:
            of_exit = counted(lambda jump=shortcut: head.logits(jump(states)))
        assert found[method, level] == sum(of_blocks[:level]) + of_exit["Global"], (method, level)


@pytest.mark.usefixtures("ticking")
def test_seconds_are_those_of_the_blocks_the_jump_and_the_head() -> None:
    table = exit_costs(causal("LlamaForCausalLM"), methods(), batch=2, context=5, rounds=3)
    assert len(table) == 5 * L + 1
    # Level l is reached at the (l + 1)-th look at the clock; a jump and a head take one each.
    exiting = table[table["method"] != FULL]
    assert exiting["blocks_seconds"].tolist() == (exiting["level"] + 1).tolist()
    assert set(exiting["jump_seconds"]) == set(exiting["head_seconds"]) == {1.0}
    assert exiting["seconds"].tolist() == exiting["fastest"].tolist() == (exiting["level"] + 3).tolist()
    full = table[table["method"] == FULL].iloc[0]
    assert (full["level"], full["blocks_seconds"], full["head_seconds"]) == (L, L + 1, 1)


def test_median_and_minimum_are_of_the_rounds_own_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round has its own sum: the sum of the parts' medians would be another number."""
    transformer = causal("LlamaForCausalLM")
    rounds = [[1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 9.0], [1.0, 5.0, 6.0, 7.0]]
    waiting = iter([[0.0] * (L + 1)] * 2 + rounds)
    monkeypatch.setattr(Decoding, "seconds", lambda self: next(waiting))
    looks: Iterator[float] = itertools.count()
    monkeypatch.setattr(experiment, "now", lambda _: float(next(looks)))
    table = exit_costs(transformer, {"identity": methods()["identity"]}, batch=1, context=4, rounds=3)
    found = table.set_index(["method", "level"])
    assert found.loc[("identity", 1), "seconds"] == 5 + 1 + 1
    assert found.loc[("identity", 1), "fastest"] == 2 + 1 + 1
    assert found.loc[("identity", 2), "fastest"] == 3 + 1 + 1


@pytest.mark.parametrize("name", CAUSAL)
def test_a_step_is_the_last_token_of_the_sequence(name: str) -> None:
    transformer = causal(name)
    decoding = Decoding(transformer, batch=2, context=9)
    sequence = transformer.probe().repeat(1, 2)[:, :9]
    tokens = torch.cat([sequence, sequence[:, :1]], 1)
    expected = transformer.states(tokens, torch.tensor([0]), torch.tensor([9]))
    for level, states in enumerate(decoding.states):
        torch.testing.assert_close(states, expected[level].expand(2, -1), rtol=1e-3, atol=1e-4)
    # Running it again and again leaves the kept keys as they are.
    assert len(decoding.seconds()) == len(decoding.seconds()) == L + 1
    assert decoding._cache.get_seq_length() == 9


def test_fewer_tokens_are_taken_where_the_model_holds_fewer() -> None:
    assert Decoding(causal("GPT2LMHeadModel"), batch=1, context=1000).context == 63


def test_a_masked_model_runs_over_whole_sequences() -> None:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": L, "hidden_size": H, "intermediate_size": 48, "num_attention_heads": 4}
    model = BertForMaskedLM(BertConfig(**sizes, vocab_size=97, attn_implementation="eager"))
    transformer = Transformer(model)
    table = exit_costs(transformer, methods(), batch=2, context=7, rounds=1)
    found = table.set_index(["method", "level"])["flops"]
    tokens = transformer.probe()[:, :7].repeat(2, 1)
    of_blocks = counted(lambda: transformer.run(tokens))["Global"]
    of_head = counted(lambda: transformer.head.logits(normal(2, H)))["Global"]
    assert found[FULL, L] == of_blocks + of_head


@pytest.mark.usefixtures("ticking")
def test_one_block_of_given_shapes_counts_as_often_as_there_are_blocks() -> None:
    transformer = one_block(SHAPES, torch.device("cpu"))
    shortcuts = {name: reshaped(shortcut_at(0), H, 16, 2) for name, shortcut_at in methods().items()}
    exits = {name: _always(shortcut) for name, shortcut in shortcuts.items()}
    table = exit_costs(transformer, exits, blocks=5, batch=2, context=6, rounds=2)
    found = table.set_index(["method", "level"])
    keys = 2 * 4
    of_block = 2 * (2 * 16 * 16 + 2 * 16 * keys + 3 * 16 * 24) + 2 * 4 * (4 + 4) * 7
    for level in range(5):
        assert found.loc[("identity", level), "blocks_flops"] == 2 * level * of_block
        assert found.loc[("identity", level), "blocks_seconds"] == level + 1
        assert found.loc[("n-njtc", level), "jump_flops"] == 2 * 2 * 16 * 2
        assert found.loc[("n-njtc", level), "head_flops"] == 2 * 2 * (50 * 2 + 2 * 2)
        assert found.loc[("jtc", level), "jump_flops"] == 2 * 2 * 16 * 16
        assert found.loc[("jtc", level), "head_flops"] == 2 * 2 * 50 * 16
    assert found.loc[(FULL, 5), "flops"] == 2 * (5 * of_block + 2 * 50 * 16)
    assert set(table["blocks_measured"]) == {1}


@pytest.mark.parametrize("name", ["identity", "jtc", "n-njtc", "one-jump"])
def test_a_shortcut_of_other_shapes_is_of_the_same_kind(name: str) -> None:
    shortcut = methods()[name](1)
    other = reshaped(shortcut, H, 20, 5)
    assert type(other) is type(shortcut)
    assert other(normal(4, 20)).isfinite().all()
    # Each dimension is H or r.
    expected = [[{H: 20, R: 5}[size] for size in t.shape] for t in shortcut.state_dict().values()]
    assert [list(tensor.shape) for tensor in other.state_dict().values()] == expected


def _always(shortcut: Shortcut) -> ShortcutAt:
    return lambda _: shortcut
