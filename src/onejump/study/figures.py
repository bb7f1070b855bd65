"""The figures: the section of each, with the tables that it is drawn from and its place in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from onejump.base.statistics import STATISTICS
from onejump.study.drawn import ANALYSIS, EVALUATION, PARAMETERS, SCORES, SELECTION, Drawn
from onejump.study.kinds import kinds_where
from onejump.study.messages import rule
from onejump.study.values import Colormap, Metric, Precision, Switches, of_form, one_of

_SOME_TEXT = of_form(r"(?s).+", "a text of at least one character")


class LevelFigure(Drawn):
    """A figure with the exit level on its x axis."""

    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics, each in a panel of its own: precision@k, surprisal, r2 or kl. Distilled kinds have no r2."""


class Methods(LevelFigure):
    """Every method, by exit level."""

    tables = EVALUATION | SELECTION
    place = 40


class SelectedFigure(LevelFigure):
    """A jump for each level, the selected jump and identity, by exit level (OJFA, Fig. 1)."""

    tables = EVALUATION | PARAMETERS | SELECTION
    place = 10
    # The report's front page shows it below the figure.
    also = ("csv",)


class Prediction(Drawn):
    """Precision@k and surprisal of the papers' kinds, by exit level (JTC, Fig. 3 and 4; N-NJTC, Fig. 3)."""

    tables = EVALUATION | SELECTION
    place = 80

    methods: Annotated[list[str], Field(min_length=1)] = list(kinds_where(lambda facts: facts.papers))
    """Methods to draw; the study has to evaluate them."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = [
        "precision@1",
        "precision@5",
        "precision@10",
        "surprisal",
    ]
    """Metrics, each in a panel of its own: precision@k, surprisal, r2 or kl."""


class Alternatives(LevelFigure):
    """The selected jump against the joint fit and arbitrary jumps, by exit level (OJFA, Fig. 2)."""

    tables = EVALUATION | SELECTION
    place = 20


class ShareFigure(Drawn):
    """A figure of precisions."""

    metrics: Annotated[list[Precision], Field(min_length=1)] = ["precision@1"]
    """Precisions, each in a panel of its own: precision@k."""


class Limit(ShareFigure):
    """Precision of every method, divided by that of the full-rank limit (affine), by exit level."""

    tables = EVALUATION | SELECTION
    place = 60
    needs = "affine"


class Pareto(ShareFigure):
    """Precision, mean over levels, by the numbers that a method keeps at inference."""

    tables = EVALUATION | PARAMETERS | SELECTION
    place = 50


class Scores(Drawn):
    """Score of every jump at every level, and beside it the mean of each jump over the levels."""

    tables = SCORES | SELECTION
    place = 30

    colormap: Colormap = "cividis"
    """A matplotlib colour map."""


class Parameters(Drawn):
    """Table of the numbers that each method keeps at inference."""

    tables = PARAMETERS | SELECTION
    place = 70


class Spaces(Drawn):
    """How much of the spaces that they read and write the jumps of two levels share: n-njtc, distilled."""

    tables = ANALYSIS | SELECTION
    place = 150

    colormap: Colormap = "cividis"
    """A matplotlib colour map."""


class Ranks(Drawn):
    """How much of the last level's variance each rank of a jump holds, and how much each one predicts."""

    tables = ANALYSIS
    place = 160


class Lens(Drawn):
    """What every level says of some prompts: the most likely token, and how sure it is.

    Besides the figure there is a page with interactive figures, lens.html in the folder of model and corpus.
    """

    tables = {"lens": "lens.parquet"}
    place = 165

    prompts: Annotated[list[Annotated[str, _SOME_TEXT]], Field(min_length=1)] = [
        "The Eiffel Tower is in the city of"
    ]
    """Texts to look at. The figure draws the last 12 tokens of each, the page all of them."""
    targets: Annotated[list[Annotated[str, _SOME_TEXT]], Field(min_length=1)] | None = None
    """The target of each prompt, for encoder-decoders: the decoder's levels are read."""
    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods to look through; the study has to evaluate them, or it is identity, the logit lens. null:
    identity, and those whose jump is exported."""
    statistic: Annotated[str, *one_of(tuple(STATISTICS))] = "probability"
    """What colours show: probability, entropy, surprisal, rank, forward_kl or agreement."""

    @model_validator(mode="after")
    def _a_target_for_each_prompt(self) -> Self:
        if self.targets is not None and len(self.targets) != len(self.prompts):
            raise rule(
                f"{len(self.targets)} given, but there are {len(self.prompts)} prompts: one target for each "
                "prompt is accepted",
                "targets",
            )
        return self


class Figures(Switches):
    """The figures to draw: those that the study names, and those that are on unless set to false."""

    methods: Methods | None = Methods()
    selected: SelectedFigure | None = SelectedFigure()
    prediction: Prediction | None = None
    alternatives: Alternatives | None = Alternatives()
    limit: Limit | None = None
    pareto: Pareto | None = None
    scores: Scores | None = Scores()
    parameters: Parameters | None = Parameters()
    spaces: Spaces | None = None
    ranks: Ranks | None = None
    lens: Lens | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_of_before(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "one-jump" in given:
            raise rule("unknown key; it is called figures.selected now", "one-jump")
        return given
