"""Options of the stage "shortcuts"."""

from __future__ import annotations

from dataclasses import dataclass

from onejump.base.rank import PAPERS_RANK


@dataclass(frozen=True)
class GradientOptions:
    """How the gradient solver trains."""

    epochs: int
    """Passes over the training samples."""
    batch: int
    """Samples in a minibatch, at every level."""
    learning_rate: float
    """Adam's step size at the start."""


@dataclass(frozen=True)
class FitOptions:
    """How a method is fitted."""

    solver: str = "exact"
    """Name of the solver: exact or gradient."""
    rank: float = PAPERS_RANK
    """r, or, below 1, the part of H that r is. A full-rank kind does not use it."""
    gradient: GradientOptions | None = None
    """Options of the gradient solver, if that is the solver."""
