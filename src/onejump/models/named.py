"""Looks up the modules of a model that a study names, because onejump does not find them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.seen import calls

ROLES = ("blocks", "norm", "head")
"""What a study can name."""


def named_modules(model: nn.Module, named: Mapping[str, str | None]) -> dict[str, nn.Module]:
    """Look up the modules that a study names, by their role.

    Parameters
    ----------
    model : torch.nn.Module
    named : mapping of {"blocks", "norm", "head"} -> str
        Paths, as `model.named_modules()` gives them.

    Raises
    ------
    ModelError
        If there is no such role or module; the message names what there is.
    """
    there = dict(model.named_modules())
    found = {}
    for role, path in named.items():
        if role not in ROLES:
            raise ModelError(f"modules: {role!r} given, accepted is {', '.join(ROLES)}")
        if path is None:
            continue
        if path not in there:
            near = difflib.get_close_matches(path, there, n=3, cutoff=0.4)
            top = [name for name in there if name and "." not in name]
            raise ModelError(
                f"modules.{role}: {path!r} given, {type(model).__name__} has no such module; accepted is a "
                f"path such as {', '.join(near or top)}"
            )
        found[role] = there[path]
    head = found.get("head")
    if head is not None and not isinstance(getattr(head, "weight", None), Tensor):
        raise ModelError(
            f"modules.head: {named['head']!r} given, but {type(head).__name__} has no weight: accepted is "
            "the path of a Linear"
        )
    return found


def blocks_of(named: nn.Module, run: Callable[[], Any]) -> nn.ModuleList:
    """Find the blocks in a module that the study names, in the order in which they run.

    Raises
    ------
    ModelError
        If none of the module's children runs.
    """
    blocks = calls(named.children(), run)
    if not blocks:
        children = ", ".join(name for name, _ in named.named_children()) or "none"
        raise ModelError(
            f"modules.blocks: a list of blocks was expected, no module of {type(named).__name__} runs "
            f"(there: {children})"
        )
    return nn.ModuleList(blocks)
