"""Load what a lens needs from a results folder: the model, its tokenizer, and the shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onejump.base.errors import OneJumpError
from onejump.models.description import ModelDescription, read_description
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.models.transformer import Transformer
from onejump.shortcuts.files import kind_named
from onejump.shortcuts.results import Shortcuts, load_shortcuts, methods_in


class LoadedResults(NamedTuple):
    """A model of a study, and shortcuts that were fitted to it."""

    transformer: Transformer
    tokenizer: Any
    shortcuts: dict[str, Shortcuts]
    name: str
    """What the study calls the model."""
    prefix: str
    """What the study puts before each source of an encoder-decoder."""


def load_results(
    pair: str | Path, methods: Sequence[str] | None = None, *, device: str = "auto"
) -> LoadedResults:
    """Load a model and its shortcuts from a results folder.

    Parameters
    ----------
    pair : path
        The folder of a model and a corpus: `results/<study>/<model>/<corpus>`.
    methods : sequence of str, optional
        As in `onejump.load_shortcuts`. Default: all in the folder that a lens takes (`methods_for_lens`).
    device : str

    Raises
    ------
    OneJumpError
        If the folder is no such folder, or the model cannot be loaded.
    """
    pair = Path(pair).resolve()
    about = pair.parent / "model.json"
    if not about.is_file():
        raise OneJumpError(f"{pair}: results/<study>/<model>/<corpus> was expected, but there is no {about}")
    described = read_description(about)
    shortcuts = {
        method: load_shortcuts(pair, method)
        for method in (methods_for_lens(pair) if methods is None else methods)
    }
    weights = weights_of(described, about)
    transformer = load_described(described, weights, device=device)
    transformer.head.model_digest = described.model_digest
    tokenizer = load_described_tokenizer(described, weights)
    prefix = (described.pairs or {}).get("prefix") or ""
    return LoadedResults(transformer, tokenizer, shortcuts, pair.parent.name, prefix)


def methods_for_lens(pair: Path) -> list[str]:
    """Name the methods of a results folder that read one state at one level: those a lens takes.

    Parameters
    ----------
    pair : Path
        The folder of a model and a corpus.
    """
    return [method for method in methods_in(pair) if not _reads_previous(method)]


def _reads_previous(method: str) -> bool:
    try:
        return kind_named(method).reads_previous
    except OneJumpError:  # a method of another name than its kind
        return False


def load_of_export(folder: str | Path, *, device: str = "auto") -> LoadedResults | None:
    """Load the model of a jump that lies in the results folder of its study.

    Parameters
    ----------
    folder : path
        What the stage "export" wrote: `results/<study>/<model>/<corpus>/export/<method>`.
    device : str

    Returns
    -------
    LoadedResults or None
        None if the folder does not lie there.
    """
    parents = Path(folder).resolve().parents
    if len(parents) < 3 or parents[0].name != "export" or not (parents[2] / "model.json").is_file():
        return None
    return load_results(parents[1], (), device=device)


def weights_of(described: ModelDescription, about: Path) -> Path | None:
    """Find the folder of a model that the study names relative to the folder that it ran in.

    Parameters
    ----------
    described : ModelDescription
    about : Path
        The file of the description: `results/<study>/<model>/model.json`.

    Returns
    -------
    Path or None
        None where the model is not found so: it is a name on the hub, or a path that holds everywhere.
    """
    source = Path(described.source)
    if described.revision is not None or source.is_absolute() or source.is_dir():
        return None
    beside = about.resolve().parents[3] / source
    return beside if beside.is_dir() else None
