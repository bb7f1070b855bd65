"""The kind "residual": the state, and a low-rank correction of it."""

from __future__ import annotations

from torch import Tensor

from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.shortcut import Shortcut


class Residual(Shortcut):
    """h + BatchNorm(h) A B: the state, and a low-rank correction of it.

    It keeps what the identity predicts well. Only the correction is of low rank, so its head costs V H
    multiplications.

    Parameters
    ----------
    correction : NNJTC
        BatchNorm(h) A B.
    """

    kind = "residual"
    norm = "batch"
    tensors = NNJTC.tensors

    def __init__(self, correction: NNJTC) -> None:
        super().__init__()
        self._keep(**correction.state_dict())

    def forward(self, states: Tensor) -> Tensor:
        """Give h + BatchNorm(h) A B."""
        corrections: Tensor = NNJTC.restore(self.state_dict(), {})(states)
        return self.taken(states) + corrections


KIND = Residual
