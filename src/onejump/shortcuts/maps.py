"""Shortcuts as modules: maps from a level's states to the last level's, and their files.

A method's folder holds one safetensors file a shortcut: `level-07.safetensors` jumps from level 7 to the last
one, `all-levels.safetensors` from any level. What the tensors do not say stands in the file's metadata.

| kind | map | paper |
|---|---|---|
| identity | h | |
| jtc | h A | arXiv 2303.09435 |
| affine | norm(h) A + b | what a tuned lens trains, arXiv 2303.08112 |
| njtc | h A B | arXiv 2409.14091 |
| n-njtc, joint | BatchNorm(h) A B | arXiv 2409.14091 |
| residual | h + BatchNorm(h) A B | |
| distilled | (norm(h) A + c) B + b | |
| one-jump | the same, with one A, B and b for all levels | |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from onejump.base.errors import DamagedFileError, OneJumpError
from onejump.base.files import replacing
from onejump.base.levels import check_level
from onejump.base.tensors import not_finite, read_tensors, write_tensors
from onejump.models.head import NormKind, normalised

BATCH_NORM_EPS = 1e-5


class Shortcut(nn.Module, ABC):
    """A map from states (..., H) of a level to an approximation of the last level's states.

    States of any precision are brought to the shortcut's own, float32 unless it was converted, and the
    prediction comes back in that: bfloat16 and float16 would round it, and float16 overflow.
    """

    kind: ClassVar[str]
    predicts_state: ClassVar[bool] = True
    """Whether a prediction is a last-level state in its own length, which r2 and a squared error compare.

    A distilled kind predicts the distribution behind the head's norm: only the direction of its prediction
    means something.
    """
    optional: ClassVar[tuple[str, ...]] = ()
    """Tensors that may be None."""
    norm: str | None = None
    """What it does to a state first: "rms" or "layer" (the model's own kind), "batch" or None."""
    level: int | None = None
    """The level that it was fitted at, if that is one level and known."""

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """Approximate last-level states (..., H) from states (..., H)."""

    def taken(self, states: Tensor) -> Tensor:
        """States in the precision that the shortcut computes in."""
        own = next(self.buffers(), None)
        if own is None:
            return states.to(torch.promote_types(states.dtype, torch.float32))
        return states.to(own.dtype)

    def at(self, level: int) -> Shortcut:
        """The shortcut for states of a level: of most kinds, itself."""
        return self

    def extra_repr(self) -> str:
        """What `print` shows: the kind, its sizes, its norm, and the level that it was fitted at."""
        return ", ".join(f"{name}={value}" for name, value in self._described().items() if value is not None)

    def _described(self) -> dict[str, Any]:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        hidden, rank = shapes.get("down", (*shapes.get("matrix", (None,))[:1], None))
        return {"kind": self.kind, "hidden": hidden, "rank": rank, "norm": self.norm, "level": self.level}

    def numbers(self) -> int:
        """Numbers kept at inference."""
        return sum(tensor.numel() for tensor in self.state_dict().values())

    def config(self) -> dict[str, Any]:
        """What its file has to say besides its tensors."""
        return {}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], config: dict[str, Any]) -> Self:
        """From a file, bit for bit."""
        # Past __init__, which would bring the tensors to their kept form again and change their last bits.
        shortcut = cls.__new__(cls)
        nn.Module.__init__(shortcut)
        shortcut._keep(**tensors)
        for name, value in config.items():
            setattr(shortcut, name, value)
        return shortcut

    def _keep(self, **tensors: Tensor | None) -> None:
        for name in (*self.optional, *tensors):
            tensor = tensors.get(name)
            kept = None if tensor is None else tensor.detach().to(torch.float32).contiguous()
            self.register_buffer(name, kept)


class LowRank(Shortcut):
    """A shortcut through r numbers: z B + b.

    Its head costs V r instead of V H (`onejump.shortcuts.exit_head`).
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
        """z, (..., r)."""

    def prepare(self, states: Tensor) -> Tensor:
        """What is done to states (..., H) before a map that is linear but for an offset."""
        return self.taken(states)

    @abstractmethod
    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Matrix (H, q), offset (q,) and orthonormal rows (q, H), in float64, of the same prediction.

        It is (prepare(h) matrix + offset) rows. Its length is that of its q coordinates: known without making
        the prediction.
        """

    def forward(self, states: Tensor) -> Tensor:
        predicted = self.reduce(states) @ self.up
        return predicted if self.bias is None else predicted + self.bias


