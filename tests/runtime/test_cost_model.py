import numpy as np
import pytest
from simulated_engine import Engine, generate

from onejump.base.errors import OneJumpError
from onejump.runtime.acceptance import Expected
from onejump.runtime.cost_model import CostModel, Fixed, Round, RoundSeen
from onejump.runtime.round_seconds import RoundSeconds, amounts_of

# Milliseconds of a pass of 1 to 16 tokens of the default model on two cores, weights not packed.
UNPACKED = (73, 132, 138, 145, 145, 145, 145, 145, 146, 147, 148, 149, 150, 151, 152, 153)
# A jump that was fitted to other text.
FOREIGN = {"exits": (0.9, 0.5, 0.5), "kept": (0.22, 0.3, 0.4), "more_of": {1: 0, 2: 0.13, 4: 0.25, 8: 0.35}}
HOPELESS = {"exits": (0.9,) * 3, "kept": (0.05,) * 3, "more_of": {1: 0, 2: 0.02, 4: 0.04, 8: 0.06}}
STRICT = {"exits": (0.15, 0.2, 0.3), "kept": (0.95,) * 3}


def model_of(engine: Engine, **options) -> CostModel:
    return CostModel(engine.levels, engine.blocks, **options)


def informed(engine: Engine) -> CostModel:
    """A cost model that knows the engine's acceptance, and what a pass costs that is linear in its tokens."""
    expected = {
        level: Expected(*of) for level, *of in zip(engine.levels, engine.exits, engine.kept, strict=True)
    }
    model = model_of(engine, expected=expected)
    one, two, three = (engine.blocks * engine.block(tokens) / 1000 for tokens in (1, 2, 3))
    model.seconds.costs = np.array(
        [one + engine.head / 1000, two - one - (three - two), three - two, one, engine.check / 1000, 0.0, 0.0]
    )
    return model


def test_a_chain_gives_one_token_and_those_that_are_kept_in_a_row() -> None:
    engine = Engine(levels=(5,), exits=(1,), kept=(0.6,))
    for drafts in range(1, 9):
        law = 1 + sum(0.6**number for number in range(1, drafts + 1))
        assert informed(engine).promise(Round(drafts)).tokens == pytest.approx(law)


@pytest.mark.parametrize("levels", [(5,), (3, 4, 20)])
@pytest.mark.parametrize("width", [1, 4])
def test_a_round_promises_the_mean_over_all_ways_that_it_can_go(levels, width) -> None:
    linear = [70, *(90 + 3 * tokens for tokens in range(15))]
    some = slice(len(levels))
    exits, kept = (0.3, 0.6, 0.4)[some], ((0.5, 0.7, 0.9) if width == 1 else (0.6,) * 3)[some]
    # Four candidates double the odds of 0.6 / 0.4.
    more_of = {1: 0.0, 4: (0.75 - 0.6) / 0.4}
    engine = Engine(levels, exits=exits, kept=kept, more_of=more_of, of_tokens=linear)
    for drafts in (1, 2, 4):
        for count in range(1, len(levels) + 1):
            plan = Round(drafts, width, levels[:count])
            tokens, seconds = engine.mean(plan)
            promised = informed(engine).promise(plan)
            assert promised.tokens == pytest.approx(tokens)
            # Of several pending tokens, the mean level is taken for the lowest one.
            assert promised.seconds == pytest.approx(seconds, rel=1e-9 if len(levels) == 1 else 0.02)


@pytest.mark.parametrize("case", [{}, FOREIGN, STRICT], ids=["default", "foreign", "strict"])
def test_it_comes_near_the_best_of_all_rounds_within_tens_of_tokens(case) -> None:
    best, plan = Engine(**case).best()
    assert plan.drafts
    rates = []
    for seed in range(6):
        engine = Engine(**case, noise=0.05, seed=seed)
        policy = model_of(engine)
        generate(engine, policy, 60)
        tokens, seconds, _ = generate(engine, policy, 300)
        rates.append(tokens / seconds)
    assert np.mean(rates) > 0.92 * best
    assert np.mean(rates) > 1.05 * engine.plain


@pytest.mark.parametrize(
    "case",
    [
        HOPELESS,
        FOREIGN | {"of_tokens": UNPACKED},
        {"exits": (0, 0, 0)},
        {"kept": (0, 0, 0), "more_of": dict.fromkeys((1, 2, 4, 8), 0)},
    ],
    ids=["hopeless", "unpacked", "never exits", "never kept"],
)
def test_it_costs_under_one_percent_where_drafting_does_not_pay(case) -> None:
    assert Engine(**case).best()[1].drafts == 0
    early, late, drafted = [], [], 0
    for seed in range(4):
        engine = Engine(**case, seed=seed)
        policy = model_of(engine)
        for rates, count in ((early, 64), (late, 1000)):
            tokens, seconds, rounds = generate(engine, policy, count)
            rates.append(tokens / seconds / engine.plain)
        drafted += sum(seen.plan.drafts > 0 for seen in rounds)
    assert np.mean(late) > 0.99
    assert np.mean(early) > 0.92
    assert drafted >= 4, "it never tried again"


