"""The papers' solver against the exact one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from onejump.data.store import ActivationStore
from onejump.fitting.options import FitOptions, GradientOptions
from onejump.fitting.solvers import exact
from onejump.fitting.solvers.gradient import fit
from onejump.shortcuts.shortcut import LowRank

CPU = torch.device("cpu")


def gradient(store: ActivationStore, method: str, *, epochs: int, seed: int = 0) -> list[LowRank]:
    options = FitOptions("gradient", 2, GradientOptions(epochs, batch=50, learning_rate=0.05))
    return fit(store, method, 2, options, seed=seed, device=CPU)


def training_errors(shortcuts: list[LowRank], states: np.ndarray) -> list[float]:
    """Mean squared error of each shortcut on the inputs that it was fitted to."""
    last = states[-1].astype(np.float64)
    found = []
    for level in range(len(states) - 1):
        shortcut = shortcuts[level if len(shortcuts) > 1 else 0].double()
        predicted = shortcut(torch.from_numpy(states[level]).double()).numpy()
        found.append(float(np.square(predicted - last).mean()))
    return found if len(shortcuts) > 1 else [float(np.mean(found))]


@pytest.mark.parametrize("method", ["njtc", "n-njtc", "joint"])
def test_gradient_comes_close_to_the_optimum_and_never_below(
    method: str, make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray]
) -> None:
    states = levels_of_data(4, 600, 24)
    states[:-1, :, 3] *= 30  # a large coordinate, as hidden states have
    store = make_store(states, sizes=[350, 250])
    best = training_errors(list(exact.fit(store, method, 2, device=CPU)), states)  # type: ignore[arg-type]
    found = training_errors(gradient(store, method, epochs=60), states)
    assert len(best) == len(found) == (1 if method == "joint" else 3)
    for optimum, reached in zip(best, found, strict=True):
        assert optimum * (1 - 1e-6) <= reached <= 1.03 * optimum


@pytest.mark.parametrize("method", ["njtc", "joint"])
def test_a_seed_decides_the_result(
    method: str, make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray]
) -> None:
    store = make_store(levels_of_data(3, 90, 6))
    one, same, other = (gradient(store, method, epochs=2, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(one, same, other, strict=True):
        for name, tensor in a.state_dict().items():
            assert torch.equal(tensor, b.state_dict()[name])
        assert not torch.equal(a.down, c.down)
