"""The kind "distilled": a low-rank affine map behind the model's norm, one for each level."""

from __future__ import annotations

import torch
from torch import Tensor

from onejump.models.head import NormKind
from onejump.shortcuts.shortcut import DistilledKind, LowRank, triangular


class Distilled(DistilledKind, LowRank):
    """(norm(h) A + c) B + b, trained on the model's distribution instead of its last state.

    Parameters
    ----------
    down : Tensor of shape (H, r)
        A.
    offset : Tensor of shape (r,)
        c.
    up : Tensor of shape (r, H)
        B.
    bias : Tensor of shape (H,)
        b.
    norm : {"rms", "layer"} or None
        Norm of the input, without gain and bias.
    eps : float
        Epsilon of the norm.
    """

    kind = "distilled"
    tensors = ("down", "offset", "up", "bias")
    down: Tensor
    offset: Tensor

    def __init__(
        self, down: Tensor, offset: Tensor, up: Tensor, bias: Tensor, norm: NormKind | None, eps: float
    ) -> None:
        super().__init__()
        self._keep(down=down, offset=offset, up=up, bias=bias)
        self.norm, self.eps = norm, eps

    def reduce(self, states: Tensor) -> Tensor:
        """Give norm(h) A + c."""
        return self.prepare(states) @ self.down + self.offset

    def input_directions(self) -> Tensor:
        """Give A, as the folded matrix has a column for the bias too (`LowRank.input_directions`)."""
        return self.down.double()

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give A T and c T of [B; b] = T Q, and Q (`LowRank.folded`)."""
        assert self.bias is not None
        triangle, rows = triangular(torch.cat([self.up, self.bias[None]]))
        return (
            self.down.double() @ triangle[:-1],
            self.offset.double() @ triangle[:-1] + triangle[-1],
            rows,
        )


KIND = Distilled
