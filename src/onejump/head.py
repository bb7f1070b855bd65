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
        if self.config.norm == "layer":
            states = states - states.mean(-1, keepdim=True)
        inverse = torch.rsqrt(states.square().mean(-1, keepdim=True) + self.config.eps)
        return states * inverse * self.gain + self.norm_bias

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of last-level states (..., H)."""
        return self.finish(self.normalise(states) @ self.unembedding.T)

    forward = logits

    def finish(self, products: Tensor) -> Tensor:
        """Turn W_U products into logits, in place: bias, scale and soft cap."""
        if self.logit_bias is not None:
            products += self.logit_bias
        if self.config.scale != 1.0:
            products *= self.config.scale
        if self.config.softcap is not None:
            products.div_(self.config.softcap).tanh_().mul_(self.config.softcap)
        return products

    def behind(self, basis: Tensor) -> LowRankHead:
        """The head for states z B, with B of shape (r, H): its logits cost V r instead of V H."""
        return LowRankHead(self, basis)

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


class LowRankHead:
    """The head behind a rank-r shortcut: logits of z B from z alone.

    With the norm's gain g, W_U diag(g) (z B) / rms = (z P') / rms, where P = W_U diag(g) B' (V x r) is made
    once and rms^2 = z (B B') z' / H + eps. A LayerNorm first centres the rows of B; its bias adds
    W_U norm_bias.
    """

    def __init__(self, head: Head, basis: Tensor) -> None:
        if head.config.norm == "layer":
            basis = basis - basis.mean(1, keepdim=True)
        self.head = head
        self.projection = (head.unembedding @ (head.gain * basis).T).T.contiguous()  # (r, V)
        self.quadratic = basis @ basis.T / head.hidden  # (r, r)
        offset = head.unembedding @ head.norm_bias
        self.offset = offset if bool(offset.any()) else None

    def logits(self, reduced: Tensor) -> Tensor:
        """Logits (n, V) of the states z B, for reduced states z (n, r)."""
        mean_square = (reduced @ self.quadratic * reduced).sum(-1, keepdim=True)
        products = (reduced * torch.rsqrt(mean_square + self.head.config.eps)) @ self.projection
        if self.offset is not None:
            products += self.offset
        return self.head.finish(products)
