"""The stage "shortcuts": fit one method's shortcuts from every level to the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from onejump.device import pick_device
from onejump.distillation import Distiller
from onejump.errors import OneJumpError, StudyError
from onejump.exact import Moments, fit_jtc, fit_n_njtc, fit_njtc, fit_residual
from onejump.files import replacing
from onejump.gradient import fit_gradient
from onejump.head import Head
from onejump.held_out import hold_out_samples
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
        "residual": lambda moments: fit_residual(moments, r),
    }
    for level in tqdm(sources, unit="level", disable=None):
        yield solvers[method](gather_moments(store, [level], device))


def fit_distilled(
    store: ActivationStore,
    head: Head,
    method: str,
    options: dict[str, Any],
    *,
    held_out: Tensor,
    seed: int,
) -> Iterable[Shortcut]:
    """Distil level after level, or one jump for all levels."""
    rank, sources = rank_for(store.hidden, options.get("rank")), range(store.levels - 1)
    distiller = Distiller(
        store,
        head,
        held_out=held_out,
        norm=head.config.norm if options["normalise"] else None,
        seed=seed,
        **{name: options[name] for name in ("sharpness", "steps", "batch", "learning_rate", "patience")},
    )
    if method == "one-jump":
        yield distiller.one_jump(sources, rank, options["statistics"])
        return
    for level in sources:
        yield distiller.affine(level) if method == "affine" else distiller.one_jump([level], rank).at(0)


def fit_shortcuts(
    output: Path,
    shards: Sequence[Path],
    *,
    method: str,
    options: dict[str, Any],
    seed: int,
    head: Path | None = None,
    corpus: Path | None = None,
    device: str = "auto",
) -> None:
    """The stage: fit a method to the training shards and write its folder.

    Parameters
    ----------
    output : Path
        The method's folder.
    shards : sequence of Path
        Training shards.
    method : {"jtc", "njtc", "n-njtc", "joint", "residual", "distilled", "one-jump", "affine"}
    options : dict
        The study's options of the method.
    seed : int
        Of what draws random numbers: the gradient solver and distillation.
    head, corpus : Path
        Of the model and the corpus stage, for what is distilled.
    device : str

    Raises
    ------
    StudyError
        If the rank is over H.
    """
    store = ActivationStore(shards)
    rank = options.get("rank")
    rank_for(store.hidden, rank)
    solver = options.get("solver", "distillation")
    about = {"method": method, "solver": solver, "samples": store.samples}
    on = pick_device(device)
    fitted: Iterable[Shortcut]
    if solver == "distillation":
        assert head is not None
        assert corpus is not None
        held_out = hold_out_samples(store, corpus, options["held_out"], seed)
        fitted = fit_distilled(store, Head.load(head).to(on), method, options, held_out=held_out, seed=seed)
    elif solver == "gradient":
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
                raise OneJumpError(f"the {method} fit of level {level} is not finite (solver {solver})")
            source = None if method in ("joint", "one-jump") else level
            save_shortcut(shortcut_path(fresh, source), shortcut, {**about, "level": source})
