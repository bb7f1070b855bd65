"""Shortcuts of every method from a results folder: the selected jump is loaded like all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stage_files import describe_as, select

import onejump
from onejump.base.errors import OneJumpError
from onejump.base.files import read_json
from onejump.base.format import SELECTION
from onejump.data.store import ActivationStore
from onejump.fitting.options import FitOptions
from onejump.fitting.shortcuts import fit_shortcuts
from onejump.scoring.scores import score_jumps
from onejump.scoring.selection import select_jump
from onejump.shortcuts.files import ShortcutFolder, save_shortcuts
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.results import load_shortcuts

H, RANK, LEVELS = 12, 3, 4


def _distilled(seed: int) -> Distilled:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(H, RANK, generator=generator), torch.randn(RANK, H, generator=generator)
    return Distilled(down, torch.zeros(RANK), up, torch.zeros(H), "rms", 1e-5)


@pytest.fixture
def pair(
    make_store: Callable[..., ActivationStore], levels_of_data: Callable[..., np.ndarray], tmp_path: Path
) -> Path:
    """Results of a model of 4 blocks on a corpus, by the stages' own functions."""
    store = make_store(levels_of_data(LEVELS + 1, 150, H))
    folder = tmp_path / "study" / "model" / "corpus"
    describe_as(folder.parent / "model.json", blocks=LEVELS, hidden=H)
    shortcuts = folder / "shortcuts"
    for method in ("n-njtc", "joint"):
        options = FitOptions(rank=RANK)
        fit_shortcuts(shortcuts / method, store.paths, method=method, options=options, seed=0, device="cpu")
    save_shortcuts(shortcuts / "distilled", map(_distilled, range(LEVELS)), {}, levels=LEVELS, one=False)
    one = _distilled(9)
    mixed = OneJump(
        one.down,
        torch.randn(LEVELS, RANK),
        one.up,
        torch.zeros(H),
        "rms",
        1e-5,
        mix=torch.randn(LEVELS, RANK, RANK),
    )
    save_shortcuts(shortcuts / "one-jump", [mixed], {}, levels=LEVELS, one=True)
    score_jumps(
        folder / "scores.parquet", store.paths, shortcuts / "n-njtc", model="m", corpus="c", device="cpu"
    )
    select_jump(
        folder / "selection.json",
        folder / "scores.parquet",
        method="n-njtc",
        metric="signed-squared-cosine",
    )
    content: dict[str, Any] = {
        "jump": 1,
        "by_metric": {"surprisal": 3},
        "computed_from": {"method": "distilled"},
    }
    select(folder / "distilled-selection.json", **content)
    return folder


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = torch.randn(5, H, generator=torch.Generator().manual_seed(0))
    return torch.equal(one(states), other(states))


def test_every_method_is_loaded_by_its_name(pair: Path) -> None:
    chosen = read_json(pair / "selection.json", SELECTION)["jump"]
    for method in ("n-njtc", "distilled", "joint", "one-jump"):
        folder, found = ShortcutFolder(pair / "shortcuts" / method), onejump.load_shortcuts(pair, method)
        assert (found.levels, found.selected) == (LEVELS, None)
        assert all(_same(found.at(level), folder.load(level)) for level in range(LEVELS))
    for method, kind, jump in (
        ("ojfa", "n-njtc", chosen),
        ("ojfa-distilled", "distilled", 1),
        ("ojfa-distilled-surprisal", "distilled", 3),
    ):
        found, source = load_shortcuts(pair, method), ShortcutFolder(pair / "shortcuts" / kind)
        assert (found.levels, found.selected) == (LEVELS, jump)
        assert all(_same(found.at(level), source.load(jump)) for level in range(LEVELS))
    states = torch.randn(2, H)
    assert torch.equal(load_shortcuts(pair, "identity").at(0)(states), states)
    normalised = load_shortcuts(pair, "ojfa-normalised")
    of_level = ShortcutFolder(pair / "shortcuts" / "n-njtc").load(0).state_dict()
    assert torch.equal(normalised.at(0).state_dict()["mean"], of_level["mean"])
    assert _same(normalised.at(chosen), ShortcutFolder(pair / "shortcuts" / "n-njtc").load(chosen))


def test_what_is_not_there_is_named(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OneJumpError, match=r"'n-njct' given, accepted is one of identity, .*n-njtc.*ojfa"):
        load_shortcuts(pair, "n-njct")
    for level in (-1, LEVELS):
        with pytest.raises(OneJumpError, match=rf"ojfa: level {level} given, 0 to {LEVELS - 1} accepted"):
            load_shortcuts(pair, "ojfa").at(level)
    with pytest.raises(OneJumpError, match=r"<model>/<corpus> was expected, but there is no .*model\.json"):
        load_shortcuts(pair / "shortcuts", "n-njtc")
    (pair / "selection.json").unlink()
    monkeypatch.chdir(pair)
    assert load_shortcuts(".", "n-njtc").levels == LEVELS
    with pytest.raises(OneJumpError, match=r"'ojfa' given, accepted is one of .*, ojfa-distilled-surprisal$"):
        load_shortcuts(".", "ojfa")


def test_what_is_loaded_says_what_it_is(pair: Path) -> None:
    jump = load_shortcuts(pair, "ojfa")
    level = jump.selected
    assert str(jump) == f"Shortcuts('ojfa', levels 0..3, the jump from level {level})"
    assert str(jump.at(0)) == f"NNJTC(kind=n-njtc, hidden=12, rank=3, norm=batch, level={level})"
    one = load_shortcuts(pair, "one-jump")
    assert str(one) == "Shortcuts('one-jump', levels 0..3)"
    assert str(one.at(2)) == "Distilled(kind=distilled, hidden=12, rank=3, norm=rms, level=2)"
    folder = ShortcutFolder(pair / "shortcuts" / "one-jump")
    whole = onejump.load_shortcut(folder.folder / "all-levels.safetensors")
    assert str(whole) == "OneJump(kind=one-jump, hidden=12, rank=3, norm=rms, level=0..3)"


def test_dir_lists_what_the_package_offers() -> None:
    assert {"load_shortcuts", "Head", "ExitHead", "load_model"} <= set(dir(onejump))
    assert all(callable(getattr(onejump, name)) for name in onejump.__all__)
