"""Trajectories against float64 computations without code of the lens, and against models' own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from numpy.typing import NDArray
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy
from tiny_models import disturb_norms, word_tokenizer

from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.base.errors import OneJumpError
from onejump.exits.gates import Gate, Patience, TopProbability
from onejump.lens import prompted
from onejump.lens.trajectory import Trajectory
from onejump.models.head import Head
from onejump.models.pairs import decoder_inputs
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.shortcuts.files import load_shortcut
from onejump.shortcuts.results import load_shortcuts

Array = NDArray[Any]
SENTENCE = "The old farmer counted two heavy stones near the river ."
KINDS = ("identity", "jtc", "affine", "n-njtc", "one-jump", "shortlist")
BLOCKS, K = 4, 5


@pytest.fixture(scope="module")
def trajectory(pair: Path) -> Trajectory:
    return Trajectory.from_results(pair, SENTENCE, KINDS, k=K)


@pytest.fixture(scope="module")
def ids(tokenizer: Any) -> list[int]:
    found: list[int] = tokenizer(SENTENCE)["input_ids"]
    return found


@pytest.fixture(scope="module")
def own(tiny: Transformer, ids: list[int]) -> Any:
    """What the model itself gives: logits, and all hidden states."""
    with torch.inference_mode():
        return tiny.model(torch.tensor([ids]), output_hidden_states=True)


def rms(states: Array, eps: float) -> Array:
    scaled: Array = states / np.sqrt((states**2).mean(-1, keepdims=True) + eps)
    return scaled


def head_by_hand(model: Any, states: Array) -> Array:
    norm, unembedding = model.model.norm, model.lm_head.weight
    normed = rms(states, norm.variance_epsilon) * norm.weight.double().numpy()
    logits: Array = normed @ unembedding.double().numpy().T
    return logits


def by_hand(pair: Path, kind: str, level: int, states: Array, model: Any) -> Array:
    """Log-probabilities (T, V) of a shortcut at a level, in float64, from the tensors of its file."""
    if kind == "identity":
        return log_softmax(head_by_hand(model, states), -1)
    one = pair / "shortcuts" / kind / "all-levels.safetensors"
    file = one if one.exists() else one.with_name(f"level-{level:02d}.safetensors")
    shortcut = load_shortcut(file)
    t = {name: tensor.double().numpy() for name, tensor in shortcut.state_dict().items()}
    if kind == "jtc":
        return log_softmax(head_by_hand(model, states @ t["matrix"]), -1)
    if kind == "affine":
        return log_softmax(head_by_hand(model, rms(states, 1e-6) @ t["matrix"] + t["bias"]), -1)
    if kind == "n-njtc":
        normed = (states - t["mean"]) / np.sqrt(t["variance"] + 1e-5) * t["gamma"] + t["beta"]
        return log_softmax(head_by_hand(model, normed @ t["down"] @ t["up"]), -1)
    first = "first." if kind == "shortlist" else ""
    down = t[f"{first}down"] @ t[f"{first}mix"][level]
    reduced = rms(states, 1e-6) @ down + t[f"{first}offset"][level]
    found: Array = log_softmax(head_by_hand(model, reduced @ t[f"{first}up"] + t[f"{first}bias"]), -1)
    if kind == "shortlist":
        a, b = t["weights"][level]
        logits = head_by_hand(model, states)
        for row, judge in zip(found, logits, strict=True):
            best = np.argsort(-row)[:8]
            scores = a * row[best] + b * judge[best]
            row[best] = np.log(np.exp(row[best]).sum()) + log_softmax(scores)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_all_numbers_are_those_of_float64(
    pair: Path, tiny: Transformer, own: Any, ids: list[int], trajectory: Trajectory, kind: str
) -> None:
    last = log_softmax(own.logits[0].double().numpy(), -1)
    likely = trajectory.probabilities(kind)
    for level in range(BLOCKS + 1):
        expected = last
        if level < BLOCKS:
            states = own.hidden_states[level][0].double().numpy()
            expected = by_hand(pair, kind, level, states, tiny.model)
        chosen = np.take_along_axis(expected, trajectory.top_ids(kind)[level], -1)
        np.testing.assert_allclose(chosen, -np.sort(-expected, -1)[:, :K], atol=2e-5)
        np.testing.assert_allclose(likely[level], np.exp(chosen), atol=2e-6, rtol=2e-5)
        np.testing.assert_allclose(
            trajectory.entropy(kind)[level], entropy(np.exp(expected), axis=-1), atol=2e-5
        )
        divergence = rel_entr(np.exp(last), np.exp(expected)).sum(-1)
        np.testing.assert_allclose(trajectory.forward_kl(kind)[level], divergence, atol=2e-5)
        agrees = expected.argmax(-1) == last.argmax(-1)
        np.testing.assert_array_equal(trajectory.agreement(kind)[level], agrees)
        for at, following in enumerate(ids[1:]):
            place = 1 + (expected[at] > expected[at, following] + 1e-9).sum()
            assert trajectory.rank(shortcut=kind)[level, at] == place
            assert trajectory.surprisal(kind)[level, at] == pytest.approx(-expected[at, following], abs=2e-5)
    assert np.isnan(trajectory.surprisal(kind)[:, -1]).all()
    assert np.isnan(trajectory.rank(shortcut=kind)[:, -1]).all()


def test_the_last_level_is_the_models_own_prediction(
    own: Any, ids: list[int], trajectory: Trajectory, tokenizer: Any
) -> None:
    best = own.logits[0].argmax(-1)
    surprisal = torch.nn.functional.cross_entropy(own.logits[0, :-1], torch.tensor(ids[1:]), reduction="none")
    for kind in KINDS:
        assert trajectory.top_ids(kind)[-1, :, 0].tolist() == best.tolist()
        np.testing.assert_allclose(trajectory.surprisal(kind)[-1, :-1], surprisal, atol=1e-5)
        assert (trajectory.forward_kl(kind)[-1] == 0).all()
        assert trajectory.agreement(kind)[-1].all()
    assert trajectory.top_tokens()[-1, 0, 0].strip("·") == tokenizer.decode([int(best[0])])
    assert trajectory.token_ids == ids
    assert [*trajectory.next_ids] == [*ids[1:], None]
    assert list(trajectory.levels) == list(range(BLOCKS + 1))


def test_the_rank_of_any_token(own: Any, trajectory: Trajectory, tokenizer: Any) -> None:
    token = tokenizer.convert_tokens_to_ids("river")
    place = (-own.logits[0].double()).argsort(-1).argsort(-1)[:, token] + 1
    assert trajectory.rank(token)[-1].tolist() == place.tolist()
    np.testing.assert_array_equal(trajectory.rank("river", "jtc"), trajectory.rank(token, "jtc"))
    # Of the token that follows, both ways are the same.
    following = trajectory.next_ids[3]
    np.testing.assert_array_equal(trajectory.rank(following, "jtc")[:, 3], trajectory.rank(None, "jtc")[:, 3])
    for wrong in ("two words", 200, -1):
        with pytest.raises(OneJumpError, match=r"token .* given"):
            trajectory.rank(wrong)


class Remembers:
    """A gate that looks back and exits where this level's token was said before: patience by hand."""

    levels = (0, 2, 3)

    def exits(self, level: int, logits: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        assert earlier.shape == (len(logits), self.levels.index(level))
        return (earlier == logits.argmax(-1, keepdim=True)).any(-1)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "remembers", "levels": [*self.levels], "thresholds": [0, 0, 0]}


