"""Which jumps a study keeps for use outside of it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from onejump.base.selected import SELECTED
from onejump.study.kinds import kinds_where
from onejump.study.values import Section, of_form, one_of, refuse_without_effect

EXPORTABLE = (
    *kinds_where(lambda facts: facts.one_for_all),
    *(name for name, made in SELECTED.items() if not made.several and not made.normalised),
)
"""Methods whose one map serves all levels."""


class Export(Section):
    """Which jumps are kept for use outside of the study, each in a folder of its own: export/<method>."""

    methods: list[Annotated[str, *one_of(EXPORTABLE)]] | None = None
    """Methods whose jump is kept. null: one-jump if the study fits it, the selected jump (ojfa) otherwise. An
    empty list keeps none."""
    targets: list[Annotated[float, Field(gt=0, le=1)]] = []
    """Agreements with the full model for which gates are calibrated, on the documents for thresholds: 0.95
    gives each kept jump the gate "95%". An empty list calibrates none."""
    guarantee: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The probability, over the draw of the held-out documents, with which a gate keeps its agreement: 0.9,
    say. Such gates save less. null: the agreement on the held-out documents just reaches the target; on
    others it is as often below it as above."""
    license: Annotated[str, of_form(r"[a-z0-9][a-z0-9.-]*", "a license as the hub names it")] | None = None
    """License of the jumps for their model card, as the Hugging Face hub names it: apache-2.0, mit, ...
    null leaves it out."""

    @model_validator(mode="after")
    def _guarantee_of_a_target(self) -> Self:
        if not self.targets:
            refuse_without_effect(self, ("guarantee",), "without targets")
        return self