def test_what_hope_may_cost_is_limited(monkeypatch) -> None:
    monkeypatch.setattr("onejump.runtime.cost_model._OPTIMISM", 10.0)
    engine = Engine(**HOPELESS)
    policy = model_of(engine)
    generate(engine, policy, 100)
    tokens, seconds, _ = generate(engine, policy, 1000)
    assert tokens / seconds > 0.98 * engine.plain


def test_it_follows_when_the_text_changes() -> None:
    engine = Engine(**HOPELESS, seed=1)
    policy = model_of(engine)
    generate(engine, policy, 1000)
    engine.kept = (0.9, 0.9, 0.9)
    generate(engine, policy, 300)
    tokens, seconds, _ = generate(engine, policy, 200)
    assert tokens / seconds > 1.3 * engine.plain
    engine.kept = (0.05, 0.05, 0.05)
    generate(engine, policy, 300)
    tokens, seconds, _ = generate(engine, policy, 500)
    assert tokens / seconds > 0.97 * engine.plain


def test_a_calibration_spares_it_the_tries() -> None:
    engine = Engine(**HOPELESS)
    told = {level: Expected(0.9, 0.05) for level in engine.levels}
    tries = []
    for expected in (None, told):
        _, _, rounds = generate(Engine(**HOPELESS), model_of(engine, expected=expected), 100)
        tries.append(sum(seen.plan.drafts > 0 for seen in rounds))
    assert tries[1] < tries[0] / 2


def test_the_same_observations_give_the_same_choices() -> None:
    first, second = model_of(Engine()), model_of(Engine())
    engine = Engine(noise=0.2)
    for _ in range(100):
        plan = first.next_round()
        assert plan == second.next_round()
        seen = engine.run(plan)
        first.learn(seen)
        second.learn(seen)


def test_what_candidates_cost_besides_their_tokens_is_learned() -> None:
    """Candidates side by side need a mask of their own, which a chain of as many tokens does not."""

    def true(drafts: int, width: int) -> float:
        """A pass of 30 ms, 2.5 for each further token, 0.8 for each check and 6 for candidates."""
        return 30 + 1.5 * (drafts > 0) + 2.5 * (drafts + width - 1) + 0.8 * drafts + 6 * (width > 1)

    seconds, drawn = RoundSeconds(), np.random.default_rng(0)
    for number in range(120):
        drafts = 0 if number < 2 else int(drawn.integers(0, 4))
        width = int(drawn.choice([1, 2, 4])) if drafts else 1
        seconds.learn(amounts_of(30, [0] * drafts, width=width, checks=drafts), true(drafts, width))
    for drafts, width in ((0, 1), (1, 1), (1, 2), (3, 1), (1, 4)):
        amounts = amounts_of(30, [0] * drafts, width=width, checks=drafts)
        assert amounts @ seconds.costs == pytest.approx(true(drafts, width), rel=0.01)


def test_a_disturbed_round_changes_little() -> None:
    engine = Engine(**STRICT)
    policy = model_of(engine)
    generate(engine, policy, 200)
    seen = engine.run(policy.next_round())
    for seconds in (seen.seconds * 1000, 0.0, float("nan")):
        policy.learn(RoundSeen(**{**vars(seen), "seconds": seconds}))
    tokens, seconds, _ = generate(engine, policy, 100)
    assert tokens / seconds > 0.9 * engine.best()[0]


def test_without_levels_all_rounds_are_plain() -> None:
    policy = CostModel((), 30)
    _, _, rounds = generate(Engine(), policy, 20)
    assert {seen.plan for seen in rounds} == {Round(0)}


def test_it_asks_for_no_tree_where_there_is_none() -> None:
    engine = Engine(**FOREIGN)
    _, _, rounds = generate(engine, model_of(engine, widths=(1,)), 200)
    assert {seen.plan.width for seen in rounds} == {1}


def test_the_fixed_policy_asks_for_the_same_round() -> None:
    policy = Fixed(2, 4, (3,))
    _, _, rounds = generate(Engine(), policy, 20)
    assert {seen.plan for seen in rounds} == {Round(2, 4, (3,))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Round(-1), "drafts -1, width 1 and recalled 0 given"),
        (lambda: Fixed(1, 0), "drafts 1, width 0 and recalled 0 given"),
        (lambda: Fixed(1, 1, (4, 2)), r"levels \[4, 2\] of a round given, accepted are rising ones"),
        (lambda: CostModel((3, 30), 30), r"levels \[3, 30\] given, accepted are rising ones from 0 to 29"),
        (lambda: CostModel((5, 3), 30), r"levels \[5, 3\] given"),
        (lambda: CostModel((3,), 30, widths=(2,)), r"widths \[2\] given"),
        (lambda: CostModel((3,), 30, most_drafts=0), "most_drafts 0 "),
    ],
)
def test_what_cannot_be_is_refused(make, message) -> None:
    with pytest.raises(OneJumpError, match=message):
        make()
