"""The kind "one-forward": one distilled jump for all levels that also reads the last level's state before.

Where a token goes through all blocks, and the next one is to be predicted early, the last level's state of
the token before is known already. It has seen all of the text but the newest token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onejump.models.head import NormKind, normalised
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.one_jump import OneJump


class ForwardAt(Distilled):
    """([norm(h) ; norm(g)] A + c) B + b, g being the last level's state of the position before.

    Parameters
    ----------
    down : Tensor of shape (2H, r)
        A.
    offset, up, bias, norm, eps
        As in `Distilled`. h and g are normalised each by itself.
    """

    kind = "one-forward"
    reads_previous = True

    def prepare(self, states: Tensor) -> Tensor:
        """Give [norm(h) ; norm(g)] (..., 2H) of states (..., 2H), without gain and bias."""
        return halves_normalised(self.taken(states), self.norm, self.eps)

    def _described(self) -> dict[str, Any]:
        return super()._described() | {"hidden": self.up.shape[1]}


class OneForward(OneJump):
    """One distilled jump for all levels that reads the last level's state of the position before, too.

    Parameters
    ----------
    down : Tensor of shape (2H, r)
        A, shared by all levels.
    scale : Tensor of shape (L, 2H), optional
        Scales of each level's input coordinates.
    offset, up, bias, norm, eps, mix
        As in `OneJump`.
    """

    kind = "one-forward"
    reads_previous = True
    of_level = ForwardAt

    def _described(self) -> dict[str, Any]:
        return super()._described() | {"hidden": self.up.shape[1]}


def halves_normalised(states: Tensor, norm: NormKind | None, eps: float) -> Tensor:
    """Normalise each half of states (..., 2H) by itself, without gain and bias. Zeros stay zeros."""
    if norm is None:
        return states
    halves = torch.stack(states.chunk(2, -1), -2)
    return normalised(halves, norm, eps).flatten(-2)


KIND = OneForward
