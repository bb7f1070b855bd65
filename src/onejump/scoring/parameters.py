"""The stage "parameters": how many numbers each method keeps at inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from onejump.base.files import read_json, write_table
from onejump.base.format import SELECTION
from onejump.base.identity import one_model
from onejump.base.selected import SELECTED
from onejump.shortcuts.files import ShortcutFolder


def count_parameters(
    output: Path, folders: Mapping[str, Path], selection: Path, *, model: str, corpus: str
) -> None:
    """Numbers that each method keeps at inference.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus, method, shortcuts (how many are kept), numbers,
        reduction (how many times fewer numbers than the set that the selected jump comes from).
    folders : mapping of method -> folder
    selection : Path
    """
    model_digest = one_model(selection, *folders.values())
    chosen = read_json(selection, SELECTION)
    multi_jump = chosen["computed_from"]["method"]
    counts = {"identity": (0, 0)}
    for method, path in folders.items():
        folder = ShortcutFolder(path)
        counts[method] = len(folder), folder.numbers()
    one = ShortcutFolder(folders[multi_jump]).load(chosen["jump"])
    counts["ojfa"] = 1, one.numbers()
    distilled = SELECTED["ojfa-distilled"].kind
    if distilled is not None and distilled in folders:
        counts["ojfa-distilled"] = 1, ShortcutFolder(folders[distilled]).load(0).numbers()
    full = counts[multi_jump][1]
    rows = [
        (model, corpus, method, kept, numbers, full / numbers if numbers else float("nan"))
        for method, (kept, numbers) in counts.items()
    ]
    columns = ["model", "corpus", "method", "shortcuts", "numbers", "reduction"]
    write_table(output, pd.DataFrame(rows, columns=columns), model_digest=model_digest)
