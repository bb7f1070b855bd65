"""The stage "shortcuts": fit one method's shortcuts from every level to the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from onejump.device import pick_device
from onejump.exact import Moments, fit_jtc, fit_n_njtc, fit_njtc, fit_residual
from onejump.gradient import fit_gradient
from onejump.maps import Shortcut, rank_for, save_shortcuts
from onejump.store import ActivationStore


def gather_moments(
    store: ActivationStore, levels: Iterable[int], device: torch.device | str = "cpu"
) -> Moments:
    """Moments of (state at a level, state at the last level), of all samples and given levels together."""
    moments = Moments.empty(store.hidden, device)
    for level in levels:
        for states, targets in store.blocks([level, store.levels - 1]):
            moments.add(torch.from_numpy(states).to(device), torch.from_numpy(targets).to(device))
    return moments


def fit_exact(
    store: ActivationStore, method: str, rank: int | None, device: torch.device
) -> Iterable[Shortcut]:
    """Fit level after level, each at its global optimum; one shortcut for all levels if joint."""
    sources = range(store.levels - 1)
    r = rank_for(store.hidden, rank)
    if method == "joint":
        yield fit_n_njtc(gather_moments(store, tqdm(sources, unit="level", disable=None), device), r)
        return
    solvers: dict[str, Callable[[Moments], Shortcut]] = {
        "jtc": fit_jtc,
        "njtc": lambda moments: fit_njtc(moments, r),
        "n-njtc": lambda moments: fit_n_njtc(moments, r),
        "residual": lambda moments: fit_residual(moments, r),
    }
    for level in tqdm(sources, unit="level", disable=None):
        yield solvers[method](gather_moments(store, [level], device))


def fit_shortcuts(
    output: Path,
    shards: Sequence[Path],
    *,
    method: str,
    options: dict[str, Any],
    seed: int,
    device: str = "auto",
) -> None:
    """The stage: fit a method to the training shards and write its folder.

    Parameters
    ----------
    output : Path
        The method's folder.
    shards : sequence of Path
        Training shards.
    method : {"jtc", "njtc", "n-njtc", "joint", "residual"}
    options : dict
        The study's options of the method.
    seed : int
        Of the gradient solver.
    device : str

    Raises
    ------
    StudyError
        If the rank is over H.
    """
    store = ActivationStore(shards)
    rank = options.get("rank")
    rank_for(store.hidden, rank)
    solver = options["solver"]
    about = {"method": method, "solver": solver, "samples": store.samples}
    on = pick_device(device)
    fitted: Iterable[Shortcut]
    if solver == "gradient":
        fitted = fit_gradient(
            store,
            rank_for(store.hidden, rank),
            normalised=method != "njtc",
            joint=method == "joint",
            seed=seed,
            device=on,
            **options["gradient"],
        )
    else:
        fitted = fit_exact(store, method, rank, on)
    save_shortcuts(output, fitted, about, one=method == "joint")
