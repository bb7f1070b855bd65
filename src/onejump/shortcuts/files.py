"""The files of shortcuts: a folder for each method, a safetensors file for each shortcut.

`level-07.safetensors` jumps from level 7 to the last one, `all-levels.safetensors` from any level. A file's
metadata name the kind of the shortcut and hold its constants.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from onejump.base.by_name import module_named
from onejump.base.errors import DamagedFileError, OneJumpError
from onejump.base.files import replacing
from onejump.base.levels import check_level
from onejump.base.tensors import not_finite, read_tensors, write_tensors
from onejump.shortcuts.shortcut import LowRank, Shortcut

ALL_LEVELS = "all-levels.safetensors"
"""The file of a method that has one shortcut for all levels (joint and one-jump)."""


def shortcut_path(folder: str | Path, level: int | None) -> Path:
    """Name the file of the shortcut from a level, or of the one shortcut for all levels (None)."""
    return Path(folder) / (ALL_LEVELS if level is None else f"level-{level:02d}.safetensors")


def save_shortcut(path: str | Path, shortcut: Shortcut, about: dict[str, Any]) -> None:
    """Write a shortcut, atomically. The file also keeps `about`: how the shortcut was fitted."""
    with replacing(path) as fresh:
        _write_shortcut(fresh, shortcut, about)


def _write_shortcut(path: Path, shortcut: Shortcut, about: dict[str, Any]) -> None:
    kept = {"kind": shortcut.kind, "config": shortcut.config(), **about}
    write_tensors(path, "shortcut", shortcut.state_dict(), kept)


def save_shortcuts(
    output: Path, fitted: Iterable[Shortcut], about: dict[str, Any], *, levels: int, one: bool
) -> None:
    """Write a method's folder, whole or not at all.

    Parameters
    ----------
    output : Path
    fitted : iterable of Shortcut
        One for each level, from level 0 on, or a single one for all levels.
    about : dict
        How they were fitted.
    levels : int
        L. Each file keeps it, so that a missing file is noticed.
    one : bool
        Whether there is a single shortcut for all levels.

    Raises
    ------
    OneJumpError
        If a number in a shortcut is not finite.
    ValueError
        If the number of shortcuts is not L, or not 1 where there is a single one.
    """
    with replacing(output) as fresh:
        fresh.mkdir()
        written = 0
        for level, shortcut in enumerate(fitted):
            source = None if one else level
            if not_finite(shortcut.state_dict()):
                where = "all levels" if one else f"level {level}"
                raise OneJumpError(f"the fit of {output.name} from {where} is not finite ({about})")
            kept = {**about, "level": source, "levels": levels}
            _write_shortcut(shortcut_path(fresh, source), shortcut, kept)
            written += 1
        if written != (1 if one else levels):
            raise ValueError(f"{output}: {1 if one else levels} shortcuts were expected, {written} were made")


def load_shortcut(path: str | Path) -> Shortcut:
    """Read a shortcut as a module.

    Parameters
    ----------
    path : path
        A safetensors file that the workflow, or `save_shortcut`, wrote.

    Returns
    -------
    Shortcut

    Raises
    ------
    DamagedFileError
        If the file is damaged, an older onejump wrote it, or a number in it is not finite.
    OneJumpError
        If the file is missing, not readable, or holds no shortcut.
    """
    remedy = "if a study wrote it, delete the folder of its method and run snakemake again"
    return _read_shortcut(path, remedy)[0]


def kind_named(kind: str) -> type[Shortcut]:
    """Find the class of a kind.

    Raises
    ------
    OneJumpError
        If there is no such kind.
    """
    found: type[Shortcut] = module_named("shortcuts.kinds", kind, what="shortcut kind").KIND
    return found


def _read_shortcut(path: str | Path, remedy: str) -> tuple[Shortcut, dict[str, Any]]:
    tensors, about = read_tensors(path, "shortcut", remedy)
    try:
        shortcut = kind_named(about["kind"]).restore(tensors, about["config"])
    except OneJumpError as error:
        raise OneJumpError(f"{path}: {error}") from error
    shortcut.level = about.get("level")
    return shortcut, about


class ShortcutFolder:
    """The shortcuts of one method.

    A single shortcut for all levels is loaded once; shortcuts of one level each are loaded when asked for.

    Parameters
    ----------
    folder : path
        What the stage "shortcuts" or "distillation" wrote for a method.
    device : torch.device
        Where shortcuts are loaded to.

    Attributes
    ----------
    levels : int or None
        L; None if there is a single shortcut for all levels whose file does not say how many.

    Raises
    ------
    DamagedFileError
        If a file is damaged or missing, or there is a file too many.
    OneJumpError
        If the folder holds no shortcuts.
    """

    levels: int | None

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        self.folder, self._device = Path(folder), device
        self._remedy = f"delete the folder {folder} and run snakemake again"
        one = shortcut_path(self.folder, None)
        self._one: Shortcut | None = None
        if one.is_file():
            self._one, about = _read_shortcut(one, self._remedy)
            self._one.to(device)
            self.levels = about.get("levels")
            return
        found = {path.name for path in self.folder.glob("level-*.safetensors")}
        if not found:
            raise OneJumpError(f"{folder}: no shortcuts in it (level-*.safetensors or {ALL_LEVELS})")
        _, about = _read_shortcut(self.folder / min(found), self._remedy)
        self.levels = about.get("levels", len(found))  # a file made by hand does not say
        expected = {shortcut_path(self.folder, level).name for level in range(self.levels)}
        for names, reason in ((expected - found, "missing"), (found - expected, "too many")):
            if names:
                raise DamagedFileError(
                    f"{folder}: {', '.join(sorted(names))}: {reason} (shortcuts from {self.levels} levels "
                    f"were expected): {self._remedy}"
                )

    def __len__(self) -> int:
        """Number of shortcuts that are kept: L, or 1."""
        return self.levels if self._one is None and self.levels else 1

    def load(self, level: int) -> Shortcut:
        """Load the shortcut for states of a level.

        Raises
        ------
        DamagedFileError
            If its file is damaged, missing, or holds the shortcut of another level.
        OneJumpError
            If there is no such level.
        """
        check_level(level, self.levels, str(self.folder))
        if self._one is not None:
            return self._one.at(level)
        path = shortcut_path(self.folder, level)
        shortcut, about = _read_shortcut(path, self._remedy)
        if about.get("level", level) != level or about.get("levels", self.levels) != self.levels:
            raise DamagedFileError(
                f"{path}: the shortcut from level {about.get('level')} of {about.get('levels')} is in it, "
                f"that from level {level} of {self.levels} was expected: {self._remedy}"
            )
        return shortcut.to(self._device)

    def low_rank(self) -> list[LowRank]:
        """Load the low-rank shortcuts of all levels; none if there is a single one for all levels."""
        if self._one is not None:
            return []
        return [jump for level in range(len(self)) if isinstance(jump := self.load(level), LowRank)]

    def numbers(self) -> int:
        """Count the numbers that all shortcuts together keep at inference."""
        if self._one is not None:
            return self._one.numbers()
        return sum(self.load(level).numbers() for level in range(len(self)))
