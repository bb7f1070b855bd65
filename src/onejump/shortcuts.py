"""The stage "shortcuts": fit one method's shortcuts from every level to the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from onejump.device import pick_device
from onejump.errors import OneJumpError, StudyError
from onejump.exact import Moments, fit_jtc, fit_n_njtc, fit_njtc
from onejump.files import replacing
from onejump.gradient import fit_gradient
from onejump.maps import Shortcut, save_shortcut, shortcut_path
from onejump.store import ActivationStore


def rank_for(hidden: int, rank: int | None = None) -> int:
    """r: as given, or floor(H / 100), at least 1 (OJFA, section 4).

    Raises
    ------
    StudyError
        If it is not between 1 and H.
    """
    if rank is None:
        return max(1, hidden // 100)
    if not 1 <= rank <= hidden:
        raise StudyError(f"rank: {rank} given, 1 to H = {hidden} accepted")
    return rank


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
    method : {"jtc", "njtc", "n-njtc", "joint"}
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
    about = {"method": method, "solver": options["solver"], "samples": store.samples}
    on = pick_device(device)
    fitted: Iterable[Shortcut]
    if options["solver"] == "gradient":
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
    with replacing(output) as fresh:
        fresh.mkdir()
        for level, shortcut in enumerate(fitted):
            if not all(bool(torch.isfinite(tensor).all()) for tensor in shortcut.state_dict().values()):
                raise OneJumpError(
                    f"the {method} fit of level {level} is not finite (solver {options['solver']})"
                )
            source = None if method == "joint" else level
            save_shortcut(shortcut_path(fresh, source), shortcut, {**about, "level": source})