class Identity(Shortcut):
    """The state itself: h."""

    kind = "identity"

    def forward(self, states: Tensor) -> Tensor:
        return self.taken(states)


class JTC(Shortcut):
    """Jump to conclusions: h A, without intercept (arXiv 2303.09435, section 3).

    Parameters
    ----------
    matrix : Tensor of shape (H, H)
        A.
    """

    kind = "jtc"
    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self._keep(matrix=matrix)

    def forward(self, states: Tensor) -> Tensor:
        return self.taken(states) @ self.matrix


class _Trained(Shortcut):
    """Distilled kinds: they begin with the model's own kind of norm, or with none."""

    predicts_state = False
    norm: NormKind | None
    eps: float

    def prepare(self, states: Tensor) -> Tensor:
        """norm(h)."""
        states = self.taken(states)
        return states if self.norm is None else normalised(states, self.norm, self.eps)

    def config(self) -> dict[str, Any]:
        return {"norm": self.norm, "eps": self.eps}


class Affine(_Trained):
    """norm(h) A + b, of full rank.

    Parameters
    ----------
    matrix : Tensor of shape (H, H)
        A.
    bias : Tensor of shape (H,)
        b.
    norm : {"rms", "layer"} or None
        Norm of the input, without gain and bias.
    eps : float
        Its epsilon.
    """

    kind = "affine"
    matrix: Tensor
    bias: Tensor

    def __init__(self, matrix: Tensor, bias: Tensor, norm: NormKind | None, eps: float) -> None:
        super().__init__()
        self._keep(matrix=matrix, bias=bias)
        self.norm, self.eps = norm, eps

    def forward(self, states: Tensor) -> Tensor:
        return self.prepare(states) @ self.matrix + self.bias


class NJTC(LowRank):
    """Low-rank jump: h A B, without intercept (arXiv 2409.14091).

    The rows of B are orthonormal: any A B has that form, and then |h A B| = |h A|, so that a prediction's
    length is known without making the prediction.

    Parameters
    ----------
    down : Tensor of shape (H, r)
        A.
    up : Tensor of shape (r, H)
        B, of any full rank; the pair is brought to the form above.
    """

    kind = "njtc"
    down: Tensor

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        down, up = _orthonormal_rows(down, up)
        self._keep(down=down, up=up)

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        offset = torch.zeros(self.rank, dtype=torch.float64, device=self.down.device)
        return self.down.double(), offset, self.up.double()

    def reduce(self, states: Tensor) -> Tensor:
        return self.taken(states) @ self.down


class NNJTC(NJTC):
    """Normalised low-rank jump: BatchNorm(h) A B, by the running statistics (arXiv 2409.14091).

    Parameters
    ----------
    down, up : Tensor
        As of `NJTC`.
    gamma, beta, mean, variance : Tensor of shape (H,)
        BatchNorm(h) = gamma (h - mean) / sqrt(variance + 1e-5) + beta.
    """

    kind = "n-njtc"
    norm = "batch"
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(
        self, down: Tensor, up: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
    ) -> None:
        super().__init__(down, up)
        self._keep(gamma=gamma, beta=beta, mean=mean, variance=variance)

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        scale = self.gamma.double() * torch.rsqrt(self.variance.double() + BATCH_NORM_EPS)
        matrix = scale[:, None] * self.down.double()
        offset = self.beta.double() @ self.down.double() - self.mean.double() @ matrix
        return matrix, offset, self.up.double()

    def reduce(self, states: Tensor) -> Tensor:
        scale = self.gamma * torch.rsqrt(self.variance + BATCH_NORM_EPS)
        return ((self.taken(states) - self.mean) * scale + self.beta) @ self.down


class Residual(Shortcut):
    """h + BatchNorm(h) A B: what a low-rank jump has to add to the state itself.

    It is never worse than the identity where that is good already, but its head costs V H: only the second
    term is of low rank.

    Parameters
    ----------
    correction : NNJTC
        BatchNorm(h) A B.
    """

    kind = "residual"
    norm = "batch"

    def __init__(self, correction: NNJTC) -> None:
        super().__init__()
        self._keep(**correction.state_dict())

    def forward(self, states: Tensor) -> Tensor:
        corrections: Tensor = NNJTC.restore(self.state_dict(), {})(states)
        return self.taken(states) + corrections


