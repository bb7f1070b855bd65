"""The kind "njtc": a low-rank matrix, h A B."""

from __future__ import annotations

import torch
from torch import Tensor

from onejump.shortcuts.shortcut import LowRank, with_orthonormal_rows


class NJTC(LowRank):
    """Low-rank jump: h A B, without intercept (arXiv 2409.14091).

    B is kept with orthonormal rows, which any A B can be written with. Then |h A B| = |h A|: the length of a
    prediction is known without making the prediction.

    Parameters
    ----------
    down : Tensor of shape (H, r)
        A.
    up : Tensor of shape (r, H)
        B, of full rank. A and B are changed to the form above.
    """

    kind = "njtc"
    tensors = ("down", "up")
    down: Tensor

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        down, up = with_orthonormal_rows(down, up)
        self._keep(down=down, up=up)

    def reduce(self, states: Tensor) -> Tensor:
        """Give h A."""
        return self.taken(states) @ self.down

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give A, 0 and B (`LowRank.folded`)."""
        offset = torch.zeros(self.rank, dtype=torch.float64, device=self.down.device)
        return self.down.double(), offset, self.up.double()


KIND = NJTC
