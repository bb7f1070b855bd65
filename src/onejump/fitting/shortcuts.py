"""The stage "shortcuts": fit one method's shortcuts from every level to the last one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.errors import StudyError
from onejump.base.rank import rank_for
from onejump.data.document_roles import THRESHOLDS
from onejump.data.held_out import samples_with_role
from onejump.data.store import ActivationStore
from onejump.fitting.exact import Moments, fit_jtc, fit_n_njtc, fit_njtc, fit_residual
from onejump.fitting.few_samples import few_samples
from onejump.fitting.gradient import fit_gradient
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.shortcut import Shortcut

_LOG = logging.getLogger(__name__)


def gather_moments(
    store: ActivationStore,
    levels: Iterable[int],
    device: torch.device | str = "cpu",
    held_out: Tensor | None = None,
) -> Moments:
    """Moments of (state at a level, state at the last level), of all samples and given levels together.

    Parameters
    ----------
    store : ActivationStore
    levels : iterable of int
    device : torch.device
    held_out : Tensor of shape (samples,), bool, optional
        Samples to leave out.
    """
    moments = Moments.empty(store.hidden, device)
    kept = None if held_out is None else (~held_out).numpy()
    for level in levels:
        for states, targets in store.blocks([level, store.levels - 1], kept):
            moments.add(torch.from_numpy(states).to(device), torch.from_numpy(targets).to(device))
    return moments


def fit_exact(
    store: ActivationStore,
    method: str,
    rank: float | None,
    device: torch.device,
    held_out: Tensor | None = None,
) -> Iterable[Shortcut]:
    """Fit level after level, each at its global optimum; one shortcut for all levels if joint."""
    sources = range(store.levels - 1)
    r = rank_for(store.hidden, rank)
    if method == "joint":
        every = tqdm(sources, unit="level", disable=None)
        yield fit_n_njtc(gather_moments(store, every, device, held_out), r)
        return
    solvers: dict[str, Callable[[Moments], Shortcut]] = {
        "jtc": fit_jtc,
        "njtc": lambda moments: fit_njtc(moments, r),
        "n-njtc": lambda moments: fit_n_njtc(moments, r),
        "residual": lambda moments: fit_residual(moments, r),
    }
    for level in tqdm(sources, unit="level", disable=None):
        yield solvers[method](gather_moments(store, [level], device, held_out))


def fit_shortcuts(
    output: Path,
    shards: Sequence[Path],
    *,
    method: str,
    options: dict[str, Any],
    seed: int,
    documents: Path | None = None,
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
    documents : Path, optional
        Table of the stage "document roles": then those for thresholds are not fitted to. The exact solver
        only.
    device : str

    Raises
    ------
    StudyError
        If the rank is over H, or the gradient solver is to hold documents out.
    """
    store = ActivationStore(shards)
    rank = options.get("rank")
    rank_for(store.hidden, rank)
    solver = options["solver"]
    about = {"method": method, "solver": solver, "samples": store.samples}
    unseen = None
    if documents is not None:
        if solver != "exact":
            raise StudyError(
                f"{method}: the {solver} solver given, which fits to all documents: to hold some out, solver "
                "exact is accepted"
            )
        unseen = samples_with_role(store, documents, THRESHOLDS)
        about["samples"] -= int(unseen.sum())
    fitted_together = store.levels - 1 if method == "joint" else 1
    if note := few_samples(method, about["samples"] * fitted_together, store.hidden):
        _LOG.warning("%s", note)
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
        fitted = fit_exact(store, method, rank, on, unseen)
    save_shortcuts(
        output, fitted, about, levels=store.levels - 1, one=method == "joint", model_digest=store.model_digest
    )
