"""The second look of a shortlist: weights against torch's own optimiser, fits by what they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_distillation import OPTIONS, some_held_out

from onejump.data.store import ActivationStore
from onejump.fitting.distiller import Distiller
from onejump.fitting.kinds import one_residual, shortlist
from onejump.fitting.second_look import fitted_weights, weighted
from onejump.models.head import Head
from onejump.shortcuts.kinds.shortlist import Shortlist
from onejump.shortcuts.shortlist_head import ShortlistHead

H, V, K, LEVELS = 12, 40, 6, 4


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_weights_are_the_optimum_of_a_conditional_logit_model(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    looks = torch.randn(400, 8, 2, generator=generator) * torch.tensor([1.0, size])
    noise = -(-torch.rand(400, 8, generator=generator).log()).log()
    right = (looks @ torch.tensor([0.7, 1.5 / size]) + noise).argmax(1)
    found = fitted_weights(looks, right)
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, 1 / size], dtype=torch.float64)
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(looks.double() @ (weights * scale), right)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found.double(), (weights * scale).detach(), rtol=1e-3, atol=1e-5)


def test_weights_stay_finite_where_all_is_right_or_nothing_is_there() -> None:
    looks = torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(0))
    looks[:, 0] = 10.0
    found = fitted_weights(looks, torch.zeros(20, dtype=torch.int64))
    assert bool(torch.isfinite(found).all())
    assert bool(torch.isfinite(fitted_weights(looks[:0], torch.zeros(0, dtype=torch.int64))).all())
    same = fitted_weights(torch.ones(7, 5, 2), torch.zeros(7, dtype=torch.int64))
    assert bool(torch.isfinite(same).all())


@pytest.fixture
def distiller(
    make_head: Callable[..., Head],
    make_store: Callable[..., ActivationStore],
    levels_of_data: Callable[..., np.ndarray],
) -> Callable[..., Distiller]:
    head = make_head(H, V)
    store = make_store(levels_of_data(LEVELS + 1, 600, H), sizes=[350, 250], head=head, top_k=K)
    held_out = some_held_out(store.samples)

    def made(**changes: Any) -> Distiller:
        given = {"candidates": 8, "correction": 3, "correction_steps": 80} | changes
        options = replace(OPTIONS, **given)
        return Distiller(store, head, options, trained=~held_out, stopping=held_out, seed=0)

    return made


def loss_of(distiller: Distiller, jump: Shortlist, level: int) -> float:
    """Cross-entropy to the model's own token, on the samples for stopping."""
    rows = distiller.stopping
    states = torch.from_numpy(distiller.store.level(level))[rows]
    logits = ShortlistHead(distiller.head, jump).logits(jump.at(level), states)
    return float(torch.nn.functional.cross_entropy(logits.double(), distiller.teacher.tokens[rows, 0]))


def test_a_second_look_is_better_than_none_and_a_correction_better_than_the_state(
    distiller: Callable[..., Distiller],
) -> None:
    fit = distiller(steps=60)
    plain = shortlist.by_distillation(fit, range(LEVELS), 2)
    corrected = one_residual.by_distillation(fit, range(LEVELS), 2)
    assert corrected.correction == 3
    without = Shortlist(plain.first, torch.tensor([[1.0, 0.0]]).repeat(LEVELS, 1), plain.candidates)
    losses = [
        np.mean([loss_of(fit, jump, level) for level in range(LEVELS)])
        for jump in (corrected, plain, without)
    ]
    assert losses == sorted(losses)
    for level in range(LEVELS):
        assert loss_of(fit, plain, level) <= loss_of(fit, without, level) + 1e-6


def precision_of(distiller: Distiller, jump: Shortlist) -> np.ndarray:
    """Whether the prediction is the model's own token, (samples for stopping, levels)."""
    rows = distiller.stopping
    own = distiller.teacher.tokens[rows, 0]
    head = ShortlistHead(distiller.head, jump)
    found = []
    for level in range(LEVELS):
        states = torch.from_numpy(distiller.store.level(level))[rows]
        found.append((head.logits(jump.at(level), states).argmax(1) == own).numpy())
    return np.stack(found, 1).astype(float)


@pytest.mark.parametrize("kind", [shortlist, one_residual])
def test_k_is_the_smallest_that_is_as_good_as_the_best(
    distiller: Callable[..., Distiller], kind: Any
) -> None:
    possible = [1, 2, 8, 16, 64]
    fit = distiller(steps=20, candidates=[64, 2, 1, 16, 8, 8])
    chosen = kind.by_distillation(fit, range(LEVELS), 2)
    # The same jumps with each k: a correction is trained through the most candidates.
    jumps = {k: weighted(fit, chosen.first, chosen.second, range(LEVELS), [k]) for k in possible}
    hits = {k: precision_of(fit, jump).mean(1) for k, jump in jumps.items()}
    best = max(hits.values(), key=lambda of: of.mean())
    enough = [
        k
        for k in possible
        # Each sentence of this store has one sample.
        if (best - hits[k]).mean() <= (best - hits[k]).std() / len(best) ** 0.5
    ]
    assert chosen.candidates == enough[0]
    assert possible[0] < chosen.candidates < possible[-1]
    torch.testing.assert_close(chosen.weights, jumps[chosen.candidates].weights)
    assert torch.equal(kind.by_distillation(fit, range(LEVELS), 2).weights, chosen.weights)


def test_the_same_seed_gives_the_same_jump(distiller: Callable[..., Distiller]) -> None:
    jumps = [one_residual.by_distillation(distiller(steps=10), range(LEVELS), 2) for _ in range(2)]
    for one, other in zip(jumps[0].buffers(), jumps[1].buffers(), strict=True):
        assert torch.equal(one, other)