@pytest.mark.parametrize(
    "gate",
    [TopProbability({1: 0.05, 3: 0.04}), Patience({0: 2, 1: 2, 3: 2}), Remembers(), TopProbability({})],
)
def test_exit_levels_are_those_of_a_loop(pair: Path, trajectory: Trajectory, gate: Gate) -> None:
    for kind in ("identity", "one-jump"):
        tokens, best = trajectory.top_ids(kind)[..., 0], trajectory.probabilities(kind)[..., 0]
        expected = []
        for at in range(len(trajectory.tokens)):
            said: list[int] = []
            chosen = BLOCKS
            for level in gate.levels:
                token = int(tokens[level, at])
                if isinstance(gate, TopProbability):
                    leaves = best[level, at] >= gate.thresholds[level]
                elif isinstance(gate, Remembers):
                    leaves = token in said
                else:
                    leaves = len(said) > 0 and said[-1] == token
                if leaves:
                    chosen = level
                    break
                said.append(token)
            expected.append(chosen)
        assert trajectory.exit_level(gate, kind).tolist() == expected
        if isinstance(gate, TopProbability) and gate.levels:
            assert len(set(expected)) > 1


def test_a_calibrated_gate_is_named(tiny: Transformer, tokenizer: Any, kept_jump: Path) -> None:
    jump = OneJump.from_pretrained(kept_jump)
    sources: list[Any] = ["identity", jump]
    named = Trajectory.from_prompt(tiny, tokenizer, SENTENCE, sources, gate="95%")
    assert named.gates == {"ojfa": jump.gates["95%"]}
    expected = named.exit_level(jump.gates["95%"], "ojfa")
    assert named.exit_level(shortcut="ojfa").tolist() == expected.tolist()
    assert len(set(expected)) > 1
    # A kept jump reads a level as the shortcut in it does.
    plain = Trajectory.from_prompt(tiny, tokenizer, SENTENCE, jump.shortcut)
    np.testing.assert_array_equal(plain.top_ids(), named.top_ids("ojfa"))


