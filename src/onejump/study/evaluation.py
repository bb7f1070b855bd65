"""How a jump is selected, and what is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from onejump.study.kinds import kinds_where
from onejump.study.values import Section, one_of

SELECTABLE = kinds_where(lambda facts: facts.selected_by == "selection")


class Selection(Section):
    """How one jump is selected for all levels."""

    method: Annotated[str, *one_of(SELECTABLE)] = "n-njtc"
    """The kind from whose jumps one is selected."""
    metric: Literal["signed-squared-cosine", "cosine", "mse"] = "signed-squared-cosine"
    """Score of a jump, summed over all levels and training samples. The papers use signed-squared-cosine.
    Distilled jumps have no mse: for mse, they are scored by signed-squared-cosine."""


class Evaluation(Section):
    """What is measured on the validation samples."""

    precision_at: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 5, 10]
    """Each k for which precision@k is measured."""
    arbitrary: list[Literal["first", "middle", "last"] | NonNegativeInt] = ["first", "middle", "last"]
    """Jumps that the selected jump is compared with, by their place or by their level."""
    random: NonNegativeInt = 5
    """Number of further jumps for this comparison, drawn by the study's seed."""
    normalised: bool = False
    """Also evaluate the selected jump with each level's own normalisation statistics (ojfa-normalised): it
    shows how much normalisation alone explains. Needs selection.method n-njtc."""