class Distilled(_Trained, LowRank):
    """(norm(h) A + c) B + b, trained on the teacher's distribution instead of its last state.

    Parameters
    ----------
    down : Tensor of shape (H, r)
        A.
    offset : Tensor of shape (r,)
        c.
    up : Tensor of shape (r, H)
        B.
    bias : Tensor of shape (H,)
        b.
    norm, eps
        As of `Affine`.
    """

    kind = "distilled"
    down: Tensor
    offset: Tensor

    def __init__(
        self, down: Tensor, offset: Tensor, up: Tensor, bias: Tensor, norm: NormKind | None, eps: float
    ) -> None:
        super().__init__()
        self._keep(down=down, offset=offset, up=up, bias=bias)
        self.norm, self.eps = norm, eps

    def reduce(self, states: Tensor) -> Tensor:
        return self.prepare(states) @ self.down + self.offset

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.bias is not None
        triangle, rows = _triangular(torch.cat([self.up, self.bias[None]]))
        return (
            self.down.double() @ triangle[:-1],
            self.offset.double() @ triangle[:-1] + triangle[-1],
            rows,
        )


class OneJump(_Trained):
    """One distilled jump for all levels: what a level has of its own only scales or mixes.

    Parameters
    ----------
    down, up, bias, norm, eps
        As of `Distilled`, shared by all levels.
    offset : Tensor of shape (L, r)
        c of each level.
    scale : Tensor of shape (L, H), optional
        Of each level's coordinates: its A is diag(scale) A.
    mix : Tensor of shape (L, r, r), optional
        Of each level's z: its A is A mix. The variant that shares the scales too.
    """

    kind = "one-jump"
    down: Tensor
    up: Tensor
    bias: Tensor
    offset: Tensor
    optional = ("scale", "mix")
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
        """The shortcut for states of a level.

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
        jump = Distilled(down, self.offset[level], self.up, self.bias, self.norm, self.eps)
        jump.level = level
        return jump

    def _described(self) -> dict[str, Any]:
        return super()._described() | {"level": f"0..{len(self.offset) - 1}"}

    def forward(self, states: Tensor) -> Tensor:
        """Approximate last-level states from states (L, ..., H) of all early-exit levels.

        Raises
        ------
        OneJumpError
            If there are not as many as the jump has levels: states of one level go through `at(level)`.
        """
        if len(states) != len(self.offset):
            raise OneJumpError(
                f"states of {len(self.offset)} levels were expected, {len(states)} were given: "
                "for states of one level use at(level)"
            )
        return torch.stack([self.at(level)(of_level) for level, of_level in enumerate(states)])


KINDS: dict[str, type[Shortcut]] = {
    kind.kind: kind for kind in (Identity, JTC, Affine, NJTC, NNJTC, Residual, Distilled, OneJump)
}


def _orthonormal_rows(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    triangle, rows = _triangular(up)
    return down.double() @ triangle, rows


def _triangular(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as T Q, with orthonormal rows Q, in float64."""
    basis, triangle = torch.linalg.qr(rows.double().T)
    return triangle.T, basis.T


ALL_LEVELS = "all-levels.safetensors"
"""File of the one shortcut of a method that has one for all levels (joint and one-jump)."""


def shortcut_path(folder: str | Path, level: int | None) -> Path:
    """File of the shortcut from a level, or of the one for all levels (None)."""
    return Path(folder) / (ALL_LEVELS if level is None else f"level-{level:02d}.safetensors")


def save_shortcut(path: str | Path, shortcut: Shortcut, about: dict[str, Any]) -> None:
    """Write a shortcut, atomically; `about` (how it was fitted) is kept beside its kind."""
    with replacing(path) as fresh:
        _write_shortcut(fresh, shortcut, about)


def _write_shortcut(path: Path, shortcut: Shortcut, about: dict[str, Any]) -> None:
    kept = {"kind": shortcut.kind, "config": shortcut.config(), **about}
    write_tensors(path, "shortcut", shortcut.state_dict(), kept)


def save_shortcuts(
    output: Path, fitted: Iterable[Shortcut], about: dict[str, Any], *, levels: int, one: bool
) -> None:
    """Write a method's folder, whole or not at all.

    Parameters
    ----------
    output : Path
    fitted : iterable of Shortcut
        One a level, from level 0 on, or a single one for all.
    about : dict
        How they were fitted.
    levels : int
        How many levels there are shortcuts from. Each file says so, and a lost file is noticed.
    one : bool
        Whether it is a single one for all levels.

    Raises
    ------
    OneJumpError
        If a number of them is not finite.
    ValueError
        If there are not as many as announced.
    """
    with replacing(output) as fresh:
        fresh.mkdir()
        written = 0
        for level, shortcut in enumerate(fitted):
            source = None if one else level
            if not_finite(shortcut.state_dict()):
                where = "all levels" if one else f"level {level}"
                raise OneJumpError(f"the fit of {output.name} from {where} is not finite ({about})")
            kept = {**about, "level": source, "levels": levels}
            _write_shortcut(shortcut_path(fresh, source), shortcut, kept)
            written += 1
        if written != (1 if one else levels):
            raise ValueError(
                f"{output}: {1 if one else levels} shortcuts were announced, {written} were made"
            )


