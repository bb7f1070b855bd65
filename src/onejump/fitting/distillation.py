"""The stage "distillation": train a method's shortcuts on the model's distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from onejump.base.by_name import module_named
from onejump.base.device import pick_device
from onejump.base.identity import one_model
from onejump.base.rank import rank_for
from onejump.data.document_roles import FIT, STOPPING
from onejump.data.held_out import drawn_among, samples_with_role
from onejump.data.store import ActivationStore
from onejump.fitting.distiller import DistillationOptions, Distiller
from onejump.models.head import Head
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.shortcut import Shortcut


def distil(
    folder: Path,
    shards: Sequence[Path],
    head: Path,
    documents: Path,
    *,
    method: str,
    options: DistillationOptions,
    seed: int,
    samples: int | None = None,
    device: str = "auto",
) -> None:
    """Distil a method's shortcuts from the training shards and write its folder: the stage.

    Parameters
    ----------
    folder : Path
        The method's folder, which is written whole or not at all.
    shards : sequence of Path
        Training shards.
    head : Path
        The head that the stage "model" wrote.
    documents : Path
        Table of the stage "document roles". Documents for stopping and for thresholds are not trained on.
    method : str
        The name of a module of `onejump.fitting.kinds` that fits by distillation: distilled, one-jump,
        one-forward or affine.
    options : DistillationOptions
    seed : int
        Decides the samples that are drawn.
    samples : int, optional
        The most samples to train on, drawn at random among all that may be trained on.
    device : str

    Raises
    ------
    StudyError
        If the rank is over H, or no document is for fitting or for stopping.
    OneJumpError
        If head and shards are of different models.
    """
    model_digest = one_model(shards[0], head)
    store = ActivationStore(shards)
    rank, levels = rank_for(store.hidden, options.rank), range(store.levels - 1)
    kind = module_named("fitting.kinds", method, what="method")
    trained = samples_with_role(store, documents, FIT)
    if samples is not None:
        trained = drawn_among(trained, samples, seed)
    distiller = Distiller(
        store,
        Head.load(head).to(pick_device(device)),
        options,
        trained=trained,
        stopping=samples_with_role(store, documents, STOPPING),
        seed=seed,
        previous=kind.KIND.reads_previous,
    )

    def fitted() -> Iterator[Shortcut]:
        if kind.ONE_FOR_ALL_LEVELS:
            yield kind.by_distillation(distiller, levels, rank)
            return
        for level in tqdm(levels, unit="level", disable=None):
            yield kind.by_distillation(distiller, [level], rank)

    about = {"method": method, "solver": "distillation", "samples": int(trained.sum())}
    save_shortcuts(
        folder,
        fitted(),
        about,
        levels=len(levels),
        one=kind.ONE_FOR_ALL_LEVELS,
        model_digest=model_digest,
    )
