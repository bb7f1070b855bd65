"""The exit head against jump, then norm, then full head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead

MakeHead = Callable[..., Head]


@given(
    seed=st.integers(0, 10_000),
    rank=st.integers(1, 6),
    norm=st.sampled_from(["rms", "layer"]),
    shifted=st.booleans(),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
    scale=st.sampled_from([1.0, 0.25]),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
    activation=st.sampled_from([None, None, "gelu", "tanh"]),
    first=st.sampled_from([None, "rms", "layer"]),
)
def test_logits_are_those_of_the_whole_way(
    make_head: MakeHead,
    seed: int,
    rank: int,
    norm: str,
    shifted: bool,
    bias: bool,
    softcap: float | None,
    scale: float,
    size: float,
    activation: str | None,
    first: str | None,
) -> None:
    options = {"activation": activation, "first": first if activation else None}
    head = make_head(12, 31, norm, bias=bias, softcap=softcap, scale=scale, seed=seed, **options).double()
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, 12, generator=generator).double()  # of any rows, orthonormal or not
    shift = torch.randn(12, generator=generator).double() if shifted else None
    reduced = size * torch.randn(2, 5, rank, generator=generator).double()
    states = reduced @ basis if shift is None else reduced @ basis + shift
    exit_head = ExitHead(head, basis, shift)
    found = exit_head.logits(reduced.clone())
    torch.testing.assert_close(found, head.logits(states), rtol=1e-6, atol=1e-8)
    assert exit_head.coordinates(reduced).shape[-1] == len(exit_head.projection)


def test_a_transform_costs_no_copy_of_the_unembedding(make_head: MakeHead) -> None:
    head = make_head(12, 31, "layer", activation="gelu")
    exit_head = ExitHead(head, torch.ones(3, 12))
    assert exit_head.projection.data_ptr() == head.unembedding.data_ptr()


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("k", [1, 4])
def test_top_is_the_softmaxs(k: int, activation: str | None, make_head: MakeHead) -> None:
    head = make_head(12, 31, "rms", activation=activation)
    generator = torch.Generator().manual_seed(0)
    basis, reduced = torch.randn(3, 12, generator=generator), torch.randn(7, 3, generator=generator)
    expected = head.logits(reduced @ basis).softmax(-1).topk(k)
    found = ExitHead(head, basis).top(reduced, k)
    torch.testing.assert_close(found.probabilities, expected.values)
    assert torch.equal(found.tokens, expected.indices)


def test_states_without_length_have_logits(make_head: MakeHead) -> None:
    """Rounding must not make the square of a length negative."""
    head = make_head(12, 31, "rms")
    basis = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    reduced = torch.tensor([[1.0, 0.3, -0.2], [1e-4, 1e-4, 1e-4], [0.0, 0.0, 0.0]])
    cancelled = ExitHead(head, torch.cat([basis, basis]), None)
    both = torch.cat([1e3 * reduced, -1e3 * reduced], -1)
    assert bool(cancelled.logits(both).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("biased", [False, True])
def test_the_exit_head_takes_half_precision(
    make_head: Callable[..., Head], biased: bool, activation: str | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(5)
    bias = torch.randn(8, generator=generator) if biased else None
    head = make_head(8, 20, "layer", activation=activation)
    exit_head = ExitHead(head, torch.randn(3, 8, generator=generator), bias)
    reduced = (1000 * torch.randn(5, 3, generator=generator)).to(dtype)
    torch.testing.assert_close(exit_head.logits(reduced), exit_head.logits(reduced.float()), rtol=0, atol=0)
    assert exit_head.top(reduced, 2).probabilities.dtype == torch.float32
