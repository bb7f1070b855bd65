"""Shortcuts as modules: maps from a level's states to the last level's, and their files.

A method's folder holds one safetensors file a shortcut: `level-07.safetensors` jumps from level 7 to the last
one, `joint.safetensors` from any level. What the tensors do not say stands in the file's metadata.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from onejump.errors import OneJumpError

BATCH_NORM_EPS = 1e-5


class Shortcut(nn.Module, ABC):
    """A map from states (..., H) of a level to an approximation of the last level's states."""

    kind: ClassVar[str]

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """Approximate last-level states (..., H) from states (..., H)."""

    def numbers(self) -> int:
        """Numbers kept at inference."""
        return sum(tensor.numel() for tensor in self.state_dict().values())

    def _keep(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().to(torch.float32).contiguous())


class Identity(Shortcut):
    """The state itself: h."""

    kind = "identity"

    def forward(self, states: Tensor) -> Tensor:
        return states


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
        return states @ self.matrix


class NJTC(Shortcut):
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
    up: Tensor

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        down, up = _orthonormal_rows(down, up)
        self._keep(down=down, up=up)

    def folded(self) -> tuple[Tensor, Tensor]:
        """The map to z as one matrix (H, r) and one offset (r,), in float64: z = h M + c."""
        return self.down.double(), torch.zeros(self.rank, dtype=torch.float64, device=self.down.device)

    @property
    def rank(self) -> int:
        """r."""
        return self.up.shape[0]

    def reduce(self, states: Tensor) -> Tensor:
        """z = h A, of shape (..., r); the prediction is z B."""
        return states @ self.down

    def forward(self, states: Tensor) -> Tensor:
        return self.reduce(states) @ self.up


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
    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(
        self, down: Tensor, up: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
    ) -> None:
        super().__init__(down, up)
        self._keep(gamma=gamma, beta=beta, mean=mean, variance=variance)

    def folded(self) -> tuple[Tensor, Tensor]:
        scale = self.gamma.double() * torch.rsqrt(self.variance.double() + BATCH_NORM_EPS)
        matrix = scale[:, None] * self.down.double()
        return matrix, self.beta.double() @ self.down.double() - self.mean.double() @ matrix

    def reduce(self, states: Tensor) -> Tensor:
        scale = self.gamma * torch.rsqrt(self.variance + BATCH_NORM_EPS)
        return ((states - self.mean) * scale + self.beta) @ self.down


KINDS: dict[str, type[Shortcut]] = {kind.kind: kind for kind in (Identity, JTC, NJTC, NNJTC)}


def _orthonormal_rows(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    basis, triangle = torch.linalg.qr(up.double().T)
    return down.double() @ triangle.T, basis.T


def shortcut_path(folder: str | Path, level: int | None) -> Path:
    """File of the shortcut from a level, or of the one fitted to all levels (None)."""
    return Path(folder) / ("joint.safetensors" if level is None else f"level-{level:02d}.safetensors")


def save_shortcut(path: str | Path, shortcut: Shortcut, about: dict[str, Any]) -> None:
    """Write a shortcut; `about` (how it was fitted) is kept beside its kind."""
    metadata = {"shortcut": json.dumps({"kind": shortcut.kind, **about})}
    save_file(shortcut.state_dict(), path, metadata=metadata)


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
    OneJumpError
        If the file is missing or holds no shortcut.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("shortcut")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise OneJumpError(f"{path}: not a readable shortcut file ({error})") from error
    if about is None:
        raise OneJumpError(f"{path}: no shortcut in it: its metadata lack the key 'shortcut'")
    kind = KINDS[json.loads(about)["kind"]]
    return _restore(kind, tensors)


def _restore(kind: type[Shortcut], tensors: dict[str, Tensor]) -> Shortcut:
    # Past __init__, which would factorise B once more and change its last bits.
    shortcut = kind.__new__(kind)
    nn.Module.__init__(shortcut)
    shortcut._keep(**tensors)
    return shortcut


class ShortcutFolder:
    """The shortcuts of one method, loaded one at a time.

    Parameters
    ----------
    folder : path
        What the stage "shortcuts" wrote for a method.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.joint = shortcut_path(self.folder, None).is_file()
        self.levels = len(list(self.folder.glob("level-*.safetensors")))
        if not self.joint and not self.levels:
            raise OneJumpError(f"{folder}: no shortcuts in it (level-*.safetensors or joint.safetensors)")

    def load(self, level: int) -> Shortcut:
        """The shortcut for states of a level."""
        return load_shortcut(shortcut_path(self.folder, None if self.joint else level))
