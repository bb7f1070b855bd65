"""Learned gates: their fit against scipy's, their exits against loops and the model's states."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from jumps_at_random import RANK, trained
from random_exits import padded, prompt, small_llama
from scipy.optimize import minimize

from onejump.base.errors import GateError, OneJumpError
from onejump.exits.gate_calibration import calibrated
from onejump.exits.gate_search import Flops, exits_of
from onejump.exits.gate_training import agreement_of, coordinates_of, fit_weights, unseen_agreement
from onejump.exits.gates import GATES, TopProbability
from onejump.exits.learned_gate import Learned, any_gate_from_dict, leaving
from onejump.exits.observed import Observed
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.loading import gate_from_text
from onejump.shortcuts.kinds.identity import Identity

LEVELS = 4
GATE = Learned({1: 0.6, 3: 0.5}, {1: [0.1, 0.9, 0.5, -0.25], 3: [-0.2, 1.1, 0.0, 0.3]})
NONE = torch.empty(5, 0, dtype=torch.long)


def drawn(samples: int, rank: int, seed: int) -> tuple[Any, Any, Any]:
    """Probabilities, coordinates of different size, and hits that depend on both."""
    random = np.random.default_rng(seed)
    probabilities = random.uniform(0.01, 0.99, size=(samples, LEVELS))
    z = random.normal(size=(samples, LEVELS, rank)) * np.geomspace(0.5, 50, rank)
    score = np.log(probabilities / (1 - probabilities)) + 6 * z[:, :, 0] * np.linspace(0.5, 1, LEVELS)
    return probabilities, z, random.uniform(size=score.shape) < 1 / (1 + np.exp(-score))


def test_weights_are_those_of_the_least_loss() -> None:
    probabilities, z, hits = drawn(60, 2, seed=0)
    scale = z.reshape(-1, 2).std(0)

    def weights_of(numbers: Any) -> Any:
        shared = numbers[2 * LEVELS :].reshape(3, 2)
        of_levels = []
        for level in range(LEVELS):
            t = level / LEVELS
            w = (shared[0] + shared[1] * t + shared[2] * t * t) / scale
            of_levels.append([numbers[level], numbers[LEVELS + level], *w])
        return np.array(of_levels)

    def loss(numbers: Any) -> float:
        weights, total = weights_of(numbers), 0.0
        for sample in range(60):
            for level in range(LEVELS):
                p = probabilities[sample, level]
                constant, slope, *w = weights[level]
                score = constant + slope * math.log(p / (1 - p)) + np.dot(w, z[sample, level])
                total += np.logaddexp(0, score) - hits[sample, level] * score
        prior = np.square(numbers[:LEVELS]).sum() + np.square(numbers[LEVELS : 2 * LEVELS] - 1).sum()
        return float(total + prior / 2 + 5 * np.square(numbers[2 * LEVELS :]).sum())

    start = np.concatenate([np.zeros(LEVELS), np.ones(LEVELS), np.zeros(6)])
    expected = weights_of(minimize(loss, start, method="L-BFGS-B", options={"maxiter": 60}).x)
    np.testing.assert_allclose(fit_weights(probabilities, z, hits), expected, atol=2e-3)


def test_without_samples_the_probability_is_taken_as_it_is() -> None:
    weights = fit_weights(np.empty((0, 2)), np.empty((0, 2, 3)), np.empty((0, 2), bool))
    assert weights.tolist() == [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]


def test_a_document_is_judged_by_what_others_show() -> None:
    probabilities, z, hits = drawn(90, 2, seed=1)
    documents = np.arange(90) // 3
    found = unseen_agreement(probabilities, z, hits, documents)
    others = hits.copy()
    others[documents == 7] ^= True
    changed = unseen_agreement(probabilities, z, others, documents)
    same = (found == changed).all(1)
    assert same[documents == 7].all()
    # The other documents of its third are judged as before, too; those of the other thirds are not.
    assert 27 <= same.sum() <= 33


def test_exits_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    logits, z = 3 * torch.randn(5, 11), torch.randn(5, 2)
    for level, weights in GATE.weights.items():
        expected = []
        for row, of_row in zip(logits.double(), z.double(), strict=True):
            p = float(row.softmax(-1).max())
            score = (
                weights[0]
                + weights[1] * math.log(p / (1 - p))
                + float(of_row @ torch.tensor(weights[2:]).double())
            )
            expected.append(1 / (1 + math.exp(-score)) >= GATE.thresholds[level])
        assert GATE.exits(level, logits, NONE, z).tolist() == expected
        assert leaving(GATE, level, logits, NONE, lambda: z).tolist() == expected
    assert any(expected)
    assert not all(expected)
    assert GATE.numbers() == 10
    assert GATE.flops == 6


def test_a_gate_comes_back_from_json_and_can_be_narrowed() -> None:
    content = json.loads(json.dumps(GATE.to_dict()))
    assert any_gate_from_dict(content, 4) == GATE
    assert any_gate_from_dict(content) != Learned(
        GATE.thresholds, {1: [0.1, 0.9, 0.5, 0], 3: GATE.weights[3]}
    )
    narrowed = gate_from_text("95%", calibrated={"95%": GATE}, levels=[3])
    assert narrowed == Learned({3: 0.5}, {3: GATE.weights[3]})
    assert any_gate_from_dict(TopProbability({2: 0.5}).to_dict()) == TopProbability({2: 0.5})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": [[0.0, 1.0]]}, "weights for 2 levels are accepted"),
        ({"weights": [[0.0, 1.0], [0.0]]}, "1, 2 weights for a level given"),
        ({"weights": [[0.0, 1.0], [0.0, math.nan]]}, "finite numbers"),
        ({"weights": [0.0, 1.0]}, "in a list for each level"),
        ({"levels": [1, 9]}, "level 9 given, accepted is a whole number from 0 to 3"),
        ({"thresholds": [0.5, 1.5]}, r"threshold 1\.5 given"),
        ({"mood": 1}, "keys .*mood"),
    ],
)
def test_impossible_gates_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GateError, match=said):
        any_gate_from_dict(GATE.to_dict() | changes, 4)


def test_missing_coordinates_are_named() -> None:
    logits = torch.zeros(5, 11)
    with pytest.raises(GateError, match="needs the jump's coordinates"):
        leaving(GATE, 1, logits, NONE, lambda: None)
    with pytest.raises(GateError, match="3 coordinates given, it was fitted to 2"):
        GATE.exits(1, logits, NONE, torch.zeros(5, 3))
    with pytest.raises(OneJumpError, match="reads the coordinates of a low-rank jump"):
        EarlyExit(small_llama(), Identity(), gate=Learned({1: 0.5}, {1: [0, 1]}))


def test_calibration_keeps_a_learned_gate_where_coordinates_tell() -> None:
    kinds = [kind for kind in GATES if kind != "patience"]

    def observed(seed: int) -> tuple[Observed, Any]:
        p, z, hits = drawn(1500, 2, seed)
        tokens = np.where(hits, 0, 1)
        return Observed(dict.fromkeys(kinds, p), tokens, hits, np.arange(1500) % 150), z

    (seen, of_seen), (unseen, of_unseen) = observed(2), observed(3)
    flops = Flops(below=1000.0 * np.arange(LEVELS + 1), check=10.0, head=2000.0)
    for guarantee in (None, 0.8):
        table, named = calibrated(seen, unseen, flops, [0.9], guarantee, (of_seen, of_unseen))
        assert named["gates"]["90%"]["kind"] == "learned"
        saved = table.set_index("gate")["flops_saved"]
        assert saved["learned"] > saved["top-probability"] + 0.05
        assert table.set_index("gate")["agreement"]["learned"] > 0.88
        gate = any_gate_from_dict(named["gates"]["90%"], LEVELS)
        assert isinstance(gate, Learned)
        # What was measured is what the gate does, with numbers that have been through JSON.
        weights = np.zeros((LEVELS, 4))
        weights[list(gate.levels)] = list(gate.weights.values())
        again = unseen._replace(
            confidence={"learned": agreement_of(weights, unseen.confidence["margin"], of_unseen)}
        )
        agreed, _ = exits_of(gate, again)
        assert named["measured"]["90%"]["agreement"] == pytest.approx(agreed.mean())


@pytest.mark.parametrize("kind", ["one-jump", "one-residual"])
def test_without_weights_of_coordinates_exits_are_those_of_the_probability(kind: str) -> None:
    (jump,) = trained(kind, 3, 32)
    tokens, mask = padded([prompt(7, 0), prompt(5, 1)])
    thresholds = {1: 0.055, 2: 0.05}
    gates = (
        TopProbability(thresholds),
        Learned(thresholds, {level: [0.0, 1.0, *[0.0] * RANK] for level in (1, 2)}),
    )
    for mode in ("verified", "trusted", "copied"):
        plain, learned = (
            EarlyExit(small_llama(), jump, gate=gate, mode=mode, packed=False).generate(
                tokens, attention_mask=mask, max_new_tokens=12, do_sample=False
            )
            for gate in gates
        )
        assert learned.new_tokens == plain.new_tokens
        if mode != "verified":
            assert learned.exit_levels == plain.exit_levels
            assert {1, 2} & set(learned.exit_levels[0])
            checks = (learned.flops - plain.flops) / gates[1].flops
            assert checks == int(checks) > 0


def test_exits_while_generating_are_those_of_the_states_coordinates() -> None:
    model = small_llama()
    (jump,) = trained("one-jump", 3, 32)
    gate = Learned({1: 0.5}, {1: [0.0, 0.0, 1.0, 0.0, 0.0]})
    # Without a draft that has to wait for the full model, only the gate decides.
    engine = EarlyExit(model, jump, gate=gate, mode="trusted", policy=Fixed(30), packed=False)
    record = engine.generate(prompt(7), max_new_tokens=20, do_sample=False)
    with torch.inference_mode():
        states = model(record.sequences, output_hidden_states=True).hidden_states[1][0]
    z = jump.at(1).reduce(states)[:, 0]
    # A token is predicted from the state of the one before it; the first comes from the pass over the prompt.
    expected = [1 if float(z[7 + place - 1]) >= 0 else 3 for place in range(1, 20)]
    # The last one is the full model's own, which catches up in the same pass.
    assert record.exit_levels[0][1:-1] == expected[:-1]
    assert set(expected) == {1, 3}


def test_coordinates_of_a_store_are_those_of_each_levels_jump(levels_of_data: Any, make_store: Any) -> None:
    states = levels_of_data(4, 20, 32)
    store = make_store(states)
    chosen = torch.arange(20) % 3 > 0
    for kind in ("one-jump", "one-residual"):
        (jump,) = trained(kind, 3, 32)
        found = coordinates_of(store, jump.at, chosen, "cpu")
        assert found is not None
        assert found.shape == (13, 3, RANK)
        for level in range(3):
            at = jump.at(level)
            expected = getattr(at, "first", at).reduce(torch.from_numpy(states[level])[chosen])
            np.testing.assert_allclose(found[:, level], expected, rtol=1e-5, atol=1e-6)
    identity = Identity()
    assert coordinates_of(store, lambda _: identity, None, "cpu") is None
