"""Several methods find the folders of their kinds, and the files of their selected jumps, by name."""

from __future__ import annotations

from pathlib import Path

import torch
from jumps_at_random import trained
from stage_files import select

from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.methods import methods_of_kinds


def test_each_method_has_the_shortcuts_of_its_own_kind(tmp_path: Path) -> None:
    jumps = {kind: trained(kind, 3, 12) for kind in ("one-jump", "distilled")}
    folders = [tmp_path / kind for kind in jumps]
    for folder, (kind, made) in zip(folders, jumps.items(), strict=True):
        save_shortcuts(folder, made, {}, levels=3, one=kind == "one-jump")
    selection = tmp_path / "distilled-selection.json"
    select(selection, jump=2, by_metric={"surprisal": 1}, computed_from={"method": "distilled"})
    methods = {"identity": "identity", "one-jump": "one-jump", "ojfa-distilled": "distilled"}
    found = dict(methods_of_kinds(methods, folders, [selection], levels=3))
    assert isinstance(found["identity"]["identity"](1), Identity)
    states = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    for shortcut, expected in (
        (found["one-jump"]["one-jump"](1), jumps["one-jump"][0].at(1)),
        (found["distilled"]["ojfa-distilled"](0), jumps["distilled"][2]),
        (found["distilled"]["ojfa-distilled-surprisal"](0), jumps["distilled"][1]),
    ):
        torch.testing.assert_close(shortcut(states), expected(states))
