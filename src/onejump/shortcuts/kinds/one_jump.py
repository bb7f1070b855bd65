"""The kind "one-jump": one distilled jump for all levels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.base.levels import check_level
from onejump.models.head import NormKind
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.shortcut import DistilledKind


class OneJump(DistilledKind):
    """One distilled jump for all levels. Each level has its own c, and scales its input or mixes its z.

    Parameters
    ----------
    down, up, bias, norm, eps
        As in `Distilled`, shared by all levels.
    offset : Tensor of shape (L, r)
        c of each level.
    scale : Tensor of shape (L, H), optional
        Scales of each level's input coordinates: the level's A is diag(scale) A.
    mix : Tensor of shape (L, r, r), optional
        Mixing of each level's z: the level's A is A mix.
    """

    kind = "one-jump"
    tensors = ("down", "offset", "up", "bias")
    optional = ("scale", "mix")
    of_level: ClassVar[type[Distilled]] = Distilled
    """What the shortcut of one level is."""
    down: Tensor
    up: Tensor
    bias: Tensor
    offset: Tensor
    scale: Tensor | None
    mix: Tensor | None

    def __init__(
        self,
        down: Tensor,
        offset: Tensor,
        up: Tensor,
        bias: Tensor,
        norm: NormKind | None,
        eps: float,
        *,
        scale: Tensor | None = None,
        mix: Tensor | None = None,
    ) -> None:
        super().__init__()
        self._keep(down=down, offset=offset, up=up, bias=bias, scale=scale, mix=mix)
        self.norm, self.eps = norm, eps

    def at(self, level: int) -> Distilled:
        """Give the shortcut for states of a level.

        Raises
        ------
        OneJumpError
            If the jump was not trained for that level.
        """
        check_level(level, len(self.offset), self.kind)
        down = self.down
        if self.scale is not None:
            down = self.scale[level][:, None] * down
        if self.mix is not None:
            down = down @ self.mix[level]
        jump = self.of_level(down, self.offset[level], self.up, self.bias, self.norm, self.eps)
        jump.level, jump.model_digest = level, self.model_digest
        return jump

    def _described(self) -> dict[str, Any]:
        return super()._described() | {"level": f"0..{len(self.offset) - 1}"}

    def forward(self, states: Tensor) -> Tensor:
        """Approximate last-level states (L, ..., H) from the states (L, ..., H) of all early-exit levels.

        Raises
        ------
        OneJumpError
            If the number of levels is not L. For states of one level use `at(level)`.
        """
        if len(states) != len(self.offset):
            raise OneJumpError(
                f"states of {len(self.offset)} levels were expected, {len(states)} were given: "
                "for states of one level use at(level)"
            )
        return torch.stack([self.at(level)(of_level) for level, of_level in enumerate(states)])


KIND = OneJump