def load_shortcut(path: str | Path) -> Shortcut:
    """Read a shortcut as a module.

    Parameters
    ----------
    path : path
        A safetensors file that the workflow, or `save_shortcut`, wrote.

    Returns
    -------
    Shortcut

    Raises
    ------
    DamagedFileError
        If the file is damaged, an older onejump wrote it, or a number in it is not finite.
    OneJumpError
        If the file is missing, not readable, or holds no shortcut.
    """
    remedy = "if a study wrote it, delete the folder of its method and run snakemake again"
    return _read_shortcut(path, remedy)[0]


def _read_shortcut(path: str | Path, remedy: str) -> tuple[Shortcut, dict[str, Any]]:
    tensors, about = read_tensors(path, "shortcut", remedy)
    if about["kind"] not in KINDS:
        raise OneJumpError(f"{path}: a shortcut of kind {about['kind']!r}; known are {', '.join(KINDS)}")
    shortcut = KINDS[about["kind"]].restore(tensors, about["config"])
    shortcut.level = about.get("level")
    return shortcut, about


class ShortcutFolder:
    """The shortcuts of one method. One for all levels is kept, others are loaded one at a time.

    Parameters
    ----------
    folder : path
        What the stage "shortcuts" wrote for a method.
    device : torch.device

    Attributes
    ----------
    levels : int or None
        How many levels there are shortcuts from; None if one for all levels does not say.

    Raises
    ------
    DamagedFileError
        If a file is damaged, or one is missing or too many.
    OneJumpError
        If there are no shortcuts in it.
    """

    levels: int | None

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        self.folder, self._device = Path(folder), device
        self._remedy = f"delete the folder {folder} and run snakemake again"
        one = shortcut_path(self.folder, None)
        self._one: Shortcut | None = None
        if one.is_file():
            self._one, about = _read_shortcut(one, self._remedy)
            self._one.to(device)
            self.levels = about.get("levels")
            return
        found = {path.name for path in self.folder.glob("level-*.safetensors")}
        if not found:
            raise OneJumpError(f"{folder}: no shortcuts in it (level-*.safetensors or {ALL_LEVELS})")
        _, about = _read_shortcut(self.folder / min(found), self._remedy)
        self.levels = about.get("levels", len(found))  # one made by hand does not say
        expected = {shortcut_path(self.folder, level).name for level in range(self.levels)}
        for names, reason in ((expected - found, "missing"), (found - expected, "too many")):
            if names:
                raise DamagedFileError(
                    f"{folder}: {', '.join(sorted(names))}: {reason} (shortcuts from {self.levels} levels "
                    f"were expected): {self._remedy}"
                )

    def __len__(self) -> int:
        """How many shortcuts there are."""
        return self.levels if self._one is None and self.levels else 1

    def load(self, level: int) -> Shortcut:
        """The shortcut for states of a level.

        Raises
        ------
        DamagedFileError
            If its file is damaged, missing, or holds another level's.
        OneJumpError
            If there is no such level.
        """
        check_level(level, self.levels, str(self.folder))
        if self._one is not None:
            return self._one.at(level)
        path = shortcut_path(self.folder, level)
        shortcut, about = _read_shortcut(path, self._remedy)
        if about.get("level", level) != level or about.get("levels", self.levels) != self.levels:
            raise DamagedFileError(
                f"{path}: the shortcut from level {about.get('level')} of {about.get('levels')} is in it, "
                f"that from level {level} of {self.levels} was expected: {self._remedy}"
            )
        return shortcut.to(self._device)

    def low_rank(self) -> list[LowRank]:
        """The low-rank ones of those that there is one of for each level."""
        if self._one is not None:
            return []
        return [jump for level in range(len(self)) if isinstance(jump := self.load(level), LowRank)]

    def numbers(self) -> int:
        """Numbers that all of them together keep at inference."""
        if self._one is not None:
            return self._one.numbers()
        return sum(self.load(level).numbers() for level in range(len(self)))
