"""Selected jumps: a selection chooses one from a fitted kind, and it is evaluated under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Where a selected jump comes from, and where it is used."""

    selection: str
    """File that names the chosen jump, in the folder of a model and corpus."""
    kind: str | None = None
    """Shortcut kind of the jump; None: the kind that the selection file names."""
    several: bool = False
    """Whether the name stands for several jumps that the chosen one is compared with."""
    normalised: bool = False
    """Whether the jump normalises the states of each level with that level's own statistics."""
    evaluated_with: str | None = None
    """Entry whose job evaluates this one too; None: it has a job of its own."""
    by_metric: str | None = None
    """Held-out metric that chose the jump, instead of the selection's own metric."""
    exits: bool = False
    """Whether the experiment early-exit takes it when the study names no methods."""
    swept: bool = False
    """Whether the experiment rank-sweep takes it when the study names no methods."""


SELECTED = {
    "ojfa": Selected(selection="selection.json", exits=True, swept=True),
    "arbitrary": Selected(selection="selection.json", several=True),
    "ojfa-normalised": Selected(selection="selection.json", kind="n-njtc", normalised=True),
    "ojfa-distilled": Selected(selection="distilled-selection.json", kind="distilled", exits=True),
    "ojfa-distilled-surprisal": Selected(
        selection="distilled-selection.json",
        kind="distilled",
        evaluated_with="ojfa-distilled",
        by_metric="surprisal",
    ),
}
"""All of them by name, in the order of evaluation."""
