"""The stage "shortcuts": fit one method's shortcuts from every level to the last one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from onejump.base.by_name import module_named
from onejump.base.device import pick_device
from onejump.base.rank import rank_for
from onejump.data.document_roles import THRESHOLDS
from onejump.data.held_out import samples_with_role
from onejump.data.store import ActivationStore
from onejump.fitting.few_samples import few_samples
from onejump.fitting.options import FitOptions
from onejump.shortcuts.files import save_shortcuts

_LOG = logging.getLogger(__name__)


def fit_shortcuts(
    folder: Path,
    shards: Sequence[Path],
    *,
    method: str,
    options: FitOptions,
    seed: int,
    documents: Path | None = None,
    device: str = "auto",
) -> None:
    """Fit a method to the training shards and write its folder: the stage.

    Parameters
    ----------
    folder : Path
        The method's folder, which is written whole or not at all.
    shards : sequence of Path
        Training shards.
    method : str
        The name of a module of `onejump.fitting.kinds` that its solver can fit: jtc, njtc, n-njtc, joint or
        residual.
    options : FitOptions
    seed : int
        Used by the gradient solver only.
    documents : Path, optional
        Table of the stage "document roles". If it is given, the documents for thresholds are not fitted to,
        which only the exact solver can do.
    device : str

    Raises
    ------
    StudyError
        If the rank is over H, or the gradient solver is to leave documents out.
    """
    store = ActivationStore(shards)
    rank = rank_for(store.hidden, options.rank)
    kind = module_named("fitting.kinds", method, what="method")
    solver = module_named("fitting.solvers", options.solver, what="solver")
    held_out = None if documents is None else samples_with_role(store, documents, THRESHOLDS)
    samples = store.samples - (0 if held_out is None else int(held_out.sum()))
    fitted_together = store.levels - 1 if kind.ONE_FOR_ALL_LEVELS else 1
    if note := few_samples(method, samples * fitted_together, store.hidden):
        _LOG.warning("%s", note)
    fitted = solver.fit(
        store, method, rank, options, seed=seed, held_out=held_out, device=pick_device(device)
    )
    about = {"method": method, "solver": options.solver, "samples": samples}
    save_shortcuts(
        folder,
        fitted,
        about,
        levels=store.levels - 1,
        one=kind.ONE_FOR_ALL_LEVELS,
        model_digest=store.model_digest,
    )
