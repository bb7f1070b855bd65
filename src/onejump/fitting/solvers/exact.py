"""The exact solver: every shortcut at its global optimum, from moments gathered in one pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.by_name import module_named
from onejump.data.store import ActivationStore
from onejump.fitting.moments import gather_moments
from onejump.fitting.options import FitOptions
from onejump.shortcuts.shortcut import Shortcut


def fit(
    store: ActivationStore,
    method: str,
    rank: int,
    options: FitOptions | None = None,
    *,
    seed: int = 0,
    held_out: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Shortcut]:
    """Fit a method level after level, or once to the states of all levels together.

    Parameters
    ----------
    store : ActivationStore
        Training samples.
    method : str
        A name of a module in `onejump.fitting.kinds` that fits from moments.
    rank : int
        r.
    options : FitOptions, optional
        The exact solver has none.
    seed : int
        Not used: the exact solver draws no random numbers.
    held_out : Tensor of shape (samples,), bool, optional
        Samples to leave out.
    device : torch.device

    Yields
    ------
    Shortcut
        One for each level, from level 0 on, or a single one for all levels.
    """
    kind = module_named("fitting.kinds", method, what="method")
    levels = tqdm(range(store.levels - 1), unit="level", disable=None)
    if kind.ONE_FOR_ALL_LEVELS:
        yield kind.from_moments(gather_moments(store, levels, device, held_out), rank)
        return
    for level in levels:
        yield kind.from_moments(gather_moments(store, [level], device, held_out), rank)
