"""The kind "shortlist": one-jump, and a second look at its most likely tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from onejump.base.errors import OneJumpError
from onejump.base.levels import check_level
from onejump.models.head import NormKind
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.shortcut import Shortcut

FIRST, SECOND = "first.", "second."


class ShortlistAt(Shortcut):
    """A low-rank jump whose most likely tokens are judged again, for the states of one level.

    Predictions are made by `onejump.shortcuts.shortlist_head.ShortlistHead`.

    Parameters
    ----------
    first : Distilled
        The jump whose most likely tokens are the candidates.
    second : Distilled or None
        A low-rank correction of the state that judges the candidates; None if the state itself does.
    weights : Tensor of shape (2,)
        Of the first jump's log-probabilities, and of the state's own logits.
    candidates : int
        k.
    """

    kind = "shortlist"
    predicts_state = False
    first: Distilled
    second: Distilled | None
    weights: Tensor

    def __init__(self, first: Distilled, second: Distilled | None, weights: Tensor, candidates: int) -> None:
        super().__init__()
        self.first, self.second, self.candidates = first, second, candidates
        self._keep(weights=weights)
        self.level, self.model_digest = first.level, first.model_digest

    def forward(self, states: Tensor) -> Tensor:
        """Give the states (..., H) that judge the candidates: h, or h + |h| times its correction.

        |h| is what the norm divides a state by. So the correction is one of the normalised state.
        """
        return self.looks(states)[1]

    def looks(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Give z (..., r) of the first jump, and the states (..., H) that judge, of states (..., H).

        Both jumps begin with the same norm, which is made once.
        """
        states = self.taken(states)
        if self.second is None:
            return self.first.reduce(states), states
        centred, length = centred_and_length(states, self.second.norm, self.second.eps)
        inputs = centred / length
        correction = (inputs @ self.second.down + self.second.offset) @ self.second.up
        if self.second.bias is not None:
            correction = correction + self.second.bias
        return inputs @ self.first.down + self.first.offset, states + length * correction


class Shortlist(Shortcut):
    """One jump for all levels whose most likely tokens are judged again by the state itself.

    Parameters
    ----------
    first : OneJump
        The jump whose most likely tokens are the candidates.
    weights : Tensor of shape (L, 2)
        For each level, the weights of the jump's log-probabilities and of the state's own logits.
    candidates : int
        k.
    second : OneJump, optional
        A low-rank correction of the state that judges the candidates.
    """

    kind = "shortlist"
    predicts_state = False
    tensors: ClassVar[tuple[str, ...]] = (*(FIRST + name for name in OneJump.tensors), "weights")
    optional: ClassVar[tuple[str, ...]] = (
        *(FIRST + name for name in OneJump.optional),
        *(SECOND + name for name in (*OneJump.tensors, *OneJump.optional)),
    )
    constants = ("norm", "eps", "candidates")
    first: OneJump
    second: OneJump | None
    weights: Tensor

    def __init__(
        self, first: OneJump, weights: Tensor, candidates: int, second: OneJump | None = None
    ) -> None:
        super().__init__()
        self._set(first, weights, candidates, second)

    def _set(self, first: OneJump, weights: Tensor, candidates: int, second: OneJump | None) -> None:
        self.first, self.second, self.candidates = first, second, candidates
        self.register_buffer("weights", weights.detach().to(torch.float32).contiguous())
        self.norm: NormKind | None = first.norm
        self.eps = first.eps

    @property
    def rank(self) -> int:
        """r of the first jump."""
        return self.first.up.shape[0]

    @property
    def correction(self) -> int | None:
        """Rank of the correction of the state; None if the state itself judges."""
        return None if self.second is None else self.second.up.shape[0]

    def at(self, level: int) -> ShortlistAt:
        """Give the shortcut for states of a level.

        Raises
        ------
        OneJumpError
            If it was not fitted for that level.
        """
        check_level(level, len(self.weights), self.kind)
        first = self.first.at(level)
        first.model_digest = self.model_digest
        second = None if self.second is None else self.second.at(level)
        return ShortlistAt(first, second, self.weights[level], self.candidates)

    def forward(self, states: Tensor) -> Tensor:
        """Give the states (L, ..., H) that judge, of the states (L, ..., H) of all early-exit levels.

        Predictions are made by `onejump.ShortlistHead`, as a shortlist predicts tokens.

        Raises
        ------
        OneJumpError
            If the number of levels is not L. For states of one level use `at(level)`.
        """
        if len(states) != len(self.weights):
            raise OneJumpError(
                f"states of {len(self.weights)} levels were expected, {len(states)} were given: "
                "for states of one level use at(level)"
            )
        return torch.stack([self.at(level)(of_level) for level, of_level in enumerate(states)])

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make a shortlist from what its file holds (`Shortcut.restore`)."""
        cls.check_names(tensors, config)
        candidates = config["candidates"]
        if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
            raise OneJumpError(f"candidates: {candidates!r} given, a whole number from 1 on is accepted")
        of_norm = {name: config[name] for name in OneJump.constants}
        jumps = [
            {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
            for part in (FIRST, SECOND)
        ]
        first = OneJump.restore(jumps[0], of_norm)
        second = OneJump.restore(jumps[1], of_norm) if jumps[1] else None
        shortlist = cls.__new__(cls)
        nn.Module.__init__(shortlist)
        shortlist._set(first, tensors["weights"], candidates, second)
        return shortlist

    def _described(self) -> dict[str, Any]:
        described = self.first._described() | {"kind": self.kind, "candidates": self.candidates}
        return described | {"correction": self.correction}


def centred_and_length(states: Tensor, norm: str | None, eps: float) -> tuple[Tensor, Tensor | float]:
    """Give what a norm without a gain divides, (..., H), and by what, (..., 1), of states (..., H).

    Without a norm, it divides states by 1.
    """
    if norm is None:
        return states, 1.0
    centred = states - states.mean(-1, keepdim=True) if norm == "layer" else states
    return centred, (centred.square().mean(-1, keepdim=True) + eps).sqrt()


KIND = Shortlist
