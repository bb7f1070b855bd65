"""Where and how fast a study computes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import PositiveInt

from onejump.study.values import Section, of_form


class Compute(Section):
    """Where and how fast to compute. Nothing here changes a result, so a change here reruns no stage.

    Only the times that `exit-costs` measures depend on it; they are not measured again either.
    """

    device: Annotated[str, of_form(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<index>")] = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """How to spread a large model over the GPUs of a job, as in transformers. null: use one device."""
    batch_tokens: PositiveInt = 4096
    """Most tokens in one forward pass, padding included."""
