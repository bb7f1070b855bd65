"""The head: final norm, then unembedding; of a masked language model, a transform before these.

One small file a model, so that no later stage loads the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from onejump.base.errors import ModelError
from onejump.base.files import replacing
from onejump.base.format import Format, check_keys, from_keys
from onejump.base.tensors import not_finite, read_tensors, write_tensors

HEAD = Format("head", 1)

NormKind = Literal["rms", "layer"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}
"""What a head's transform may end in."""


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
    activation: str | None = None
    """Of the transform, one of `ACTIVATIONS`; None where there is no transform."""
    first: NormKind | None = None
    """The kind of the norm before the transform (ModernBERT's); None where there is none."""
    first_eps: float = 0.0
    """The epsilon of that norm."""


_TENSORS = ("gain", "norm_bias", "unembedding")
_OPTIONAL_TENSORS = ("logit_bias", "dense_weight", "dense_bias")


def normalised(states: Tensor, kind: NormKind, eps: float) -> Tensor:
    """A norm without its gain and bias, of states (..., H); of half-precision states, in float32."""
    # Squares leave float16's range, and bfloat16 rounds them to three digits.
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    if kind == "layer":
        states = states - states.mean(-1, keepdim=True)
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + eps)


class Head(nn.Module):
    """logits = softcap(scale (W_U norm(T(h)) + b)), in float32, of states of any precision.

    A causal model has no transform T. A masked language model (BERT, arXiv 1810.04805) has
    T(h) = activation(h D' + c), or activation(norm1(h) D' + c) (ModernBERT, arXiv 2412.13663), where D and
    c hold the gain and the bias of norm1. E is H but for models whose embeddings are narrower than their
    states.

    Parameters
    ----------
    config : HeadConfig
    gain, norm_bias : Tensor of shape (E,)
        The norm's affine part.
    unembedding : Tensor of shape (V, E)
        W_U.
    logit_bias : Tensor of shape (V,) or None
        b.
    dense_weight : Tensor of shape (E, H) or None
        D; None where there is no transform.
    dense_bias : Tensor of shape (E,) or None
        c.

    Attributes
    ----------
    model_digest : str or None
        The identity of the model that it belongs to (`onejump.models.description`), where that is known.

    Raises
    ------
    ModelError
        If there is a transform without a known activation, or the other way round.
    """

    gain: Tensor
    norm_bias: Tensor
    unembedding: Tensor
    logit_bias: Tensor | None
    dense_weight: Tensor | None
    dense_bias: Tensor | None

    def __init__(
        self,
        config: HeadConfig,
        gain: Tensor,
        norm_bias: Tensor,
        unembedding: Tensor,
        logit_bias: Tensor | None = None,
        dense_weight: Tensor | None = None,
        dense_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        accepted = (None,) if dense_weight is None else tuple(ACTIVATIONS)
        if config.activation not in accepted:
            raise ModelError(
                f"a head {'without' if dense_weight is None else 'with'} a transform: activation "
                f"{config.activation!r} given, accepted is {', '.join(map(str, accepted))}"
            )
        self.config = config
        tensors = {
            "gain": gain,
            "norm_bias": norm_bias,
            "unembedding": unembedding,
            "logit_bias": logit_bias,
            "dense_weight": dense_weight,
            "dense_bias": dense_bias,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, None if tensor is None else tensor.detach().float())
        self.model_digest: str | None = None
        self._offset: Tensor | None = None

    @property
    def hidden(self) -> int:
        """H."""
        return (self.unembedding if self.dense_weight is None else self.dense_weight).shape[1]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.unembedding.shape[0]

    def activate(self, dense: Tensor) -> Tensor:
        """The transform's activation, of h D' + c (..., E)."""
        return dense if self.config.activation is None else ACTIVATIONS[self.config.activation](dense)

    @property
    def first_norm(self) -> tuple[NormKind, float] | None:
        """Kind and epsilon of the norm that the head begins with; None where it begins with a dense map."""
        if self.dense_weight is None:
            return self.config.norm, self.config.eps
        return None if self.config.first is None else (self.config.first, self.config.first_eps)

    def transform(self, states: Tensor) -> Tensor:
        """T(h) (..., E) of states (..., H); where there is no transform, the states themselves."""
        states = states.to(self.gain.dtype)
        if self.dense_weight is None:
            return states
        return self.activate(functional.linear(self.essence(states), self.dense_weight, self.dense_bias))

    def normalise(self, states: Tensor) -> Tensor:
        """Final norm of transformed states (..., E)."""
        return normalised(states, self.config.norm, self.config.eps) * self.gain + self.norm_bias

    def features(self, states: Tensor) -> Tensor:
        """What W_U is multiplied with, (..., E), of last-level states (..., H)."""
        return self.normalise(self.transform(states))

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of last-level states (..., H)."""
        logits = self.features(states) @ self.unembedding.T
        if self.logit_bias is not None:
            logits += self.logit_bias
        if self.config.scale != 1.0:
            logits *= self.config.scale
        return self.cap(logits)

    forward = logits

    def offset(self) -> Tensor | None:
        """A constant (V,) that is added to all logits, scale (W_U norm_bias + b); None if it is zero."""
        if self.logit_bias is None and not bool(self.norm_bias.any()):
            return None
        kept = self._offset
        if kept is None or (kept.dtype, kept.device) != (self.gain.dtype, self.gain.device):
            kept = self.unembedding @ self.norm_bias
            if self.logit_bias is not None:
                kept = kept + self.logit_bias
            self._offset = kept = self.config.scale * kept
        return kept

    def essence(self, states: Tensor) -> Tensor:
        """Of last-level states (..., H), what the head goes by: what least squares should be fitted to.

        A head that begins with a norm does not see a state's length, so these are normalised states; a head
        that begins with a dense map does.
        """
        norm = self.first_norm
        states = states.to(self.gain.dtype)
        return states if norm is None else normalised(states, *norm)

    def linear(self) -> Tensor:
        """W (V, H): the head's linear part, which small errors of what `essence` gives are multiplied with.

        scale W_U diag(gain), and behind a transform scale W_U diag(gain) D, as if its activation and the
        norm behind that changed no error's direction.
        """
        matrix = self.config.scale * self.unembedding * self.gain
        return matrix if self.dense_weight is None else matrix @ self.dense_weight

    def cap(self, logits: Tensor) -> Tensor:
        """Soft cap, in place."""
        if self.config.softcap is not None:
            logits.div_(self.config.softcap).tanh_().mul_(self.config.softcap)
        return logits

    def save(self, path: str | Path) -> None:
        """Write the head as safetensors.

        Raises
        ------
        ModelError
            If a number in it is not finite.
        """
        tensors = self.state_dict()
        if wrong := not_finite(tensors):
            raise ModelError(f"the model's head: {', '.join(wrong)}: not all numbers are finite")
        with replacing(path) as fresh:
            write_tensors(fresh, HEAD, tensors, asdict(self.config), model_digest=self.model_digest)

    @classmethod
    def load(cls, path: str | Path) -> Head:
        """Read a head that `save` wrote.

        Raises
        ------
        DamagedFileError
            If the file is damaged, or a number in it is not finite.
        FormatError
            If another onejump wrote the file, or it holds no head.
        OneJumpError
            If the file is missing or not readable.
        """
        tensors, config, model_digest = read_tensors(path, HEAD)
        check_keys(path, tensors, _TENSORS, _OPTIONAL_TENSORS)
        head = cls(from_keys(HeadConfig, path, config), **tensors)
        head.model_digest = model_digest
        return head
