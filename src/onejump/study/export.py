"""Which jumps a study keeps for use outside of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from onejump.base.selected import SELECTED
from onejump.study.kinds import kinds_where
from onejump.study.values import Section, of_form, one_of

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
    license: Annotated[str, of_form(r"[a-z0-9][a-z0-9.-]*", "a license as the hub names it")] | None = None
    """License of the jumps for their model card, as the Hugging Face hub names it: apache-2.0, mit, ...
    null leaves it out."""
