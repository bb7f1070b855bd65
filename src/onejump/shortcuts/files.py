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
from onejump.base.format import Format, check_keys
from onejump.base.identity import same_model
from onejump.base.levels import check_level
from onejump.base.tensors import not_finite, read_tensors, write_tensors
from onejump.shortcuts.shortcut import LowRank, Shortcut

SHORTCUT = Format("shortcut", 1)
ABOUT = ("method", "solver", "part", "samples", "level", "levels")
"""What a file says about how its shortcut was fitted, as far as that is known."""

ALL_LEVELS = "all-levels.safetensors"
"""The file of a method that has one shortcut for all levels (joint and one-jump)."""


def shortcut_path(folder: str | Path, level: int | None) -> Path:
    """Name the file of the shortcut from a level, or of the one shortcut for all levels (None)."""
    return Path(folder) / (ALL_LEVELS if level is None else f"level-{level:02d}.safetensors")


def save_shortcut(
    path: str | Path, shortcut: Shortcut, about: dict[str, Any], *, model_digest: str | None = None
) -> None:
    """Write a shortcut, atomically.

    Parameters
    ----------
    path : path
    shortcut : Shortcut
    about : dict
        How it was fitted; the keys are among `ABOUT`.
    model_digest : str, optional
        The identity of the model whose states it was fitted to.
    """
    with replacing(path) as fresh:
        _write_shortcut(fresh, shortcut, about, model_digest)


def _write_shortcut(path: Path, shortcut: Shortcut, about: dict[str, Any], model_digest: str | None) -> None:
    check_keys(path, about, (), ABOUT)
    kept = {"kind": shortcut.kind, "config": shortcut.config(), **about}
    write_tensors(path, SHORTCUT, shortcut.state_dict(), kept, model_digest=model_digest)


def save_shortcuts(
    output: Path,
    fitted: Iterable[Shortcut],
    about: dict[str, Any],
    *,
    levels: int,
    one: bool,
    model_digest: str | None = None,
) -> None:
    """Write a method's folder, whole or not at all.

    Parameters
    ----------
    output : Path
    fitted : iterable of Shortcut
        One for each level, from level 0 on, or a single one for all levels.
    about : dict
        How they were fitted; the keys are among `ABOUT`.
    levels : int
        L. Each file keeps it, so that a missing file is noticed.
    one : bool
        Whether there is a single shortcut for all levels.
    model_digest : str, optional
        The identity of the model whose states they were fitted to.

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
            _write_shortcut(shortcut_path(fresh, source), shortcut, kept, model_digest)
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
        If the file is damaged, or a number in it is not finite.
    FormatError
        If an older or newer onejump wrote the file, or it holds no shortcut.
    OneJumpError
        If the file is missing or not readable.
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
    tensors, about, model_digest = read_tensors(path, SHORTCUT, remedy)
    check_keys(path, about, ("kind", "config"), ABOUT)
    try:
        shortcut = kind_named(about["kind"]).restore(tensors, about["config"])
    except OneJumpError as error:
        raise OneJumpError(f"{path}: {error}") from error
    shortcut.level, shortcut.model_digest = about.get("level"), model_digest
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
    model_digest : str or None
        The identity of the model whose states they were fitted to, where that is known.
    samples : int or None
        How many samples they were fitted to, where the files say so.

    Raises
    ------
    DamagedFileError
        If a file is damaged or missing, or there is a file too many.
    OneJumpError
        If the folder holds no shortcuts.
    """

    levels: int | None
    model_digest: str | None
    samples: int | None

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        self.folder, self._device = Path(folder), device
        self._remedy = f"delete the folder {folder} and run snakemake again"
        one = shortcut_path(self.folder, None)
        self._one: Shortcut | None = None
        if one.is_file():
            self._one, about = _read_shortcut(one, self._remedy)
            self._one.to(device)
            self.levels, self.model_digest = about.get("levels"), self._one.model_digest
            self.samples = about.get("samples")
            return
        found = {path.name for path in self.folder.glob("level-*.safetensors")}
        if not found:
            raise OneJumpError(f"{folder}: no shortcuts in it (level-*.safetensors or {ALL_LEVELS})")
        first, about = _read_shortcut(self.folder / min(found), self._remedy)
        self.model_digest, self.samples = first.model_digest, about.get("samples")
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
        same_model([(self.folder, self.model_digest), (path, shortcut.model_digest)])
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
