"""The head: final norm, then unembedding. One small file a model, so that no later stage loads the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from onejump.errors import ModelError
from onejump.files import replacing

NormKind = Literal["rms", "layer"]


@dataclass(frozen=True)
class HeadConfig:
    """What the tensors of a head do not say."""

    norm: NormKind
    """rms: h / sqrt(mean(h^2) + eps); layer: the same of h - mean(h)."""
    eps: float
    """The norm's epsilon."""
    scale: float = 1.0
    """Factor on the logits (Cohere's logit_scale, the inverse of Granite's logits_scaling)."""
    softcap: float | None = None
    """c in c tanh(logits / c) (Gemma 2's final_logit_softcapping)."""


def normalised(states: Tensor, kind: NormKind, eps: float) -> Tensor:
    """A norm without its gain and bias, of states (..., H)."""
    if kind == "layer":
        states = states - states.mean(-1, keepdim=True)
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + eps)


class Head(nn.Module):
    """logits = softcap(scale (W_U norm(h) + b)), in float32.

    Parameters
    ----------
    config : HeadConfig
    gain, norm_bias : Tensor of shape (H,)
        The norm's affine part.
    unembedding : Tensor of shape (V, H)
        W_U.
    logit_bias : Tensor of shape (V,) or None
        b.
    """

    gain: Tensor
    norm_bias: Tensor
    unembedding: Tensor
    logit_bias: Tensor | None

    def __init__(
        self,
        config: HeadConfig,
        gain: Tensor,
        norm_bias: Tensor,
        unembedding: Tensor,
        logit_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        for name, tensor in (("gain", gain), ("norm_bias", norm_bias), ("unembedding", unembedding)):
            self.register_buffer(name, tensor.detach().float())
        self.register_buffer("logit_bias", None if logit_bias is None else logit_bias.detach().float())
        self._offset: Tensor | None = None

    @property
    def hidden(self) -> int:
        """H."""
        return self.unembedding.shape[1]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.unembedding.shape[0]

    def normalise(self, states: Tensor) -> Tensor:
        """Final norm of states (..., H)."""
        return normalised(states, self.config.norm, self.config.eps) * self.gain + self.norm_bias

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of last-level states (..., H)."""
        logits = self.normalise(states) @ self.unembedding.T
        if self.logit_bias is not None:
            logits += self.logit_bias
        if self.config.scale != 1.0:
            logits *= self.config.scale
        return self.cap(logits)

    forward = logits

    def offset(self) -> Tensor | None:
        """What all states' logits have besides, scale (W_U norm_bias + b), (V,); None for nothing."""
        if self.logit_bias is None and not bool(self.norm_bias.any()):
            return None
        kept = self._offset
        if kept is None or (kept.dtype, kept.device) != (self.gain.dtype, self.gain.device):
            kept = self.unembedding @ self.norm_bias
            if self.logit_bias is not None:
                kept = kept + self.logit_bias
            self._offset = kept = self.config.scale * kept
        return kept

    def cap(self, logits: Tensor) -> Tensor:
        """Soft cap, in place."""
        if self.config.softcap is not None:
            logits.div_(self.config.softcap).tanh_().mul_(self.config.softcap)
        return logits

    def save(self, path: str | Path) -> None:
        """Write the head as safetensors."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with replacing(path) as fresh:
            save_file(tensors, fresh, metadata={"head": json.dumps(asdict(self.config))})

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read a head that `save` wrote."""
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "head" not in metadata:
                raise ModelError(
                    f"{path}: a head file of onejump was expected; it has no 'head' in its metadata"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(HeadConfig(**json.loads(metadata["head"])), **tensors)
