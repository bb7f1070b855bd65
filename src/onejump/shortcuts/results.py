"""Load the shortcuts of any method from a results folder. The selected jump is a method like all others."""

from __future__ import annotations

from pathlib import Path

import torch

from onejump.base.errors import OneJumpError
from onejump.base.files import read_json
from onejump.base.format import SELECTION
from onejump.base.identity import one_model
from onejump.base.levels import check_level
from onejump.base.selected import SELECTED
from onejump.models.description import read_description
from onejump.shortcuts.methods import ShortcutAt, methods_of
from onejump.shortcuts.shortcut import Shortcut


class Shortcuts:
    """The shortcuts of a method: one for the states of each level.

    Parameters
    ----------
    method : str
    levels : int
        L: there are shortcuts for levels 0 to L - 1.
    shortcut_at : function of a level
        It gives the shortcut for states of that level.
    selected : int, optional
        For a method that is one selected jump: the level that the jump was fitted at.
    model_digest : str, optional
        The identity of the model whose states they are for (`onejump.models.description`).
    """

    def __init__(
        self,
        method: str,
        levels: int,
        shortcut_at: ShortcutAt,
        selected: int | None = None,
        model_digest: str | None = None,
    ) -> None:
        self.method, self.levels, self.selected = method, levels, selected
        self.model_digest = model_digest
        self._shortcut_at = shortcut_at

    def at(self, level: int) -> Shortcut:
        """Give the shortcut for states of a level, a torch module.

        Raises
        ------
        OneJumpError
            If the level is not in 0..L-1.
        """
        check_level(level, self.levels, self.method)
        return self._shortcut_at(level)

    def __repr__(self) -> str:
        origin = "" if self.selected is None else f", the jump from level {self.selected}"
        return f"Shortcuts({self.method!r}, levels 0..{self.levels - 1}{origin})"


def load_shortcuts(pair: str | Path, method: str, device: torch.device | str = "cpu") -> Shortcuts:
    """Load a method's shortcuts from the results of a model and corpus.

    Parameters
    ----------
    pair : path
        The folder of a model and a corpus: ``results/<study>/<model>/<corpus>``.
    method : str
        A kind that the study fitted (``n-njtc``, ``one-jump``, ...), ``identity``, ``ojfa`` for the selected
        jump, or ``ojfa-normalised``, ``ojfa-distilled`` and ``ojfa-distilled-surprisal`` where the study has
        them.
    device : torch.device

    Returns
    -------
    Shortcuts
        Its ``at(level)`` gives the shortcut for states of a level.

    Raises
    ------
    OneJumpError
        If the folder is not such a folder, holds no shortcuts of the method, or files of different models.

    Examples
    --------
    >>> shortcuts = onejump.load_shortcuts("results/default/smollm2-135m/wikipedia-en", "ojfa")
    >>> shortcuts.at(13)(states)  # doctest: +SKIP
    """
    pair = Path(pair).resolve()
    about = pair.parent / "model.json"
    if not about.is_file():
        raise OneJumpError(f"{pair}: results/<study>/<model>/<corpus> was expected, but there is no {about}")
    levels = read_description(about).blocks
    known = methods_in(pair)
    if method not in known:
        raise OneJumpError(f"{pair}: method {method!r} given, accepted is one of {', '.join(known)}")
    if method not in SELECTED:
        folder = None if method == "identity" else pair / "shortcuts" / method
        digest = one_model(about, folder)
        at = methods_of(method, folder, levels=levels, device=device)[method]
        return Shortcuts(method, levels, at, model_digest=digest)
    selected = SELECTED[method]
    selection = pair / selected.selection
    content = read_json(selection, SELECTION)
    folder = pair / "shortcuts" / (selected.kind or content["computed_from"]["method"])
    digest = one_model(about, selection, folder)
    made = methods_of(selected.evaluated_with or method, folder, selection, levels=levels, device=device)
    jump = content["jump"] if selected.by_metric is None else content["by_metric"][selected.by_metric]
    return Shortcuts(method, levels, made[method], jump, digest)


def methods_in(pair: Path) -> list[str]:
    """Name the methods whose shortcuts a results folder holds."""
    fitted = sorted(path.name for path in (pair / "shortcuts").glob("[!.]*") if path.is_dir())
    selected = []
    for method, one in SELECTED.items():
        # Of several arbitrary jumps, none is the one to load.
        if not one.several and (pair / one.selection).is_file():
            source = read_json(pair / one.selection, SELECTION)["computed_from"]["method"]
            if source in fitted and one.kind in (None, source):
                selected.append(method)
    return ["identity", *fitted, *selected]
