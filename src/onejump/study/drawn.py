"""What is drawn for each model and corpus: a figure, or the figure of an experiment."""

from __future__ import annotations

from typing import ClassVar, Literal

from onejump.study.values import Section


class Drawn(Section):
    """The options of a figure or an experiment; what does not depend on the study is a class variable."""

    tables: ClassVar[dict[str, str]]
    """Files that it is drawn from, in the folder of a model and corpus, by the names that the drawing gives
    them. The tables of an experiment are its results."""
    scope: ClassVar[Literal["pair", "study"]] = "pair"
    """Whether it is drawn for each model and corpus, or once for the study. In the second case its tables lie
    in the study's folder."""
    place: ClassVar[int]
    """The report shows figures in the order of these numbers."""
    also: ClassVar[tuple[str, ...]] = ()
    """Suffixes of what drawing writes besides SVG and PNG."""
    needs: ClassVar[str | None] = None
    """Shortcut kind without which there is nothing to draw."""


# Tables that figures are drawn from, as the stages name them.
EVALUATION = {"evaluation": "evaluation.parquet"}
PARAMETERS = {"parameters": "parameters.parquet"}
SCORES = {"scores": "scores.parquet"}
ANALYSIS = {"analysis": "analysis.parquet"}
SELECTION = {"selection": "selection.json"}
