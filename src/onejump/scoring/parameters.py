"""The stage "parameters": how many numbers each method keeps at inference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from onejump.base.files import read_json, write_table
from onejump.base.format import SELECTION
from onejump.base.identity import one_model
from onejump.shortcuts.files import ShortcutFolder
from onejump.shortcuts.methods import methods_of
from onejump.shortcuts.shortcut import Shortcut


def count_parameters(
    table: Path,
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    *,
    methods: Sequence[str],
    selected: Sequence[str],
    reference: str,
    model: str,
    corpus: str,
) -> None:
    """The stage: count the numbers that each method keeps at inference.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, shortcuts (how many the method keeps), numbers (in all
        of them), reduction (how many times fewer numbers than the jumps of the reference together).
    shortcuts : sequence of Path
        Folders of the fitted kinds.
    selections : sequence of Path
        Of the selection stage, one for each method that uses a selected jump.
    methods : sequence of str
        The fitted kinds.
    selected : sequence of str
        The methods that use a selected jump.
    reference : str
        The fitted kind that numbers are compared with.
    model, corpus : str
        Names, for the table.
    """
    model_digest = one_model(*selections, *shortcuts)
    folders = {method: ShortcutFolder(path) for method, path in zip(methods, shortcuts, strict=True)}
    counts = {"identity": (0, 0)}
    counts |= {method: (len(folder), folder.numbers()) for method, folder in folders.items()}
    for method, selection in zip(selected, selections, strict=True):
        origin = read_json(selection, SELECTION)["computed_from"]
        levels = origin["levels"]
        made = methods_of(method, folders[origin["method"]].folder, selection, levels=levels)
        for name, shortcut_at in made.items():
            counts[name] = 1, distinct_numbers(map(shortcut_at, range(levels)))
    rows = [
        (model, corpus, method, kept, numbers, counts[reference][1] / numbers if numbers else float("nan"))
        for method, (kept, numbers) in counts.items()
    ]
    columns = ["model", "corpus", "method", "shortcuts", "numbers", "reduction"]
    write_table(table, pd.DataFrame(rows, columns=columns), model_digest=model_digest)


def distinct_numbers(shortcuts: Iterable[Shortcut]) -> int:
    """How many numbers some shortcuts keep together; a tensor that several of them share counts once."""
    # The tensors are held until all are counted, so that no two have the same place in memory.
    tensors = [tensor for shortcut in shortcuts for tensor in shortcut.state_dict().values()]
    return sum({(tensor.data_ptr(), tensor.shape): tensor.numel() for tensor in tensors}.values())
