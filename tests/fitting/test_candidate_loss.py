"""The loss within candidates against whole heads, candidate by candidate, and torch's own gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onejump.fitting import candidate_loss as module
from onejump.fitting.candidate_loss import candidate_loss
from onejump.fitting.teacher import Teacher
from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead

H, R, N, TAUGHT = 12, 3, 11, 7


class Example:
    """A head, a first jump, and samples with their teacher, in float64."""

    def __init__(self, head: Head, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.head, self.up, self.bias = head.double(), normal(R, H), normal(H)
        self.exit_head = ExitHead(self.head, self.up, self.bias)
        self.reduced = normal(N, R)
        self.judging = (3 * normal(N, H)).requires_grad_()
        self.weights = normal(N, 2).requires_grad_()
        tokens = torch.stack(
            [torch.randperm(head.vocabulary, generator=generator)[:TAUGHT] for _ in range(N)]
        )
        self.teacher = Teacher(tokens, normal(N, TAUGHT).softmax(1))

    def loss(self, k: int) -> torch.Tensor:
        return candidate_loss(self.exit_head, self.reduced, self.judging, self.weights, k, self.teacher)

    def expected(self, k: int) -> torch.Tensor:
        """Mean over samples of -sum w ln p, by whole heads."""
        first = self.head.logits(self.reduced @ self.up + self.bias)
        features = self.head.features(self.judging) @ self.head.unembedding.T
        if self.head.logit_bias is not None:
            features = features + self.head.logit_bias
        own = self.head.config.scale * features
        if (cap := self.head.config.softcap) is not None:
            own = cap * (own / cap).tanh()
        # Where no token of the teacher is a candidate, the gradients are zero.
        total = 0 * (self.judging.sum() + self.weights.sum())
        for row in range(N):
            order = sorted(range(self.head.vocabulary), key=lambda token: -float(first[row, token]))[:k]
            scores = torch.stack(
                [self.weights[row, 0] * first[row, t] + self.weights[row, 1] * own[row, t] for t in order]
            )
            for token, weight in zip(
                self.teacher.tokens[row].tolist(), self.teacher.weights[row].tolist(), strict=True
            ):
                if token in order:
                    total = total - weight * (scores[order.index(token)] - scores.logsumexp(0)) / N
        return total


@given(
    vocabulary=st.sampled_from([31, 97, 512]),
    candidates=st.sampled_from([1, 9, 600]),
    norm=st.sampled_from(["rms", "layer"]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
    scale=st.sampled_from([1.0, 0.25]),
    activation=st.sampled_from([None, "gelu"]),
    block=st.sampled_from([1, 4, 100]),
    seed=st.integers(0, 10_000),
)
def test_loss_and_gradients_are_those_of_whole_heads(
    make_head: Callable[..., Head],
    vocabulary: int,
    candidates: int,
    norm: str,
    bias: bool,
    softcap: float | None,
    scale: float,
    activation: str | None,
    block: int,
    seed: int,
) -> None:
    head = make_head(
        H, vocabulary, norm, bias=bias, softcap=softcap, scale=scale, seed=seed, activation=activation
    )
    example = Example(head, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOGITS_TOGETHER", {"cpu": block * max(vocabulary, candidates * H)})
        found = example.loss(candidates)
    expected = example.expected(candidates)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)
    inputs = [example.judging, example.weights]
    gradients = torch.autograd.grad(2 * found, inputs), torch.autograd.grad(2 * expected, inputs)
    for of_loss, of_whole in zip(*gradients, strict=True):
        torch.testing.assert_close(of_loss, of_whole, rtol=1e-6, atol=1e-10)


def test_a_sample_none_of_whose_tokens_is_a_candidate_adds_nothing(make_head: Callable[..., Head]) -> None:
    example = Example(make_head(H, 97), 0)
    worst = example.head.logits(example.reduced @ example.up + example.bias).argsort(1)[:, :TAUGHT]
    example.teacher = Teacher(worst, example.teacher.weights)
    loss = example.loss(8)
    assert float(loss.detach()) == 0
    for gradient in torch.autograd.grad(loss, [example.judging, example.weights]):
        assert not bool(gradient.any())


def test_without_gradients_the_loss_is_the_same(make_head: Callable[..., Head]) -> None:
    example = Example(make_head(H, 512, softcap=3.0), 0)
    with torch.no_grad():
        assert torch.equal(example.loss(9), example.loss(9).detach())
    assert torch.equal(example.loss(9).detach(), example.loss(9).detach())