def test_logits_are_made_for_a_few_positions_at_a_time(
    pair: Path,
    tiny: Transformer,
    tokenizer: Any,
    trajectory: Trajectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    whole = Head.logits

    def counted(self: Head, states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        return whole(self, states)

    monkeypatch.setitem(LOGITS_TOGETHER, "cpu", 3 * 200 + 100)
    monkeypatch.setattr(Head, "logits", counted)
    gate = Patience({0: 2, 1: 2})
    sources = [load_shortcuts(pair, kind) for kind in KINDS]
    parts = Trajectory.from_prompt(tiny, tokenizer, SENTENCE, sources, k=K, gate=gate)
    assert max(sizes) == 3
    for kind in KINDS:
        np.testing.assert_array_equal(parts.top_ids(kind), trajectory.top_ids(kind))
        for name in ("entropy", "surprisal", "rank", "forward_kl"):
            np.testing.assert_allclose(
                parts.statistic(name, kind), trajectory.statistic(name, kind), atol=1e-6
            )
        np.testing.assert_array_equal(parts.exit_level(shortcut=kind), trajectory.exit_level(gate, kind))


def test_the_last_tokens_have_the_numbers_of_the_whole_prompt(pair: Path, trajectory: Trajectory) -> None:
    end = Trajectory.from_results(pair, SENTENCE, ["jtc"], k=K, last=4)
    assert end.tokens == trajectory.tokens[-4:]
    assert end.positions == trajectory.positions[-4:]
    assert end.next_ids == trajectory.next_ids[-4:]
    np.testing.assert_allclose(end.forward_kl(), trajectory.forward_kl("jtc")[:, -4:], atol=1e-6)


def test_a_prompt_of_one_token(tiny: Transformer, tokenizer: Any) -> None:
    one = Trajectory.from_prompt(tiny, tokenizer, "river")
    assert (one.shortcuts, one.tokens, one.next_ids) == (["identity"], ["·river"], [None])
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([one.token_ids])).logits[0]
    assert one.top_ids()[-1, :, 0].tolist() == logits.argmax(-1).tolist()
    assert np.isnan(one.surprisal()).all()


def test_the_table_holds_every_number_once(pair: Path) -> None:
    gate = TopProbability({1: 0.05})
    made = Trajectory.from_results(pair, SENTENCE, ["jtc", "one-jump"], k=2, gate={"jtc": gate})
    table = made.to_pandas()
    assert len(table) == 2 * (BLOCKS + 1) * len(made.tokens) * 2
    assert not table.duplicated(["shortcut", "level", "position", "place"]).any()
    row = table.query("shortcut == 'jtc' and level == 2 and position == 3 and place == 2").iloc[0]
    assert row["prediction_id"] == made.top_ids("jtc")[2, 3, 1]
    assert row["prediction"] == made.top_tokens("jtc")[2, 3, 1]
    assert row["probability"] == made.probabilities("jtc")[2, 3, 1]
    assert (row["token"], row["next_id"]) == (made.tokens[3], made.token_ids[4])
    for name in ("entropy", "surprisal", "forward_kl"):
        assert row[name] == made.statistic(name, "jtc")[2, 3]
    assert row["exit_level"] == made.exit_level(shortcut="jtc")[3]
    assert table.query("shortcut == 'one-jump'")["exit_level"].isna().all()
    last = table.query(f"position == {len(made.tokens) - 1}")
    assert last["next_id"].isna().all()
    assert last["surprisal"].isna().all()


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_each_token_of_a_masked_model_is_masked_in_turn(tiny_masked_folder: Any, family: str) -> None:
    folder = tiny_masked_folder(family)
    model = hf.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    found = Trajectory.from_prompt(model, tokenizer, SENTENCE, k=3)
    ids = tokenizer(SENTENCE)["input_ids"]
    assert found.token_ids == ids[1:-1]
    assert found.next_ids == found.token_ids
    for at, token in enumerate(found.token_ids):
        masked = torch.tensor([ids])
        masked[0, at + 1] = tokenizer.mask_token_id
        with torch.inference_mode():
            logits = model(masked).logits[0, at + 1]
        assert found.top_ids()[-1, at].tolist() == logits.topk(3).indices.tolist()
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(token))
        assert found.surprisal()[-1, at] == pytest.approx(float(expected), abs=1e-4)


