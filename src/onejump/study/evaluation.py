"""Sections of how a jump is selected, and of what is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from onejump.study.values import Section


class Selection(Section):
    """How a jump is selected."""

    method: Literal["njtc", "n-njtc"] = "n-njtc"
    """The kind whose jumps compete."""
    metric: Literal["signed-squared-cosine", "cosine", "mse"] = "signed-squared-cosine"
    """Score of a jump, summed over all levels and training samples (the paper's: signed-squared-cosine).
    Distilled jumps have no mse: where the study says mse, theirs is signed-squared-cosine."""


class Evaluation(Section):
    """What is measured on the validation samples."""

    precision_at: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 5, 10]
    """k of each precision@k."""
    arbitrary: list[Literal["first", "middle", "last"] | NonNegativeInt] = ["first", "middle", "last"]
    """Jumps to compare the selected one with: by place, or by level."""
    random: NonNegativeInt = 5
    """Further jumps for that comparison, drawn by the study's seed."""
    normalised: bool = False
    """Also the selected jump with each level's own normalisation statistics: what normalisation explains."""
