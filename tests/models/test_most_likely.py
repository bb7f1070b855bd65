"""The most likely tokens against a loop over the vocabulary, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onejump.models.most_likely import likeliest, most_likely, top_probability


@given(
    vocabulary=st.sampled_from([1, 2, 7, 96, 97, 128, 1000, 8191]),
    rows=st.integers(1, 5),
    spread=st.sampled_from([0.0, 1.0, 100.0]),
    levels=st.sampled_from([3, 10**6]),
    seed=st.integers(0, 10_000),
)
def test_the_token_is_the_first_of_the_largest_logits(
    vocabulary: int, rows: int, spread: float, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randint(levels, (rows, vocabulary), generator=generator).float() / levels
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert likeliest(logits)[:, 0].tolist() == expected
    probabilities = []
    for row in logits.tolist():
        largest = max(row)
        probabilities.append(1 / math.fsum(math.exp(logit - largest) for logit in row))
    found = most_likely(logits)
    assert found.tokens[:, 0].tolist() == expected
    torch.testing.assert_close(found.probabilities[:, 0].tolist(), probabilities, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(96,), (3, 96), (2, 3, 97)])
def test_leading_dimensions_stay(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    best = logits.max(-1)
    assert torch.equal(likeliest(logits)[..., 0], best.indices)
    probabilities, tokens = most_likely(logits, 3)
    assert probabilities.shape == tokens.shape == (*shape[:-1], 3)
    assert torch.equal(tokens[..., 0], best.indices)


def test_logits_are_overwritten_only_if_they_may_be() -> None:
    logits = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    expected = most_likely(logits)
    assert torch.equal(logits, before)
    found = most_likely(logits.clone(), overwrite=True)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.probabilities, expected.probabilities)
    # What is trained through cannot be overwritten.
    trained = before.requires_grad_()
    most_likely(1 * trained, overwrite=True).probabilities.sum().backward()
    assert trained.grad is not None


def test_a_logit_that_is_not_a_number_is_not_hidden() -> None:
    logits = torch.zeros(1, 96)
    logits[0, 50] = torch.nan
    assert bool(most_likely(logits).probabilities.isnan().all())


def test_the_top_probability_alone_is_that_of_the_most_likely_token() -> None:
    logits = 30 * torch.randn(2, 5, 97, generator=torch.Generator().manual_seed(0))
    logits[0, 0], logits[0, 1, 1:] = 3.0, -torch.inf
    expected = logits.double().softmax(-1).amax(-1)
    torch.testing.assert_close(top_probability(logits).double(), expected, rtol=1e-5, atol=0)
