"""Which shortcut a method of a study uses at each level.

A fitted kind uses its own shortcut at each level. All other methods use jumps of a fitted kind: `ojfa` and
`ojfa-distilled` use the selected jump at every level, `ojfa-normalised` the same jump with each level's own
normalisation statistics, and `arbitrary` some other jumps to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from onejump.base.files import read_json
from onejump.base.format import SELECTION
from onejump.base.selected import SELECTED
from onejump.shortcuts.files import ShortcutFolder, kind_named
from onejump.shortcuts.shortcut import Shortcut

ShortcutAt = Callable[[int], Shortcut]
"""A function of a level that gives the shortcut for its states."""


def methods_of(
    method: str,
    shortcuts: Path | None,
    selection: Path | None = None,
    *,
    levels: int,
    arbitrary: Sequence[str | int] = (),
    random: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, ShortcutAt]:
    """Find the shortcuts that a method of a study uses. `arbitrary` and `ojfa-distilled` are several.

    Parameters
    ----------
    method : str
        A fitted kind, identity, or a method whose jump is selected: ojfa, ojfa-normalised, ojfa-distilled
        (which also gives ojfa-distilled-surprisal, the distilled jump that held-out surprisal selects) or
        arbitrary.
    shortcuts : Path or None
        The folder of the kind, or of the kind that the jump was selected from; None for identity.
    selection : Path, optional
        For a method whose jump is selected: what the stage "selection" wrote.
    levels : int
        L.
    arbitrary, random, seed
        For the method arbitrary: as in `arbitrary_jumps`.
    device : torch.device
        Where shortcuts are loaded to.

    Returns
    -------
    dict of name -> function of a level that gives its shortcut
    """
    if shortcuts is None:
        identity = kind_named("identity")()
        return {method: _always(identity)}
    folder = ShortcutFolder(shortcuts, device)
    if selection is None:
        return {method: folder.load}
    selected = read_json(selection, SELECTION)
    if SELECTED[method].normalised:
        return {method: _renormalised(folder, selected["jump"])}
    if SELECTED[method].several:
        jumps = arbitrary_jumps(arbitrary, random, levels=levels, chosen=selected["jump"], seed=seed)
    else:
        jumps = {method: selected["jump"]} | {
            name: selected["by_metric"][other.by_metric]
            for name, other in SELECTED.items()
            if other.evaluated_with == method
        }
    return {name: _always(folder.load(level)) for name, level in jumps.items()}


def methods_of_kinds(
    methods: Mapping[str, str],
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    *,
    levels: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[str, dict[str, ShortcutAt]]]:
    """Find the shortcuts of several methods: for each its kind, and what `methods_of` gives.

    Parameters
    ----------
    methods : mapping of method -> kind of its shortcuts
    shortcuts : sequence of Path
        Folders of the fitted kinds that the methods use, each named like its kind.
    selections : sequence of Path
        Of the selection stages, for the methods that use a selected jump.
    levels, device
        As in `methods_of`.
    """
    folders, files = ({path.name: path for path in paths} for paths in (shortcuts, selections))
    for method, kind in methods.items():
        selection = files[SELECTED[method].selection] if method in SELECTED else None
        yield kind, methods_of(method, folders.get(kind), selection, levels=levels, device=device)


def arbitrary_jumps(
    choices: Sequence[str | int], random: int, *, levels: int, chosen: int, seed: int
) -> dict[str, int]:
    """Choose jumps to compare the selected one with.

    Parameters
    ----------
    choices : sequence of {"first", "middle", "last"} or int
        Jumps by place, or by the level that they were fitted at.
    random : int
        How many more to draw, without repetition, from the jumps that are neither selected nor in `choices`.
    levels : int
        L.
    chosen : int
        The selected jump.
    seed : int

    Returns
    -------
    dict of method name -> level that the jump was fitted at
    """
    places = {"first": 0, "middle": levels // 2, "last": levels - 1}
    jumps = {f"arbitrary-{c}": places[c] if isinstance(c, str) else c for c in choices}
    rest = [level for level in range(levels) if level != chosen and level not in jumps.values()]
    drawn = np.random.default_rng(seed).permutation(rest)[:random]
    return jumps | {f"arbitrary-random-{i}": int(level) for i, level in enumerate(drawn, start=1)}


def _always(shortcut: Shortcut) -> ShortcutAt:
    return lambda _: shortcut


def _renormalised(folder: ShortcutFolder, jump: int) -> ShortcutAt:
    """Give one n-njtc jump the normalisation statistics of the level that its states come from."""
    one = folder.load(jump)

    def at(level: int) -> Shortcut:
        of_level = folder.load(level).state_dict()
        statistics = {name: of_level[name] for name in ("mean", "variance")}
        return one.restore(one.state_dict() | statistics, one.config())

    return at