def test_a_decoder_predicts_each_token_of_a_target() -> None:
    tokenizer = word_tokenizer({"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}, "$A </s>")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
    model = hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=200, pad_token_id=1, decoder_start_token_id=1, eos_token_id=2, **sizes)
    ).eval()
    disturb_norms(model)
    target = "A young teacher painted the green boat ."
    found = Trajectory.from_prompt(model, tokenizer, SENTENCE, target=target)
    labels = tokenizer(target)["input_ids"]
    assert [*found.next_ids] == labels
    assert found.token_ids == decoder_inputs(model, labels) == [1, *labels[:-1]]
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([tokenizer(SENTENCE)["input_ids"]]),
            decoder_input_ids=torch.tensor([found.token_ids]),
        ).logits[0]
    assert found.top_ids()[-1, :, 0].tolist() == logits.argmax(-1).tolist()
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(found.surprisal()[-1], expected, atol=1e-4)
    with pytest.raises(OneJumpError, match="no target given, but the model is an encoder-decoder"):
        Trajectory.from_prompt(model, tokenizer, SENTENCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_another_family(dtype: torch.dtype, tokenizer: Any) -> None:
    torch.manual_seed(1)
    model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=200, n_embd=24, n_layer=3, n_head=3, n_positions=32))
    disturb_norms(model)
    model = model.to(dtype).eval()
    found = Trajectory.from_prompt(model, tokenizer, SENTENCE, k=200)
    with torch.inference_mode():
        logits = model(torch.tensor([found.token_ids])).logits[0].double().numpy()
    expected = np.exp(log_softmax(logits, -1))
    ours = np.zeros_like(expected)
    np.put_along_axis(ours, found.top_ids()[-1], found.probabilities()[-1], -1)
    np.testing.assert_allclose(ours, expected, rtol=0.1, atol=1e-4)
    np.testing.assert_allclose(found.probabilities().sum(-1), 1, atol=1e-5)
    with pytest.raises(OneJumpError, match="a prompt of 44 tokens given, the model has 32 positions"):
        Trajectory.from_prompt(model, tokenizer, 4 * SENTENCE)


