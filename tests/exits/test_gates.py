import math

import numpy as np
import pytest
import torch

from onejump.base.errors import GateError
from onejump.exits.gates import GATES, Entropy, Margin, Patience, TopProbability, gate_from_dict

NONE = torch.empty(40, 0, dtype=torch.long)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def logits(request) -> torch.Tensor:
    drawn = torch.randn(40, 97, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # From nearly even to nearly certain.
    return (drawn * torch.linspace(0, 30, 40)[:, None]).to(request.param)


def probabilities(logits: torch.Tensor) -> np.ndarray:
    """Softmax in float64, row by row."""
    rows = [np.exp(row - row.max()) for row in logits.double().numpy()]
    return np.stack([row / math.fsum(row) for row in rows])


def test_the_top_probability_is_that_of_softmax(logits) -> None:
    np.testing.assert_allclose(
        TopProbability.confidence(logits, NONE), probabilities(logits).max(1), rtol=1e-5
    )


def test_the_margin_is_between_the_two_most_likely_tokens(logits) -> None:
    sorted_ = np.sort(probabilities(logits), 1)
    np.testing.assert_allclose(
        Margin.confidence(logits, NONE), sorted_[:, -1] - sorted_[:, -2], rtol=1e-4, atol=1e-7
    )


def test_the_margin_of_two_equally_likely_tokens_is_zero() -> None:
    tied = torch.tensor([[1.0, 3.0, 3.0, -2.0], [3.0, 3.0, 3.0, 3.0]])
    assert Margin.confidence(tied, NONE[:2]).tolist() == [0.0, 0.0]


def test_the_entropy_is_divided_by_that_of_even_probabilities(logits) -> None:
    expected = []
    for row in probabilities(logits):
        seen = row[row > 0]
        expected.append(1 + (seen * np.log(seen)).sum() / math.log(97))
    np.testing.assert_allclose(Entropy.confidence(logits, NONE), expected, atol=2e-6)
    assert Entropy.confidence(torch.full((1, 50), 7.0), NONE[:1]).item() == pytest.approx(0, abs=1e-6)


def test_impossible_tokens_do_not_disturb() -> None:
    whole = torch.tensor([[2.0, 1.0, 0.5, -1.0]])
    masked = torch.cat([whole, torch.full((1, 3), -math.inf)], 1)
    for kind in (TopProbability, Margin):
        torch.testing.assert_close(kind.confidence(masked, NONE[:1]), kind.confidence(whole, NONE[:1]))
    bits = [1 - Entropy.confidence(of, NONE[:1]).item() for of in (whole, masked)]
    assert bits[0] * math.log(4) == pytest.approx(bits[1] * math.log(7), rel=1e-5)


def test_patience_counts_levels_in_a_row(logits) -> None:
    generator = torch.Generator().manual_seed(1)
    predicted = logits.argmax(1)
    earlier = torch.randint(0, 97, (40, 5), generator=generator)
    earlier = torch.where(torch.rand(40, 5, generator=generator) < 0.7, predicted[:, None], earlier)
    expected = []
    for token, before in zip(predicted.tolist(), earlier.tolist(), strict=True):
        count = 1
        while count <= len(before) and before[-count] == token:
            count += 1
        expected.append(count)
    assert Patience.confidence(logits, earlier).tolist() == expected
    assert len(set(expected)) > 3
    assert Patience.confidence(logits, NONE).tolist() == [1] * 40


def test_each_level_has_its_own_threshold(logits) -> None:
    top = torch.from_numpy(probabilities(logits).max(1))
    gate = TopProbability({7: 0.9, 2: 0.5})
    assert gate.levels == (2, 7)
    for level, threshold in ((2, 0.5), (7, 0.9)):
        assert gate.exits(level, logits, NONE).tolist() == (top >= threshold).tolist()
    assert 0 < gate.exits(7, logits, NONE).sum() < gate.exits(2, logits, NONE).sum() < 40
    with pytest.raises(GateError, match=r"top-probability: level 3 given, it checks 2, 7$"):
        gate.exits(3, logits, NONE)


def test_a_confidence_that_just_reaches_the_threshold_exits() -> None:
    even, same = torch.zeros(1, 4), torch.zeros(1, 1, dtype=torch.long)
    assert TopProbability({1: 0.25}).exits(1, even, same)
    assert Margin({1: 0}).exits(1, even, same)
    assert Patience({1: 2}).exits(1, even, same)
    assert not Patience({1: 3}).exits(1, even, same)


@pytest.mark.parametrize("kind", GATES)
def test_a_gate_changes_no_logits_and_does_not_exit_where_they_are_no_numbers(kind, logits) -> None:
    gate, before = GATES[kind]({1: 1}), logits.clone()
    gate.exits(1, logits, NONE)
    assert torch.equal(logits, before)
    if kind != "patience":
        broken = torch.full((1, 97), math.nan)
        assert not gate_from_dict({"kind": kind, "levels": [1], "thresholds": [0.0]}).exits(
            1, broken, NONE[:1]
        )


@pytest.mark.parametrize("kind", GATES)
def test_a_gate_is_made_again_of_its_values(kind) -> None:
    gate = GATES[kind]({4: 1, 0: 1, 29: 1})
    assert gate_from_dict(gate.to_dict(), blocks=30) == gate
    assert gate_from_dict(gate.to_dict()).to_dict() == {
        "kind": kind,
        "levels": [0, 4, 29],
        "thresholds": [1, 1, 1],
    }
    assert gate_from_dict({"kind": kind, "levels": [], "thresholds": []}).levels == ()
    assert gate != GATES[kind]({4: 1})
    assert len({gate, GATES[kind]({0: 1, 4: 1, 29: 1})}) == 1


def _dict(kind: object = "margin", levels: object = (1, 2), thresholds: object = (0.5, 0.5)) -> dict:
    return {"kind": kind, "levels": levels, "thresholds": thresholds}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "margin"}, "gate: keys kind given, accepted are kind, levels, thresholds"),
        (_dict() | {"rank": 1}, "gate: keys kind, levels, thresholds, rank given"),
        ([1], r"gate: keys \[1\] given"),
        (_dict("luck"), "gate: kind 'luck' given, accepted is top-probability, margin, entropy, patience"),
        (_dict([]), r"gate: kind \[\] given"),
        (_dict(levels="12"), "gate margin: levels '12' given, accepted is a list"),
        (_dict(thresholds=0.5), r"gate margin: thresholds 0\.5 given, accepted is a list"),
        (_dict(levels=[1]), "gate margin: 1 levels and 2 thresholds given"),
        (_dict(levels=[1, 30]), "gate margin: level 30 given, accepted is a whole number from 0 to 29"),
        (_dict(levels=[-1, 30]), "gate margin: level -1 given"),
        (_dict(levels=[1.5, 2]), r"gate margin: level 1\.5 given"),
        (_dict(levels=[True, 2]), "gate margin: level True given"),
        (_dict(levels=[2, 2]), "gate margin: levels 2, 2 given, each one is accepted once"),
        (
            _dict(thresholds=[0.5, math.nan]),
            "threshold nan given for level 2, accepted is a number from 0 to 1",
        ),
        (_dict(thresholds=[math.inf, 0]), "threshold inf given for level 1"),
        (_dict(thresholds=["0.5", 0]), "threshold '0.5' given for level 1"),
        (
            _dict("patience", thresholds=[2, 0]),
            "threshold 0 given for level 2, accepted is a whole number from 1",
        ),
        (_dict("patience", thresholds=[2.5, 1]), r"threshold 2\.5 given for level 1"),
    ],
)
def test_an_impossible_gate_is_refused_in_one_line(content, message) -> None:
    with pytest.raises(GateError, match=message) as caught:
        gate_from_dict(content, blocks=30)
    assert "\n" not in str(caught.value)
