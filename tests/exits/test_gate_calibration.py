import numpy as np
import pytest
import torch
from jumps_at_random import trained
from random_exits import small_llama
from simulated_exits import some_shortcuts

from onejump.exits.calibration import Calibration
from onejump.exits.choosing import LevelThresholds
from onejump.exits.gate_calibration import calibrated, expected_of, flops_of
from onejump.exits.gate_search import Flops, best_gate, exits_of
from onejump.exits.gates import GATES, Margin, Patience, gate_from_dict
from onejump.exits.observed import SURE, Observed, confidences_of, observe
from onejump.exits.sweep import Sweep
from onejump.models.flops import block_flops
from onejump.models.transformer import Transformer

LEVELS, V = 6, 30
FLOPS = Flops(below=10.0 * np.arange(LEVELS + 1), check=1.0, head=20.0)


def drawn(samples: int, seed: int, documents: int = 50) -> tuple[torch.Tensor, Observed]:
    """Logits (n, L, V) that know more about the last token the deeper the level is, and what is observed."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(V, (samples,), generator=generator)
    logits = torch.randn(samples, LEVELS, V, generator=generator)
    strength = 6 * torch.rand(samples, 1, generator=generator) * torch.linspace(0.3, 1.2, LEVELS)
    logits.scatter_add_(2, truth[:, None, None].expand(-1, LEVELS, 1), strength[..., None])
    none = torch.empty(samples, 0, dtype=torch.long)
    confidence = {
        kind: np.stack([GATES[kind].confidence(logits[:, level], none).numpy() for level in range(LEVELS)], 1)
        for kind in GATES
        if kind != "patience"
    }
    tokens = logits.argmax(-1).numpy()
    hits = tokens == truth[:, None].numpy()
    return logits, Observed(confidence, tokens, hits, np.arange(samples) % documents)


def by_hand(gate, logits: torch.Tensor, hits: np.ndarray) -> tuple[list[bool], list[int]]:
    """Run the gate over each sample, level by level, as generation does; the level is L where none exits."""
    agreed, levels = [], []
    for sample, of_sample in enumerate(logits):
        earlier = torch.empty(1, 0, dtype=torch.long)
        agreed.append(True)
        levels.append(LEVELS)
        for level in gate.levels:
            at = of_sample[level][None]
            if gate.exits(level, at, earlier):
                agreed[-1], levels[-1] = bool(hits[sample, level]), level
                break
            earlier = torch.cat([earlier, at.argmax(-1)[None]], 1)
    return agreed, levels


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("target", [0.9, 0.95])
def test_a_chosen_gate_gives_while_generating_what_was_counted(kind, target) -> None:
    logits, found = drawn(600, 0)
    chosen = best_gate(kind, target, found, FLOPS)
    assert chosen is not None
    agreed, levels = by_hand(chosen.gate, logits, found.hits)
    assert np.mean(agreed) == pytest.approx(chosen.agreement)
    assert chosen.agreement >= target
    spent = [
        level * 10 + (20 if level == LEVELS else 0) + sum(checked <= level for checked in chosen.gate.levels)
        for level in levels
    ]
    assert chosen.saved == pytest.approx(1 - np.mean(spent) / 80)
    assert chosen.saved > 0.05


@pytest.mark.parametrize("kind", ["top-probability", "margin", "entropy"])
def test_it_saves_no_less_than_any_single_threshold_at_any_single_level(kind) -> None:
    _, found = drawn(600, 1)
    chosen = best_gate(kind, 0.9, found, FLOPS)
    assert chosen is not None
    best = 0.0
    for level in range(LEVELS):
        values = found.confidence[kind][:, level]
        for threshold in values:
            exits = values >= threshold
            if (found.hits[:, level] | ~exits).mean() >= 0.9:
                best = max(best, exits.mean() * (1 - level * 10 / 80) - 1 / 80)
    assert chosen.saved >= best - 0.01


def test_levels_are_left_out_where_checks_cost_more_than_they_save() -> None:
    _, found = drawn(600, 2)
    cheap = best_gate("margin", 0.9, found, FLOPS._replace(check=0.0))
    dear = best_gate("margin", 0.9, found, FLOPS._replace(check=8.0))
    assert cheap is not None
    assert dear is not None
    assert len(dear.gate.levels) < len(cheap.gate.levels)
    assert best_gate("margin", 0.9, found, FLOPS._replace(check=80.0)) is None


def test_gates_without_levels_never_exit() -> None:
    _, found = drawn(20, 3)
    agreed, _ = exits_of(Patience({}), found)
    assert agreed.all()


def test_gates_are_named_by_their_target_and_hold_on_other_samples() -> None:
    seen, unseen = drawn(2000, 4)[1], drawn(4000, 5)[1]
    table, named = calibrated(seen, unseen, FLOPS, (0.99, 0.95, 0.9))
    assert list(named["gates"]) == ["99%", "95%", "90%"]
    assert not named["refused"]
    for name, content in named["gates"].items():
        target = float(name[:-1]) / 100
        gate = gate_from_dict(content, blocks=LEVELS)
        measured = named["measured"][name]
        assert measured["agreement"] == pytest.approx(exits_of(gate, unseen)[0].mean())
        assert measured["agreement"] > target - 0.015
        assert 0 < measured["agreement_stderr"] < 0.01
        of_target = table[table["target"] == target]
        assert gate.kind == of_target.loc[of_target["held_out_flops_saved"].idxmax(), "gate"]
    assert named["measured"]["90%"]["flops_saved"] > named["measured"]["99%"]["flops_saved"]


@pytest.mark.parametrize("gate", [Margin({1: 0.6, 3: 0.4, 4: 1.0}), Patience({0: 2, 1: 2, 2: 2, 5: 3})])
def test_what_is_expected_of_a_gate_is_counted_sample_by_sample(gate) -> None:
    logits, found = drawn(300, 10)
    agreed, levels = by_hand(gate, logits, found.hits)
    expected = expected_of(gate, found)
    assert list(expected) == [str(level) for level in gate.levels]
    for level in gate.levels:
        checked = sum(left >= level for left in levels)
        here = [agreed[sample] for sample, left in enumerate(levels) if left == level]
        shares = expected[str(level)]
        assert shares["exits"] == pytest.approx((len(here) + 0.5) / (checked + 1))
        assert shares["kept"] == pytest.approx((sum(here) + 0.5) / (len(here) + 1))


# Of an even number of documents, each with as many samples, half are for thresholds.
@pytest.mark.parametrize(("samples", "documents"), [(80, 40), (960, 40), (2000, 6)])
def test_too_few_samples_give_no_gate_and_the_reason(samples, documents) -> None:
    seen, unseen = drawn(samples, 6, documents)[1], drawn(500, 7)[1]
    table, named = calibrated(seen, unseen, FLOPS, (0.99,))
    assert named["gates"] == named["measured"] == {}
    said = f"{samples // 2} held-out samples of {documents // 2} documents in the half that it is chosen on"
    assert said in named["refused"]["99%"]
    assert not table["reached"].any()
    assert (table["note"] == named["refused"]["99%"]).all()


def test_observed_confidences_are_those_of_the_head(make_head, make_store, levels_of_data) -> None:
    head = make_head(8, 40)
    store = make_store(levels_of_data(4, 60, 8), head=head)
    jumps = some_shortcuts("n-njtc", 8, 3)
    found = observe(store, head, jumps.__getitem__, documents=np.arange(60))
    own = head.logits(torch.from_numpy(store.level(3))).argmax(-1).numpy()
    for level, jump in enumerate(jumps):
        logits = head.logits(jump(torch.from_numpy(store.level(level)))).detach().double().numpy()
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        first = np.sort(p, 1)
        np.testing.assert_array_equal(found.tokens[:, level], p.argmax(1))
        np.testing.assert_array_equal(found.hits[:, level], p.argmax(1) == own)
        np.testing.assert_allclose(found.confidence["top-probability"][:, level], first[:, -1], rtol=1e-4)
        np.testing.assert_allclose(
            found.confidence["margin"][:, level], first[:, -1] - first[:, -2], atol=1e-5
        )
        entropy = 1 + (p * np.log(p)).sum(1) / np.log(40)
        np.testing.assert_allclose(found.confidence["entropy"][:, level], entropy, atol=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 41, 3200])
def test_confidences_of_one_softmax_are_those_of_the_gates(vocabulary) -> None:
    # Also probabilities that float32 cannot hold, logits of -inf and equal logits.
    logits = (
        torch.randn(60, vocabulary, generator=torch.Generator().manual_seed(8))
        * torch.logspace(-2, 2, 60)[:, None]
    )
    logits[0], logits[1, 1:], logits[2, :2] = 3.0, -torch.inf, 500.0
    sure = confidences_of(logits.clone())
    none = torch.empty(60, 0, dtype=torch.long)
    assert torch.equal(sure.tokens, logits.argmax(-1))
    for kind, found in zip(SURE, sure.of_kinds, strict=True):
        torch.testing.assert_close(found.double(), kind.confidence(logits.double(), none), rtol=0, atol=3e-6)


def test_levels_are_chosen_on_every_other_document_and_thresholds_on_the_others() -> None:
    found = drawn(600, 9)[1]
    even, odd = found.of(found.documents % 2 == 0), found.of(found.documents % 2 == 1)
    # Nothing agrees in odd documents up to a high confidence: only thresholds chosen on them are above it.
    odd_hits = found.hits.copy()
    odd_hits[(found.documents % 2 == 1)[:, None] & (found.confidence["margin"] < 0.7)] = False
    _, named = calibrated(found._replace(hits=odd_hits), found, FLOPS, (0.9,))
    table, before = calibrated(found, found, FLOPS, (0.9,))
    for row in table[table["gate"] != "patience"].itertuples():
        assert row.levels == list(best_gate(row.gate, 0.9, even, FLOPS).gate.levels)
    gate = gate_from_dict(before["gates"]["90%"])
    assert exits_of(gate, odd)[0].mean() >= 0.9
    assert min(gate_from_dict(named["gates"]["90%"]).thresholds.values()) > min(gate.thresholds.values())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["identity", "n-njtc", "one-residual"])
def test_flops_are_those_of_the_products_that_a_run_makes(tied, kind) -> None:
    model = small_llama(tie_word_embeddings=tied)
    transformer = Transformer(model)
    if kind == "one-residual":
        (shortlist,) = trained(kind, 3, transformer.hidden)
        shortcut = shortlist.at(0)
    else:
        shortcut = some_shortcuts(kind, transformer.hidden, 3)[0]
    blocks = [block.token for block in block_flops(transformer)]
    flops = flops_of(lambda level: shortcut, transformer.head, blocks)
    made: dict[str, int] = {}

    def count(name):
        def hook(linear, given, _):
            made[name] = made.get(name, 0) + 2 * given[0].numel() * linear.out_features

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count(name))
    model(torch.tensor([[5]]))
    below = [sum(n for name, n in made.items() if f"layers.{block}." in name) for block in range(3)]
    np.testing.assert_array_equal(flops.below, np.cumsum([0, *below]))
    assert flops.head == made["lm_head"]
    assert flops.whole == sum(made.values())
    # Rank 3: z, its projection to the vocabulary, and z (B B') z for the norm.
    small, vocabulary = transformer.hidden * 3, transformer.head.vocabulary
    expected = made["lm_head"] if kind == "identity" else 2 * (small + vocabulary * 3 + 3 * 3)
    if kind == "one-residual":
        # Rank 3 and a bias, 8 candidates with a row of the unembedding each, and a correction of rank 2.
        hidden = transformer.hidden
        expected = 2 * (small + vocabulary * 4 + 4 * 4 + 8 * hidden + 2 * 2 * hidden)
    assert flops.check == expected
    # A token that exits at level 2 behind a check at level 1, and one that never exits.
    assert flops.spent([1, 2], np.array([1, 2])).tolist() == [
        below[0] + below[1] + 2 * expected,
        sum(made.values()) + 2 * expected,
    ]


def test_a_guaranteed_gate_gives_while_generating_what_was_counted() -> None:
    logits, unseen = drawn(900, 1, documents=150)
    _, seen = drawn(3000, 0, documents=300)
    table, named = calibrated(seen, unseen, FLOPS, [0.9], guarantee=0.9)
    plainly, plain = calibrated(seen, unseen, FLOPS, [0.9])
    assert set(table["guarantee"]) == {0.9}
    assert plainly["guarantee"].isna().all()
    (name,) = named["gates"]
    gate = gate_from_dict(named["gates"][name], LEVELS)
    agreed, _ = by_hand(gate, logits, unseen.hits)
    measured = named["measured"][name]
    assert measured["agreement"] == pytest.approx(np.mean(agreed))
    assert measured["guarantee"] == 0.9
    assert 0 < measured["flops_saved"] < plain["measured"][name]["flops_saved"]
    for _, row in table[table["reached"]].iterrows():
        assert row["agreement"] > 0.88


def test_thresholds_of_one_lambda_are_those_of_the_scores() -> None:
    _, found = drawn(600, 0)
    confidence, saved, levels = found.confidence["margin"].clip(0, 1), np.array([0.7, 0.4, 0.1]), [1, 3, 5]
    calibration = Calibration(confidence, found.hits)
    scores = saved * (1 + calibration.odds(confidence)[:, levels])
    tried = list(LevelThresholds(confidence, found.hits).stricter_first(levels, saved))
    lambdas = Sweep(scores, found.hits[:, levels]).thresholds(500)[-2::-1]
    assert len(tried) == len(lambdas) > 100
    for thresholds, one in list(zip(tried, lambdas, strict=True))[::7]:
        exits = confidence[:, levels] >= np.array([thresholds[level] for level in levels])
        # Where a score is the threshold itself, rounding decides.
        clear = np.abs(scores / one - 1) > 1e-9
        assert (exits == (scores >= one))[clear].all()


def test_too_few_documents_guarantee_no_gate() -> None:
    _, seen = drawn(900, 0, documents=60)
    table, named = calibrated(seen, seen, FLOPS, [0.95, 0.9], guarantee=0.9)
    assert list(named["gates"]) == ["90%"]
    assert named["refused"]["95%"].endswith("tested on 40 held-out documents, and at least 45 are needed")
    assert not table[table["target"] == 0.95]["reached"].any()
