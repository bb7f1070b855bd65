"""The stage "sub-module maps": linear maps from the inputs of a part of the blocks to its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.data.store import ActivationStore
from onejump.fitting.kinds import jtc
from onejump.fitting.moments import Moments
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.kinds.jtc import JTC


def fit_maps(store: ActivationStore, device: torch.device) -> Iterator[JTC]:
    """Fit a map from the input to the output of each module of a part, by least squares without intercept.

    Parameters
    ----------
    store : ActivationStore
        Its 2 K levels are the inputs of K modules, then their outputs.
    device : torch.device

    Yields
    ------
    JTC
        The map of each module in turn.
    """
    modules = store.levels // 2
    for module in tqdm(range(modules), unit="map", disable=None):
        moments = Moments.empty(store.hidden, device)
        for inputs, outputs in store.blocks([module, modules + module]):
            moments.add(torch.from_numpy(inputs).to(device), torch.from_numpy(outputs).to(device))
        yield jtc.from_moments(moments)


def fit_part(folder: Path, shards: Sequence[Path], *, part: str, device: str = "auto") -> None:
    """The stage: fit the maps of a part.

    Parameters
    ----------
    folder : Path
        To write: `level-<k>.safetensors` is the map of the part's module k, counted from the first block.
    shards : sequence of Path
        Training shards of the part.
    part : str
    device : str
    """
    store = ActivationStore(shards)
    about = {"method": "jtc", "part": part, "samples": store.samples}
    save_shortcuts(
        folder,
        fit_maps(store, pick_device(device)),
        about,
        levels=store.levels // 2,
        one=False,
        model_digest=store.model_digest,
    )
