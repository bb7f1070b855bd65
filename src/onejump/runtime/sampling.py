"""Draw tokens, and keep or refuse drafts so that kept tokens follow the full model's distribution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def draw(weights: Tensor, generator: torch.Generator) -> int:
    """Draw a token in proportion to weights (V,), which are not negative and need not add up to one.

    The generator lives on the CPU, whatever the weights' device: a row's draws do not depend on where it is
    computed, nor on other rows.
    """
    reached = weights.double().cumsum(0)
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    # The first token whose sum lies above: one of weight zero is never drawn.
    token = torch.searchsorted(reached, reached[-1:] * uniform, right=True)
    return min(int(token), int(reached.argmax()))


class Verdict(NamedTuple):
    """What became of a draft."""

    kept: bool
    token: int
    """The draft where it is kept, otherwise a token in its place."""


def judge(draft: int, proposal: Tensor, target: Tensor, generator: torch.Generator) -> Verdict:
    """Keep a draft, or draw another token, so that the token follows the target distribution exactly.

    The draft is kept with probability min(1, p / q). Otherwise a token is drawn in proportion to
    max(p - q, 0) (speculative sampling, arXiv 2211.17192, theorem 1).

    Parameters
    ----------
    draft : int
        Drawn from the proposal.
    proposal : Tensor of shape (V,)
        q, the probabilities that it was drawn by.
    target : Tensor of shape (V,)
        p, the full model's.
    generator : torch.Generator
    """
    p, q = float(target[draft]), float(proposal[draft])
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    if uniform * q < p:
        return Verdict(kept=True, token=draft)
    rest = (target.double() - proposal.double()).clamp_min(0)
    if not bool(rest.any()):  # equal but for rounding
        rest = target
    return Verdict(kept=False, token=draw(rest, generator))
