"""What is evaluated under a name of its own because a selection chose it from the jumps of a fitted kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Where such a jump comes from."""

    selection: str
    """File that names the chosen jump, in the folder of a model and corpus."""
    kind: str | None = None
    """Shortcut kind that the jump is one of; None: the kind that the selection file names."""
    several: bool = False
    """Several jumps that the chosen one is compared with, instead of the chosen one itself."""
    normalised: bool = False
    """Takes each level's own normalisation statistics."""
    evaluated_with: str | None = None
    """Entry whose job evaluates this one too; None: it has a job of its own."""
    by_metric: str | None = None
    """Held-out metric that chose the jump, instead of the selection's own metric."""
    exits: bool = False
    """Exits early unless the study names the methods that do."""
    swept: bool = False
    """Evaluated at every rank of a sweep unless the study names the methods that are."""


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
