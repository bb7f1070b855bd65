"""The figures: a section each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from onejump.study.messages import rule
from onejump.study.values import Colormap, Metric, Precision, Section, Switches


class LevelFigure(Section):
    """A figure with the exit level on its x axis."""

    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics drawn, a panel each: precision@k, surprisal, r2 or kl. Distilled kinds have no r2."""


class PredictionFigure(Section):
    """Quality of prediction of some methods."""

    methods: Annotated[list[str], Field(min_length=1)] = ["identity", "jtc", "njtc", "n-njtc"]
    """Methods drawn, of those evaluated."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = [
        "precision@1",
        "precision@5",
        "precision@10",
        "surprisal",
    ]
    """Metrics drawn, a panel each."""


class ScoreFigure(Section):
    """The jump x level score matrix."""

    colormap: Colormap = "cividis"
    """A matplotlib colour map."""


class ParameterFigure(Section):
    """The table of numbers kept at inference."""


class ShareFigure(Section):
    """A figure of precisions."""

    metrics: Annotated[list[Precision], Field(min_length=1)] = ["precision@1"]
    """Precisions drawn, a panel each: precision@k."""


class SpaceFigure(Section):
    """Level x level matrices of the spaces that jumps share."""

    colormap: Colormap = "cividis"
    """A matplotlib colour map."""


class RankFigure(Section):
    """What the ranks of a jump are spent on."""


class Figures(Switches):
    """Figures to draw: those that a study names, and those of the default study unless they are false."""

    methods: LevelFigure | None = LevelFigure()
    """Every method by exit level."""
    selected: LevelFigure | None = LevelFigure()
    """OJFA Fig. 1: a jump for each level, the selected jump, identity."""
    prediction: PredictionFigure | None = None
    """JTC Fig. 3 and 4, N-NJTC Fig. 3: precision@k and surprisal of the papers' kinds."""
    alternatives: LevelFigure | None = LevelFigure()
    """OJFA Fig. 2: the selected jump, the joint fit, the band of arbitrary choices."""
    limit: ShareFigure | None = None
    """What every method keeps of the precision of the affine limit, by exit level."""
    pareto: ShareFigure | None = None
    """Precision, mean over levels, by numbers kept at inference."""
    scores: ScoreFigure | None = ScoreFigure()
    """The score matrix, and beside it each jump's mean over levels."""
    parameters: ParameterFigure | None = ParameterFigure()
    """The parameter table."""
    spaces: SpaceFigure | None = None
    """How much of the spaces that they read and write the jumps of two levels share: n-njtc, distilled."""
    ranks: RankFigure | None = None
    """How much of the last level's variance each rank of these jumps holds, and what it is worth."""

    @model_validator(mode="before")
    @classmethod
    def _name_of_before(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "one-jump" in given:
            raise rule("unknown key; it is called figures.selected now", "one-jump")
        return given