def test_shortcuts_of_a_results_folder_are_those_that_load_shortcuts_gives(
    pair: Path, tiny: Transformer, tokenizer: Any, trajectory: Trajectory
) -> None:
    jtc = load_shortcuts(pair, "jtc")
    made = Trajectory.from_prompt(tiny, tokenizer, SENTENCE, {"mine": jtc, "identity": "identity"}, k=K)
    assert made.shortcuts == ["mine", "identity"]
    np.testing.assert_array_equal(made.top_ids("mine"), trajectory.top_ids("jtc"))
    # The folder also holds one-forward, which reads the state of the token before.
    every = Trajectory.from_results(pair, "river")
    assert every.shortcuts == ["identity", "affine", "jtc", "n-njtc", "one-jump", "shortlist"]
    with pytest.raises(OneJumpError, match="Leave one-forward out; generation takes it"):
        Trajectory.from_results(pair, "river", ["one-forward"])


def test_a_chat_is_put_into_the_template(tiny: Transformer, tiny_model_folder: Path) -> None:
    chatty = hf.AutoTokenizer.from_pretrained(tiny_model_folder)
    chatty.chat_template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} . {% endfor %}river"
    found = Trajectory.from_prompt(tiny, chatty, "the old", chat=True, system="A boy")
    assert found.token_ids == chatty("system : A boy . user : the old . river")["input_ids"]
    with pytest.raises(OneJumpError, match="without a chat"):
        Trajectory.from_prompt(tiny, chatty, "the old", system="A boy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"k": 0}, "k: 0 given, a whole number from 1 to 200"),
        ({"k": 201}, "k: 201 given"),
        ({"last": 0}, "last: 0 given"),
        ({"chat": True}, "has no chat template"),
        ({"target": "river"}, "a target given, but the model is a causal language model"),
        ({"shortcuts": ["jtc"]}, "shortcut 'jtc': 'jtc' given, accepted is a OneJump"),
        ({"shortcuts": []}, "no shortcut given"),
        ({"shortcuts": ["identity", "identity"]}, "two shortcuts called 'identity'"),
        ({"gate": TopProbability({4: 0.5})}, "a gate of the levels 4 given, early-exit levels are 0 to 3"),
        ({"gate": {"jtc": TopProbability({1: 0.5})}}, "a gate for 'jtc' given, the shortcuts are identity"),
        ({"gate": "95%"}, "gate '95%' given, but none of identity is a kept jump"),
        ({"gate": {"identity": "95%"}}, "gate '95%' given, the calibrated gates of identity are none"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    tiny: Transformer, tokenizer: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(OneJumpError, match=message) as raised:
        Trajectory.from_prompt(tiny, tokenizer, **{"prompt": "river", **arguments})
    assert "\n" not in str(raised.value)


def test_a_long_prompt_says_how_to_show_its_end(
    tiny: Transformer, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompted, "MOST_TOKENS", 7)
    with pytest.raises(OneJumpError, match=r"a prompt of 11 tokens given, 7 can be shown: .*last=7"):
        Trajectory.from_prompt(tiny, tokenizer, SENTENCE)
    assert len(Trajectory.from_prompt(tiny, tokenizer, SENTENCE, last=7).tokens) == 7


def test_names_of_shortcuts_and_statistics_are_checked(trajectory: Trajectory) -> None:
    with pytest.raises(OneJumpError, match="shortcut 'njtc' given, accepted is one of identity, jtc"):
        trajectory.entropy("njtc")
    with pytest.raises(OneJumpError, match="statistic 'loss' given, accepted is one of probability"):
        trajectory.statistic("loss")
    with pytest.raises(OneJumpError, match="no gate given for 'identity'"):
        trajectory.exit_level()


def test_shortcuts_of_another_model_are_refused(pair: Path, tokenizer: Any) -> None:
    torch.manual_seed(2)
    other = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=200, n_embd=32, n_layer=3, n_head=4)).eval()
    with pytest.raises(OneJumpError, match=r"jtc: .* given, the model has 3 blocks"):
        Trajectory.from_prompt(other, tokenizer, "river", [load_shortcuts(pair, "jtc")])
