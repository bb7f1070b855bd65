"""The shortlist head against whole heads in float64, token by token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onejump.models.head import Head
from onejump.models.most_likely import largest
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.shortlist import Shortlist
from onejump.shortcuts.shortlist_head import ShortlistHead, own_logits

MakeHead = Callable[..., Head]
H, V, LEVELS, R = 12, 31, 3, 2


@pytest.mark.parametrize("vocabulary", [31, 97, 512, 1024, 32_000, 50_257])
@pytest.mark.parametrize("k", [1, 7, 31])
def test_the_largest_are_those_that_torch_finds(vocabulary: int, k: int) -> None:
    logits = torch.randn(2, 3, vocabulary, generator=torch.Generator().manual_seed(k))
    logits[0, 0, : vocabulary // 2] = -torch.inf
    values, tokens = largest(logits, k)
    expected = logits.topk(k)
    finite = expected.values.isfinite()
    assert torch.equal(values, expected.values)
    assert torch.equal(tokens[finite], expected.indices[finite])
    assert torch.equal(logits.gather(-1, tokens), values)


@given(
    vocabulary=st.sampled_from([31, 97, 512, 992]),
    k=st.sampled_from([1, 5, 16, 31]),
    kinds=st.sampled_from([1, 2, 40]),
    seed=st.integers(0, 10_000),
)
def test_of_equal_logits_any_are_found_each_once(vocabulary: int, k: int, kinds: int, seed: int) -> None:
    logits = torch.randint(kinds, (3, vocabulary), generator=torch.Generator().manual_seed(seed)).float()
    values, tokens = largest(logits, k)
    for row in range(3):
        assert values[row].tolist() == sorted(logits[row].tolist(), reverse=True)[:k]
        assert len(set(tokens[row].tolist())) == k
        assert logits[row][tokens[row]].tolist() == values[row].tolist()


def test_a_logit_that_is_not_a_number_is_among_the_largest() -> None:
    logits = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    logits[0, 300] = torch.nan
    assert bool(largest(logits, 5)[0].isnan().any())


def shortlist_of(head: Head, norm: str | None, corrected: bool, candidates: int, seed: int) -> Shortlist:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def one_jump(rank: int) -> OneJump:
        shared = normal(H, rank), normal(LEVELS, rank), normal(rank, H), normal(H)
        return OneJump(*shared, norm, head.config.eps, mix=normal(LEVELS, rank, rank))  # type: ignore[arg-type]

    weights = normal(LEVELS, 2).abs()
    return Shortlist(one_jump(R), weights, candidates, one_jump(3) if corrected else None)


@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["rms", "layer"]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
    scale=st.sampled_from([1.0, 0.25]),
    activation=st.sampled_from([None, None, "gelu"]),
    normalise=st.booleans(),
    corrected=st.booleans(),
    candidates=st.sampled_from([1, 5, V]),
    level=st.integers(0, LEVELS - 1),
)
def test_candidates_are_judged_by_the_state_and_other_tokens_keep_their_probability(
    make_head: MakeHead,
    seed: int,
    norm: str,
    bias: bool,
    softcap: float | None,
    scale: float,
    activation: str | None,
    normalise: bool,
    corrected: bool,
    candidates: int,
    level: int,
) -> None:
    head = make_head(H, V, norm, bias=bias, softcap=softcap, scale=scale, seed=seed, activation=activation)
    head = head.double()
    jump = shortlist_of(head, norm if normalise else None, corrected, candidates, seed).double()
    at = jump.at(level).double()
    states = torch.randn(2, 3, H, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = ShortlistHead(head, at).logits(at, states)

    first = head.logits(jump.first.at(level).double()(states)).softmax(-1)
    judges = states
    if jump.second is not None:
        length = torch.ones(())
        if normalise:
            deviations = states - states.mean(-1, keepdim=True) if norm == "layer" else states
            length = (deviations.square().mean(-1, keepdim=True) + head.config.eps).sqrt()
        judges = states + length * jump.second.at(level).double()(states)
    own = head.logits(judges)
    a, b = jump.weights[level].tolist()
    for row in range(2):
        for column in range(3):
            q, s, p = first[row, column], own[row, column], found[row, column].softmax(-1)
            best = sorted(range(V), key=lambda token: -float(q[token]))[:candidates]
            scores = torch.stack([a * q[token].log() + b * s[token] for token in best]).exp()
            expected = q.clone()
            for token, score in zip(best, scores, strict=True):
                expected[token] = q[best].sum() * score / scores.sum()
            torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-9)
            assert int(p.argmax()) in best


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("vocabulary", [V, 512])
@pytest.mark.parametrize("corrected", [False, True])
def test_the_most_likely_tokens_are_those_of_the_logits(
    make_head: MakeHead, softcap: float | None, vocabulary: int, corrected: bool
) -> None:
    head = make_head(H, vocabulary, bias=True, softcap=softcap)
    jump = shortlist_of(head, "rms", corrected, 8, 0)
    states = 30 * torch.randn(5, H, generator=torch.Generator().manual_seed(0))
    exit_head = ShortlistHead(head, jump)
    for level in range(LEVELS):
        top = exit_head.top(jump.at(level), states, 3)
        probabilities = exit_head.logits(jump.at(level), states).double().softmax(-1)
        expected = probabilities.gather(1, top.tokens)
        torch.testing.assert_close(top.probabilities.double(), expected, rtol=1e-5, atol=0)
        assert torch.equal(top.tokens[:, 0], probabilities.argmax(1))
        assert bool((top.probabilities.diff(dim=1) <= 0).all())


def test_states_in_half_precision_are_judged_in_full_precision(make_head: MakeHead) -> None:
    head = make_head(H, 512)
    jump = shortlist_of(head, "rms", True, 8, 0)
    exit_head = ShortlistHead(head, jump)
    states = torch.randn(2, 3, H, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = exit_head.logits(jump.at(0), states)
    assert found.dtype == torch.float32
    assert torch.equal(found, exit_head.logits(jump.at(0), states.float()))
    for one, other in zip(
        exit_head.top(jump.at(0), states), exit_head.top(jump.at(0), states.float()), strict=True
    ):
        assert torch.equal(one, other)


def test_one_state_is_judged_as_among_many(make_head: MakeHead) -> None:
    head = make_head(H, 512)
    jump = shortlist_of(head, "rms", True, 8, 0)
    exit_head = ShortlistHead(head, jump)
    states = torch.randn(21, H, generator=torch.Generator().manual_seed(0))
    together = exit_head.top(jump.at(1), states)
    for row in range(21):
        alone = exit_head.top(jump.at(1), states[row : row + 1])
        torch.testing.assert_close(alone.probabilities[0], together.probabilities[row])
        assert torch.equal(alone.tokens[0], together.tokens[row])


def test_as_many_candidates_as_tokens_and_no_weight_of_the_first_jump_is_the_state_s_own_head(
    make_head: MakeHead,
) -> None:
    head = make_head(H, V)
    jump = shortlist_of(head, "rms", False, 10 * V, 0)
    jump.weights[:] = torch.tensor([0.0, 1.0])
    states = torch.randn(4, H, generator=torch.Generator().manual_seed(1))
    found = ShortlistHead(head, jump).logits(jump.at(1), states)
    torch.testing.assert_close(
        found.log_softmax(-1), head.logits(states).log_softmax(-1), rtol=1e-4, atol=1e-4
    )


def test_its_multiplications_are_those_of_the_exit_head_and_the_candidates_rows(make_head: MakeHead) -> None:
    head = make_head(H, V)
    jump = shortlist_of(head, "rms", True, 8, 0)
    exit_head = ShortlistHead(head, jump)
    # z to logits with a bias, and z and the bias to the length that the norm divides by.
    assert exit_head.multiplications(jump.at(0)) == V * (R + 1) + (R + 1) ** 2 + 8 * H


def test_own_logits_have_the_gradient_of_a_plain_product(make_head: MakeHead) -> None:
    head = make_head(H, V, bias=True, softcap=3.0).double()
    states = torch.randn(19, H, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.randint(V, (19, 5), generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda given: own_logits(head, given, tokens), states.requires_grad_())
    torch.testing.assert_close(
        own_logits(head, states, tokens), head.logits(states.detach()).gather(1, tokens)
    )


def test_own_logits_are_given_on_any_device(make_head: MakeHead) -> None:
    head = make_head(H, V, bias=True, softcap=3.0).to("meta")
    found = own_logits(
        head, torch.empty(300, H, device="meta"), torch.empty(300, 5, dtype=torch.int64, device="meta")
    )
    assert found.shape == (300, 5)
    assert found.device.type == "meta"
