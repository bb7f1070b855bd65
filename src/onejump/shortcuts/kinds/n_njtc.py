"""The kind "n-njtc": a low-rank matrix behind a batch normalisation. A joint fit is of this kind too."""

from __future__ import annotations

import torch
from torch import Tensor

from onejump.shortcuts.shortcut import BATCH_NORM_EPS, LowRank, with_orthonormal_rows


class NNJTC(LowRank):
    """Normalised low-rank jump: BatchNorm(h) A B, with the running statistics (arXiv 2409.14091).

    Parameters
    ----------
    down : Tensor of shape (H, r)
        A.
    up : Tensor of shape (r, H)
        B, of full rank. A and B are changed so that the rows of B are orthonormal, as in njtc.
    gamma, beta, mean, variance : Tensor of shape (H,)
        BatchNorm(h) = gamma (h - mean) / sqrt(variance + 1e-5) + beta.
    """

    kind = "n-njtc"
    norm = "batch"
    tensors = ("down", "up", "gamma", "beta", "mean", "variance")
    down: Tensor
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(
        self, down: Tensor, up: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
    ) -> None:
        super().__init__()
        down, up = with_orthonormal_rows(down, up)
        self._keep(down=down, up=up, gamma=gamma, beta=beta, mean=mean, variance=variance)

    def reduce(self, states: Tensor) -> Tensor:
        """Give BatchNorm(h) A."""
        scale = self.gamma * torch.rsqrt(self.variance + BATCH_NORM_EPS)
        return ((self.taken(states) - self.mean) * scale + self.beta) @ self.down

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give A scaled by the normalisation, the rest of the normalisation, and B (`LowRank.folded`)."""
        scale = self.gamma.double() * torch.rsqrt(self.variance.double() + BATCH_NORM_EPS)
        matrix = scale[:, None] * self.down.double()
        offset = self.beta.double() @ self.down.double() - self.mean.double() @ matrix
        return matrix, offset, self.up.double()


KIND = NNJTC
