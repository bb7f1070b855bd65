"""The kind "jtc": a full matrix, h A."""

from __future__ import annotations

from torch import Tensor

from onejump.shortcuts.shortcut import Shortcut


class JTC(Shortcut):
    """Jump to conclusions: h A, without intercept (arXiv 2303.09435, section 3).

    Parameters
    ----------
    matrix : Tensor of shape (H, H)
        A.
    """

    kind = "jtc"
    tensors = ("matrix",)
    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self._keep(matrix=matrix)

    def forward(self, states: Tensor) -> Tensor:
        """Give h A."""
        return self.taken(states) @ self.matrix


KIND = JTC
