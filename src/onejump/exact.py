"""The exact solvers: least squares and reduced-rank regression from moments gathered in one pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from onejump.maps import BATCH_NORM_EPS, JTC, NJTC, NNJTC, Residual

# A squared column correlation this close to one leaves fewer than three digits in float64: the Cholesky
# factor is then as good as singular, and the smallest solution is taken instead.
_SINGULAR = 1e-7
# Eigenvalues of a metric below this part of its largest are lifted to it.
_UNSEEN = 1e-6


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


def solve_symmetric(gram: Tensor, right: Tensor) -> Tensor:
    """Solve G A = C for a positive semi-definite G (H, H); the smallest solution where G is singular.

    Cholesky is as accurate as the best scaling of G's rows and columns allows, which matters here: a few
    coordinates of hidden states are thousands of times larger than the others.
    """
    factor, failed = torch.linalg.cholesky_ex(gram)
    diagonal = factor.diagonal()
    if not failed and bool((diagonal > _SINGULAR * gram.diagonal().sqrt()).all()):
        solution: Tensor = torch.cholesky_solve(right, factor)
        return solution
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    inverse = torch.where(kept, values.clamp_min(torch.finfo(values.dtype).tiny).reciprocal(), 0.0)
    smallest: Tensor = vectors @ (inverse[:, None] * (vectors.T @ right))
    return smallest


def top_directions(explained: Tensor, rank: int) -> Tensor:
    """Orthonormal V_r (H, r): top eigenvectors of a symmetric matrix, largest first, with a fixed sign."""
    vectors = torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -rank:].flip(1)
    largest = vectors.abs().argmax(0, keepdim=True)
    fixed: Tensor = vectors * vectors.gather(0, largest).sign()
    return fixed


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
    mean, variance, _, gram, cross, target_mean = standardise(moments)
    solution = solve_symmetric(gram, cross)
    explained = cross.T @ solution + moments.count * torch.outer(target_mean, target_mean)
    directions = top_directions(explained, rank)
    down = solution @ directions
    constant = target_mean @ directions
    beta = solve_symmetric(down.T @ down, constant[:, None])[:, 0] @ down.T
    return NNJTC(down, directions.T, torch.ones_like(mean), beta, mean, variance)


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
