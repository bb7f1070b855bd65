"""one-forward: what it reads, its closed form, and what it knows more than one-jump."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.data.store import ActivationStore
from onejump.exits.gate_training import coordinates_of
from onejump.exits.observed import observe
from onejump.fitting.distiller import DistillationOptions, Distiller
from onejump.fitting.kinds import one_forward, one_jump
from onejump.fitting.low_rank import closed_form
from onejump.models.head import Head
from onejump.scoring.evaluation import evaluate
from onejump.shortcuts.files import ShortcutFolder, save_shortcuts
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.one_forward import OneForward

H, V, K, LEVELS, SAMPLES = 12, 40, 6, 3, 600
OPTIONS = DistillationOptions(
    normalise=True, sharpness=1.0, steps=150, batch=64, learning_rate=0.02, patience=9
)
PREVIOUS = {"previous": True}


@pytest.fixture
def head(make_head: Callable[..., Head]) -> Head:
    return make_head(H, V)


@pytest.fixture
def states() -> np.ndarray:
    """Half of the last level's state is known from the early ones, the other half from the one before."""
    drawn = np.random.default_rng(3)
    early, before = drawn.normal(size=(LEVELS, SAMPLES, H)), drawn.normal(size=(SAMPLES, H))
    before[:: SAMPLES // 20] = 0
    last = np.concatenate([early.sum(0)[:, : H // 2], before[:, H // 2 :]], 1)
    return np.concatenate([early, last[None], before[None]]).astype(np.float32)


@pytest.fixture
def store(make_store: Callable[..., ActivationStore], states: np.ndarray, head: Head) -> ActivationStore:
    return make_store(states, sizes=[350, 250], head=head, top_k=K, attributes=PREVIOUS)


def distiller(store: ActivationStore, head: Head, *, previous: bool, **changes: object) -> Distiller:
    held_out = torch.arange(SAMPLES) % 5 == 4
    options = replace(OPTIONS, **changes)
    return Distiller(store, head, options, trained=~held_out, stopping=held_out, seed=0, previous=previous)


def test_states_before_stand_behind_those_of_early_levels(store: ActivationStore, states: np.ndarray) -> None:
    assert (store.levels, store.width, store.samples) == (LEVELS + 1, H, SAMPLES)
    np.testing.assert_array_equal(store.level(LEVELS), states[LEVELS])
    both = store.with_previous()
    assert (both.levels, both.hidden, both.width) == (LEVELS + 1, H, 2 * H)
    np.testing.assert_array_equal(both.level(LEVELS), states[LEVELS])
    for level in range(LEVELS):
        expected = np.concatenate([states[level], states[-1]], 1)
        np.testing.assert_array_equal(both.level(level), expected)
        np.testing.assert_array_equal(both.shard(1, [level])[0], expected[350:])
        np.testing.assert_array_equal(both.rows(np.array([2, 351]), [level])[0], expected[[2, 351]])
    np.testing.assert_array_equal(store.level(0), states[0])


def test_the_closed_form_is_least_squares_of_both_normalised_states(
    store: ActivationStore, head: Head, states: np.ndarray
) -> None:
    fit = distiller(store, head, previous=True)
    start = closed_form(fit, [1], H)
    kept = fit.trained.numpy()

    def normalised(of: np.ndarray) -> np.ndarray:
        return of / np.sqrt((of.astype(np.float64) ** 2).mean(1, keepdims=True) + head.config.eps)

    inputs = np.concatenate([normalised(states[1]), normalised(states[-1])], 1)
    targets = head.essence(torch.from_numpy(states[LEVELS])).double().numpy()
    design = np.concatenate([inputs, np.ones((SAMPLES, 1))], 1)
    expected = design @ np.linalg.lstsq(design[kept], targets[kept], rcond=None)[0]
    standardised = (torch.from_numpy(inputs).float() - start.mean) * start.scale
    found = standardised @ start.down @ start.up + start.bias
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=2e-3)


def test_a_level_that_counts_twice_is_there_twice(store: ActivationStore, head: Head) -> None:
    fit = distiller(store, head, previous=True)
    weighted = closed_form(fit, [0, 2], 3, [2.0, 1.0])
    twice = closed_form(fit, [0, 0, 2], 3)
    torch.testing.assert_close(weighted.down @ weighted.up, twice.down @ twice.up, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighted.up, twice.up, rtol=1e-4, atol=1e-5)


def test_levels_are_drawn_as_often_as_they_count(store: ActivationStore, head: Head) -> None:
    """Early levels make the drafts: level l of one-forward counts 1 / (l + 1) times."""
    seen = torch.zeros(LEVELS)

    class Watched(Distiller):
        def train(self, model: torch.nn.Module, rates: Any, loss: Any, levels: Any, **options: Any) -> None:
            def watching(states: Tensor, level: Tensor, teacher: Any) -> Tensor:
                if torch.is_grad_enabled():
                    seen.index_add_(0, level, torch.ones(len(level)))
                return loss(states, level, teacher)

            super().train(model, rates, watching, levels, **options)

    held_out = torch.arange(SAMPLES) % 5 == 4
    options = replace(OPTIONS, steps=40, patience=99)
    roles = {"trained": ~held_out, "stopping": held_out}
    fit = Watched(store, head, options, **roles, seed=0, previous=True)
    one_forward.by_distillation(fit, range(LEVELS), 2)
    counts = torch.tensor([1, 1 / 2, 1 / 3])
    torch.testing.assert_close(seen / seen.sum(), counts / counts.sum(), rtol=0, atol=0.04)
    assert seen.sum() == 40 * OPTIONS.batch


@pytest.mark.parametrize("statistics", ["shared", "level"])
def test_it_knows_what_one_jump_cannot_see(statistics: str, store: ActivationStore, head: Head) -> None:
    forward = one_forward.by_distillation(
        distiller(store, head, previous=True, statistics=statistics), range(LEVELS), 6
    )
    jump = one_jump.by_distillation(
        distiller(store, head, previous=False, statistics=statistics), range(LEVELS), 6
    )
    own = LEVELS * {"shared": 36, "level": 2 * H}[statistics]
    assert forward.numbers() == 2 * H * 6 + 6 * H + H + LEVELS * 6 + own
    found, alone = (
        evaluate(store, head, {"method": one.at}, precision_at=(1,)).set_index(["metric", "level"])["value"]
        for one in (forward, jump)
    )
    assert (found["surprisal"] < alone["surprisal"] - 0.2).all()
    assert (found["precision@1"] > alone["precision@1"]).all()


def test_what_is_measured_is_what_it_predicts(store: ActivationStore, head: Head, states: np.ndarray) -> None:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    jump = OneForward(normal(2 * H, 4), normal(LEVELS, 4), normal(4, H), normal(H), "rms", 1e-6)
    final = head.logits(torch.from_numpy(states[LEVELS])).argmax(-1).numpy()
    observed = observe(store, head, jump.at, documents=np.arange(SAMPLES))
    coordinates = coordinates_of(store, jump.at, None, "cpu")
    assert coordinates is not None
    table = evaluate(store, head, {"one-forward": jump.at}, precision_at=(1,))
    precision = table[table["metric"] == "precision@1"].set_index("level")["value"]
    for level in range(LEVELS):
        halves = [
            torch.nn.functional.rms_norm(torch.from_numpy(of), (H,), eps=1e-6) for of in states[[level, -1]]
        ]
        reduced = torch.cat(halves, 1) @ jump.down + jump.offset[level]
        np.testing.assert_allclose(coordinates[:, level], reduced, rtol=1e-4, atol=1e-4)
        tokens = head.logits(reduced @ jump.up + jump.bias).argmax(-1).numpy()
        np.testing.assert_array_equal(observed.tokens[:, level], tokens)
        assert precision[level] == pytest.approx((tokens == final).mean())


def test_it_comes_back_from_its_file_and_says_what_it_is(
    tmp_path: Path, store: ActivationStore, head: Head
) -> None:
    jump = one_forward.by_distillation(distiller(store, head, previous=True, steps=0), range(LEVELS), 2)
    save_shortcuts(tmp_path / "one-forward", [jump], {}, levels=LEVELS, one=True)
    again = ShortcutFolder(tmp_path / "one-forward").load(1)
    assert again.reads_previous
    both = torch.from_numpy(store.with_previous().level(1))
    assert torch.equal(again(both), jump.at(1)(both))
    assert repr(jump) == "OneForward(kind=one-forward, hidden=12, rank=2, norm=rms, level=0..2)"


def test_zeros_before_a_text_stay_zeros() -> None:
    jump = OneForward(torch.ones(2 * H, 1), torch.zeros(1, 1), torch.ones(1, H), torch.zeros(H), "rms", 1e-6)
    states = torch.cat([torch.ones(1, H), torch.zeros(1, H)], 1)
    assert jump.at(0).reduce(states).item() == pytest.approx(H, rel=1e-4)


def test_states_that_are_not_kept_are_asked_for_in_vain(
    make_store: Callable[..., ActivationStore], store: ActivationStore, head: Head, states: np.ndarray
) -> None:
    jump = one_forward.by_distillation(distiller(store, head, previous=True, steps=0), range(LEVELS), 2)
    without = make_store(states[:-1], head=head, top_k=K)
    with pytest.raises(OneJumpError, match="are not kept here: a study that fits one-forward keeps them"):
        evaluate(without, head, {"one-forward": jump.at}, precision_at=(1,))
    with pytest.raises(OneJumpError, match="measure them one by one"):
        evaluate(store, head, {"one-forward": jump.at, "identity": lambda _: Identity()}, precision_at=(1,))
