"""Least squares and reduced-rank regression from second moments, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# A squared column correlation this close to one leaves fewer than three digits in float64. The Cholesky
# factor is then as good as singular, and the smallest solution is taken instead.
_SINGULAR = 1e-7
# Eigenvalues of a metric are at least this part of its largest one.
_UNSEEN = 1e-6
# The search for leading directions ends when the sine of the angle between the space that it has found and
# the true one is known to be at most this.
_ANGLE = 1e-7
# The search looks for this many directions more than asked for, which makes it faster.
_SPARE = 3


class Factorised:
    """A positive semi-definite G (H, H), factorised once to solve G A = C for any C (H, k).

    A few coordinates of hidden states are thousands of times larger than the others. Cholesky does not suffer
    from that: it is as accurate as if the rows and columns of G were scaled in the best way. If G is
    singular, A is the smallest solution.
    """

    def __init__(self, gram: Tensor) -> None:
        factor, failed = torch.linalg.cholesky_ex(gram)
        diagonal = factor.diagonal()
        self._cholesky: Tensor | None = None
        if not failed and bool((diagonal > _SINGULAR * gram.diagonal().sqrt()).all()):
            self._cholesky = factor
            return
        values, self._vectors = torch.linalg.eigh(gram)
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        self._inverse = torch.where(kept, values.clamp_min(torch.finfo(values.dtype).tiny).reciprocal(), 0.0)

    def solve(self, right: Tensor) -> Tensor:
        """Solve G A = C: give A (H, k) of C (H, k)."""
        if self._cholesky is not None:
            solution: Tensor = torch.cholesky_solve(right, self._cholesky)
            return solution
        smallest: Tensor = self._vectors @ (self._inverse[:, None] * (self._vectors.T @ right))
        return smallest


def solve_symmetric(gram: Tensor, right: Tensor) -> Tensor:
    """Solve G A = C for one C, as `Factorised` does."""
    return Factorised(gram).solve(right)


def top_directions(explained: Tensor, rank: int) -> Tensor:
    """Find the r leading eigenvectors (H, r) of a symmetric matrix (H, H), the largest eigenvalue first.

    The sign of each is fixed: its largest number is positive.
    """
    return _with_fixed_sign(torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -rank:].flip(1))


def _with_fixed_sign(vectors: Tensor) -> Tensor:
    largest = vectors.abs().argmax(0, keepdim=True)
    fixed: Tensor = vectors * vectors.gather(0, largest).sign()
    return fixed


def leading_directions(
    explained: Callable[[Tensor], Tensor], hidden: int, rank: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Find `top_directions` of a matrix from its products only, without making the matrix.

    Block Lanczos with full orthogonalisation (Golub and Underwood 1977). The search ends when the residuals,
    divided by the gap behind the r-th eigenvalue, bound the angle of the error (Davis and Kahan 1970). If
    that takes more than H / 3 directions, as with a large r or a small gap, the matrix is made and
    diagonalised.

    Parameters
    ----------
    explained : function of a Tensor of shape (H, k), in float64
        It multiplies the symmetric positive semi-definite matrix with the tensor.
    hidden, rank : int
        H and r.
    device : torch.device

    Returns
    -------
    Tensor of shape (H, r)
    """
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(hidden, rank + _SPARE, dtype=torch.float64, generator=generator).to(device)
    basis = products = block[:, :0]
    while basis.shape[1] + block.shape[1] <= hidden // 3:
        for _ in range(2):  # once leaves rounding errors that grow from block to block
            block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
        product = explained(block)
        basis, products = torch.cat([basis, block], 1), torch.cat([products, product], 1)
        seen = basis.T @ products
        values, vectors = torch.linalg.eigh((seen + seen.T) / 2)
        found = basis @ vectors[:, -rank:]
        residuals = products @ vectors[:, -rank:] - found * values[-rank:]
        if residuals.norm() <= _ANGLE * (values[-rank] - values[-rank - 1]):
            return _with_fixed_sign(found.flip(1))
        block = product
    return top_directions(explained(torch.eye(hidden, dtype=torch.float64, device=device)), rank)


class Metric(NamedTuple):
    """A way to measure errors e, as e' M e. It is kept as the root S = M^(1/2)."""

    root: Tensor
    """S, (H, H)."""
    inverse: Tensor
    """S^-1, (H, H)."""

    @classmethod
    def of(cls, matrix: Tensor) -> Metric:
        """Take the root of a positive semi-definite M (H, H), its smallest eigenvalues raised a little."""
        values, vectors = torch.linalg.eigh(matrix)
        roots = values.clamp_min(_UNSEEN * float(values[-1])).sqrt()
        return cls((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)


def reduced_rank(gram: Tensor, cross: Tensor, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Reduced-rank regression with errors measured by a metric (Izenman 1975, with weights).

    With V_r the top eigenvectors of S C' G^-1 C S: A = G^-1 C S V_r and B = V_r' S^-1.

    Parameters
    ----------
    gram, cross : Tensor of shape (W, W) and (W, H)
        G = Z'Z and C = Z'Y, of inputs Z (n, W) and targets Y (n, H).
    rank : int
        r.
    metric : Metric

    Returns
    -------
    down : Tensor of shape (W, r)
        A.
    up : Tensor of shape (r, H)
        B.
    """
    solution = solve_symmetric(gram, cross) @ metric.root
    directions = top_directions(metric.root @ cross.T @ solution, rank)
    return solution @ directions, directions.T @ metric.inverse
