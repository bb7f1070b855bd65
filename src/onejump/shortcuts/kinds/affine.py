"""The kind "affine": norm(h) A + b, of full rank."""

from __future__ import annotations

from torch import Tensor

from onejump.models.head import NormKind
from onejump.shortcuts.shortcut import DistilledKind


class Affine(DistilledKind):
    """norm(h) A + b, of full rank: the limit that low rank is compared with.

    Parameters
    ----------
    matrix : Tensor of shape (H, H)
        A.
    bias : Tensor of shape (H,)
        b.
    norm : {"rms", "layer"} or None
        Norm of the input, without gain and bias.
    eps : float
        Epsilon of the norm.
    """

    kind = "affine"
    tensors = ("matrix", "bias")
    matrix: Tensor
    bias: Tensor

    def __init__(self, matrix: Tensor, bias: Tensor, norm: NormKind | None, eps: float) -> None:
        super().__init__()
        self._keep(matrix=matrix, bias=bias)
        self.norm, self.eps = norm, eps

    def forward(self, states: Tensor) -> Tensor:
        """Give norm(h) A + b."""
        return self.prepare(states) @ self.matrix + self.bias


KIND = Affine
