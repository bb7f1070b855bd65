"""What all shortcuts share: modules that map a level's states to an approximation of the last level's.

Each kind is a module of `onejump.shortcuts.kinds`.

| kind | map | paper |
|---|---|---|
| identity | h | |
| jtc | h A | arXiv 2303.09435 |
| affine | norm(h) A + b | what a tuned lens trains, arXiv 2303.08112 |
| njtc | h A B | arXiv 2409.14091 |
| n-njtc, joint | BatchNorm(h) A B | arXiv 2409.14091 |
| residual | h + BatchNorm(h) A B | |
| distilled | (norm(h) A + c) B + b | |
| one-jump | as distilled, with one A, B and b for all levels | |
| shortlist | none: a one-jump whose most likely tokens are judged again by h, or by h + a correction | |
| one-forward | as one-jump, of h and the last level's state of the position before | |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from onejump.base.errors import OneJumpError
from onejump.models.head import NormKind, normalised

BATCH_NORM_EPS = 1e-5
"""Epsilon of BatchNorm, torch's own."""


class Shortcut(nn.Module, ABC):
    """A map from the states (..., H) of a level to an approximation of the last level's states.

    It computes in its own precision, which is float32 unless it was converted: states of any precision are
    converted first, and predictions are returned in its precision. In bfloat16 or float16 a prediction would
    be rounded, and in float16 it could overflow.
    """

    kind: ClassVar[str]
    """The name of the kind, in studies and files."""
    predicts_state: ClassVar[bool] = True
    """Whether a prediction can be compared with the last level's state itself, by r2 or a squared error.

    A distilled kind is trained through the head, whose norm sees only the direction of a state: the length of
    its prediction means nothing.
    """
    reads_previous: ClassVar[bool] = False
    """Whether it reads the last level's state of the position before, too. Its states are then (..., 2H): the
    state of the level, and that state behind it; zeros at the first position of a text."""
    tensors: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that it keeps."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors that may be None."""
    constants: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that its file keeps besides the tensors."""
    norm: str | None = None
    """The norm that it first applies to a state: "rms" or "layer" (the model's own kind), "batch" or None."""
    level: int | None = None
    """The level that it was fitted at; None if it was fitted at several, or that is not known."""
    model_digest: str | None = None
    """The identity of the model whose states it was fitted to (`onejump.models.description`), if known."""

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """Approximate last-level states (..., H) from states (..., H)."""

    def taken(self, states: Tensor) -> Tensor:
        """Convert states to the precision that the shortcut computes in."""
        own = next((tensor for tensor in self._buffers.values() if tensor is not None), None)
        if own is None:
            return states.to(torch.promote_types(states.dtype, torch.float32))
        return states.to(own.dtype)

    def at(self, level: int) -> Shortcut:
        """Give the shortcut for states of a level: itself, unless its levels differ (one-jump)."""
        return self

    def extra_repr(self) -> str:
        """Say what `print` shows: the kind, its sizes, its norm, and the level that it was fitted at."""
        return ", ".join(f"{name}={value}" for name, value in self._described().items() if value is not None)

    def _described(self) -> dict[str, Any]:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        hidden, rank = shapes.get("down", (*shapes.get("matrix", (None,))[:1], None))
        return {"kind": self.kind, "hidden": hidden, "rank": rank, "norm": self.norm, "level": self.level}

    def numbers(self) -> int:
        """Count the numbers that it keeps at inference."""
        return sum(tensor.numel() for tensor in self.state_dict().values())

    def config(self) -> dict[str, Any]:
        """Give what its file keeps besides the tensors."""
        return {name: getattr(self, name) for name in self.constants}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make a shortcut from what its file holds, bit for bit.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            What `state_dict` gave.
        config : mapping
            What `config` gave.

        Raises
        ------
        OneJumpError
            If a name is missing in either, or not known to this kind.
        """
        cls.check_names(tensors, config)
        # Not by __init__: that would orthonormalise the rows again and change their last bits.
        shortcut = cls.__new__(cls)
        nn.Module.__init__(shortcut)
        shortcut._keep(**tensors)
        for name in cls.constants:
            setattr(shortcut, name, config[name])
        return shortcut

    @classmethod
    def check_names(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        """Refuse tensors or constants that are not those of this kind.

        Raises
        ------
        OneJumpError
            If a name is missing, or not known.
        """
        _check_names(cls.kind, "tensors", tensors, cls.tensors, cls.optional)
        _check_names(cls.kind, "constants", config, cls.constants)

    def _keep(self, **tensors: Tensor | None) -> None:
        for name in (*self.optional, *tensors):
            tensor = tensors.get(name)
            kept = None if tensor is None else tensor.detach().to(torch.float32).contiguous()
            self.register_buffer(name, kept)


class LowRank(Shortcut):
    """A shortcut through r numbers: z B + b.

    Its head costs V r multiplications instead of V H (`onejump.shortcuts.exit_head`).
    """

    optional = ("bias",)
    up: Tensor
    """B, (r, H)."""
    bias: Tensor | None
    """b, (H,)."""

    @property
    def rank(self) -> int:
        """r."""
        return self.up.shape[0]

    @abstractmethod
    def reduce(self, states: Tensor) -> Tensor:
        """Give z (..., r) of states (..., H)."""

    def prepare(self, states: Tensor) -> Tensor:
        """Apply to states (..., H) what comes before the matrix of `folded`."""
        return self.taken(states)

    def input_directions(self) -> Tensor:
        """Give what a prepared state is multiplied by, without a bias: (H, r), in float64."""
        return self.folded()[0]

    @abstractmethod
    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Write the prediction as (prepare(h) M + c) Q, with orthonormal rows Q.

        The length of a prediction is then that of its q coordinates prepare(h) M + c, and can be had without
        making the prediction.

        Returns
        -------
        M : Tensor of shape (H, q), float64
        c : Tensor of shape (q,), float64
        Q : Tensor of shape (q, H), float64
        """

    def forward(self, states: Tensor) -> Tensor:
        """Give z B + b of states (..., H)."""
        predicted = self.reduce(states) @ self.up
        return predicted if self.bias is None else predicted + self.bias


class DistilledKind(Shortcut):
    """A shortcut trained on the model's distribution. It first applies the model's own norm, or none."""

    predicts_state = False
    constants = ("norm", "eps")
    norm: NormKind | None
    eps: float
    """Epsilon of the norm."""

    def prepare(self, states: Tensor) -> Tensor:
        """Give norm(h), without gain and bias."""
        states = self.taken(states)
        return states if self.norm is None else normalised(states, self.norm, self.eps)


def triangular(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Write rows (r, H) as T Q: a triangular T (r, r) and orthonormal rows Q (r, H), both in float64."""
    basis, triangle = torch.linalg.qr(rows.double().T)
    return triangle.T, basis.T


def with_orthonormal_rows(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Write A B (H, r) (r, H) as another such product whose B has orthonormal rows, in float64."""
    triangle, rows = triangular(up)
    return down.double() @ triangle, rows


def _check_names(
    kind: str,
    what: str,
    given: Mapping[str, Any],
    expected: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> None:
    if set(expected) <= set(given) <= {*expected, *optional}:
        return
    accepted = ", ".join([*expected, *(f"{name} (optional)" for name in optional)]) or "none"
    raise OneJumpError(
        f"{what} {', '.join(sorted(given)) or 'none'} given, those of a shortcut of kind {kind} are "
        f"{accepted}"
    )
