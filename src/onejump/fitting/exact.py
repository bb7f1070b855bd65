"""The exact solvers: least squares and reduced-rank regression from moments gathered in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.kinds.njtc import NJTC
from onejump.shortcuts.kinds.residual import Residual
from onejump.shortcuts.shortcut import BATCH_NORM_EPS

# A squared column correlation this close to one leaves fewer than three digits in float64: the Cholesky
# factor is then as good as singular, and the smallest solution is taken instead.
_SINGULAR = 1e-7
# Eigenvalues of a metric below this part of its largest are lifted to it.
_UNSEEN = 1e-6
# Leading directions are found when their space turns no more than this (the sine of its largest angle).
_ANGLE = 1e-7
# Directions more than asked for, which speed up the search for those.
_SPARE = 3


@dataclass
class Moments:
    """Second moments of inputs X (n, H) and targets Y (n, H), in float64.

    Attributes
    ----------
    count : int
        n.
    sum_x, sum_y : Tensor of shape (H,)
    xx, xy : Tensor of shape (H, H)
        G = X'X and C = X'Y.
    yy : float
        Squared Frobenius norm of Y.
    """

    count: int
    sum_x: Tensor
    sum_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: float

    @classmethod
    def empty(cls, hidden: int, device: torch.device | str = "cpu") -> Moments:
        """No samples yet."""
        vector = torch.zeros(hidden, dtype=torch.float64, device=device)
        matrix = torch.zeros(hidden, hidden, dtype=torch.float64, device=device)
        return cls(0, vector, vector.clone(), matrix, matrix.clone(), 0.0)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add samples: inputs and targets of shape (n, H)."""
        x, y = inputs.to(self.xx), targets.to(self.xx)
        self.count += len(x)
        self.sum_x += x.sum(0)
        self.sum_y += y.sum(0)
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.yy += float(y.square().sum())


class Factorised:
    """A positive semi-definite G (H, H), factorised once to solve G A = C for any C (H, k).

    Cholesky is as accurate as the best scaling of G's rows and columns allows, which matters here: a few
    coordinates of hidden states are thousands of times larger than the others. Where G is singular, A is the
    smallest solution.
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
        """A (H, k) of C (H, k)."""
        if self._cholesky is not None:
            solution: Tensor = torch.cholesky_solve(right, self._cholesky)
            return solution
        smallest: Tensor = self._vectors @ (self._inverse[:, None] * (self._vectors.T @ right))
        return smallest


def solve_symmetric(gram: Tensor, right: Tensor) -> Tensor:
    """Solve G A = C once, as `Factorised`."""
    return Factorised(gram).solve(right)


def top_directions(explained: Tensor, rank: int) -> Tensor:
    """Orthonormal V_r (H, r): top eigenvectors of a symmetric matrix, largest first, with a fixed sign."""
    return _with_fixed_sign(torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -rank:].flip(1))


def _with_fixed_sign(vectors: Tensor) -> Tensor:
    largest = vectors.abs().argmax(0, keepdim=True)
    fixed: Tensor = vectors * vectors.gather(0, largest).sign()
    return fixed


def leading_directions(
    explained: Callable[[Tensor], Tensor], hidden: int, rank: int, device: torch.device | str = "cpu"
) -> Tensor:
    """`top_directions` of a matrix that is known by its products, without making or diagonalising it.

    Block Lanczos, each block made orthogonal to all before (Golub and Underwood 1977), until the residuals
    over the gap behind the r-th eigenvalue bound the angle (Davis and Kahan 1970). Where that takes more
    than a third of H directions, the gap too small or r too large, the matrix is diagonalised after all.

    Parameters
    ----------
    explained : function of a Tensor of shape (H, k), in float64
        Its product with a symmetric positive semi-definite matrix.
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


def fit_jtc(moments: Moments) -> JTC:
    """Least squares without intercept: A = G^-1 C."""
    return JTC(solve_symmetric(moments.xx, moments.xy))


