"""The fit of n-njtc: reduced-rank regression on standardised states and a constant."""

from __future__ import annotations

import torch
from torch import Tensor

from onejump.fitting.moments import Moments, Standardised, standardise
from onejump.fitting.regression import solve_symmetric, top_directions
from onejump.shortcuts.kinds.n_njtc import NNJTC

KIND = NNJTC
ONE_FOR_ALL_LEVELS = False


def from_moments(moments: Moments, rank: int) -> NNJTC:
    """Reduced-rank regression of Y on standardised X and a constant."""
    standardised = standardise(moments)
    _, _, _, gram, cross, target_mean = standardised
    solution = solve_symmetric(gram, cross)
    explained = cross.T @ solution + moments.count * torch.outer(target_mean, target_mean)
    directions = top_directions(explained, rank)
    return with_constant(standardised, solution @ directions, directions)


def with_constant(standardised: Standardised, down: Tensor, directions: Tensor) -> NNJTC:
    """Make BatchNorm(h) A B of the regression's A and B, with the constant in BatchNorm's beta.

    The constant's coefficients are a_0 (r,); beta is the smallest solution of beta A = a_0.

    Parameters
    ----------
    standardised : Standardised
        Moments of the samples.
    down : Tensor of shape (H, r)
        A = G^-1 C V_r.
    directions : Tensor of shape (H, r)
        V_r = B'.
    """
    constant = standardised.target_mean @ directions
    beta = solve_symmetric(down.T @ down, constant[:, None])[:, 0] @ down.T
    mean = standardised.mean
    return NNJTC(down, directions.T, torch.ones_like(mean), beta, mean, standardised.variance)
