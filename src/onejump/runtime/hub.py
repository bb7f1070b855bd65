"""Where a kept jump lies: in a folder of this machine, or on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download

from onejump.base.errors import OneJumpError
from onejump.runtime.jump_config import CONFIG, read_config
from onejump.runtime.jump_weights import WEIGHTS

CARD, FIGURES = "README.md", "figures"
# Figures of a study are some 100 kB each.
_LARGEST_FIGURE, _LARGEST_CARD, _MOST_FIGURES = 5_000_000, 1_000_000, 100
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def folder_of_jump(name: str, *, revision: str | None = None, **options: Any) -> Path:
    """Find the folder of a kept jump; what is on the hub is fetched into the local cache.

    Parameters
    ----------
    name : str
        A folder, or a name on the hub.
    revision : str, optional
        Branch, tag or commit on the hub.
    **options
        See `huggingface_hub.hf_hub_download`.

    Raises
    ------
    OneJumpError
        If there is no jump of this name, or it cannot be fetched.
    """
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise OneJumpError(f"{name}: revision {revision!r} given, but this is a folder, which has none")
        if not (folder / CONFIG).is_file():
            raise OneJumpError(f"{name}: no kept jump in it (no {CONFIG}){_below(folder)}")
        return folder
    if folder.exists():
        raise OneJumpError(f"{name}: the folder of a kept jump was expected, this is a file")
    # A name on the hub is user/name: a folder of this machine in place of the user is a slip of the pen.
    if not _HUB_NAME.fullmatch(name) or (len(folder.parts) > 1 and folder.parent.is_dir()):
        raise OneJumpError(f"{name}: no such folder")
    with with_the_hub(name, "no such folder, and it could not be fetched from the hub"):
        config = Path(hf_hub_download(name, CONFIG, revision=revision, **options))
        # Before more is fetched: the name may be that of any model.
        read_config(config)
        commit = config.parent.name
        wanted = [WEIGHTS, CARD, f"{FIGURES}/*.png"]
        snapshot_download(name, revision=commit, allow_patterns=wanted, **options)
    return config.parent


def _below(folder: Path) -> str:
    """Name the jumps below a folder, such as a study's results, for the message."""
    found = sorted(
        path.parent
        for pattern in (f"*/{CONFIG}", f"export/*/{CONFIG}", f"*/export/*/{CONFIG}")
        for path in folder.glob(pattern)
        if (path.parent / WEIGHTS).is_file()
    )
    return f"; below it: {', '.join(map(str, found[:5]))}" if found else ""


@contextmanager
def with_the_hub(name: str, what: str) -> Iterator[None]:
    """Say in one line what went wrong with the hub.

    Raises
    ------
    OneJumpError
        In place of what huggingface_hub and the libraries below it raise.
    """
    try:
        yield
    except OneJumpError:
        raise
    except Exception as error:
        # The first sentence says what happened; hints and request numbers of the hub follow it.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OneJumpError(f"{name}: {what} ({reason[:300]})") from error


def read_card(folder: Path) -> str | None:
    """Read the model card of a folder, if it has one."""
    path = folder / CARD
    if not path.is_file():
        return None
    if path.stat().st_size > _LARGEST_CARD:
        raise OneJumpError(f"{path}: a model card of at most {_LARGEST_CARD / 1e6:.0f} MB is accepted")
    return path.read_text(encoding="utf-8", errors="replace")


def read_figures(folder: Path) -> dict[str, bytes]:
    """Read the figures that the model card of a folder shows.

    Raises
    ------
    OneJumpError
        If there are more than 100, or one is over 5 MB.
    """
    paths = sorted((folder / FIGURES).glob("*.png"))
    large = [path.name for path in paths if path.stat().st_size > _LARGEST_FIGURE]
    if large or len(paths) > _MOST_FIGURES:
        raise OneJumpError(
            f"{folder / FIGURES}: at most {_MOST_FIGURES} figures of {_LARGEST_FIGURE / 1e6:.0f} MB are "
            f"accepted (given: {len(paths)}, too large: {', '.join(large[:3]) or 'none'})"
        )
    return {path.name: path.read_bytes() for path in paths}