def fit_njtc(moments: Moments, rank: int) -> NJTC:
    """Reduced-rank regression of Y on X (Izenman 1975): A = G^-1 C V_r, B = V_r'.

    V_r are the top eigenvectors of C' G^-1 C.
    """
    solution = solve_symmetric(moments.xx, moments.xy)
    directions = top_directions(moments.xy.T @ solution, rank)
    return NJTC(solution @ directions, directions.T)


class Standardised(NamedTuple):
    """Moments of inputs brought to mean 0 and variance 1, and of centred targets."""

    mean: Tensor
    """Of the inputs, (H,)."""
    variance: Tensor
    """Of the inputs, (H,)."""
    scale: Tensor
    """1 / sqrt(variance + 1e-5), (H,)."""
    gram: Tensor
    """Z'Z, (H, H)."""
    cross: Tensor
    """Z'Y, (H, H)."""
    target_mean: Tensor
    """(H,)."""


def standardise(moments: Moments) -> Standardised:
    """Moments of Z = (X - mean) scale and of Y, less its mean."""
    mean = moments.sum_x / moments.count
    target_mean = moments.sum_y / moments.count
    centred = moments.xx - moments.count * torch.outer(mean, mean)
    variance = centred.diagonal().clamp_min(0) / moments.count
    scale = torch.rsqrt(variance + BATCH_NORM_EPS)
    return Standardised(
        mean,
        variance,
        scale,
        scale[:, None] * centred * scale,
        scale[:, None] * (moments.xy - moments.count * torch.outer(mean, target_mean)),
        target_mean,
    )


def fit_n_njtc(moments: Moments, rank: int) -> NNJTC:
    """Reduced-rank regression of Y on standardised X and a constant.

    The constant's coefficients a_0 (r,) are what BatchNorm's beta gives: beta A = a_0, taken smallest.
    """
    standardised = standardise(moments)
    _, _, _, gram, cross, target_mean = standardised
    solution = solve_symmetric(gram, cross)
    explained = cross.T @ solution + moments.count * torch.outer(target_mean, target_mean)
    directions = top_directions(explained, rank)
    return with_constant(standardised, solution @ directions, directions)


def with_constant(standardised: Standardised, down: Tensor, directions: Tensor) -> NNJTC:
    """BatchNorm(h) A B of A = G^-1 C V_r and B = V_r', with the beta that gives the constant."""
    constant = standardised.target_mean @ directions
    beta = solve_symmetric(down.T @ down, constant[:, None])[:, 0] @ down.T
    mean = standardised.mean
    return NNJTC(down, directions.T, torch.ones_like(mean), beta, mean, standardised.variance)


def fit_residual(moments: Moments, rank: int) -> Residual:
    """h + n-njtc, the second term fitted to what the state lacks: moments of (X, Y - X)."""
    missing = replace(
        moments, sum_y=moments.sum_y - moments.sum_x, xy=moments.xy - moments.xx, yy=float("nan")
    )
    return Residual(fit_n_njtc(missing, rank))


class Metric(NamedTuple):
    """A way to measure errors, e' M e, by its root S = M^(1/2)."""

    root: Tensor
    """S, (H, H)."""
    inverse: Tensor
    """S^-1, (H, H)."""

    @classmethod
    def of(cls, matrix: Tensor) -> Metric:
        """From a positive semi-definite M (H, H). What it hardly sees counts as if it saw it a little."""
        values, vectors = torch.linalg.eigh(matrix)
        roots = values.clamp_min(_UNSEEN * float(values[-1])).sqrt()
        return cls((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)


def reduced_rank(gram: Tensor, cross: Tensor, rank: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Reduced-rank regression with errors measured in a metric (Izenman 1975, with weights).

    With V_r the top eigenvectors of S C' G^-1 C S: A = G^-1 C S V_r and B = V_r' S^-1.

    Parameters
    ----------
    gram, cross : Tensor of shape (H, H)
        G = Z'Z and C = Z'Y.
    rank : int
    metric : Metric

    Returns
    -------
    A of shape (H, r), B of shape (r, H)
    """
    solution = solve_symmetric(gram, cross) @ metric.root
    directions = top_directions(metric.root @ cross.T @ solution, rank)
    return solution @ directions, directions.T @ metric.inverse
