"""The head: final norm, then unembedding. A masked language model has a transform before these.

Each model's head is kept in a small file, so that later stages need not load the model.
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
"""The activations that a head's transform may have."""


@dataclass(frozen=True)
class HeadConfig:
    """All of a head besides its tensors."""

    norm: NormKind | None
    """rms: h / sqrt(mean(h^2) + eps); layer: the same, with h - mean(h) in place of h; None if there is no
    final norm, as in models whose blocks end in a norm of their own (BART, Marian)."""
    eps: float
    """The norm's epsilon."""
    scale: float = 1.0
    """Factor on the logits (Cohere's logit_scale, the inverse of Granite's logits_scaling)."""
    softcap: float | None = None
    """c in c tanh(logits / c) (Gemma 2's final_logit_softcapping)."""
    activation: str | None = None
    """The activation of the transform, one of `ACTIVATIONS`; None if there is no transform."""
    first: NormKind | None = None
    """The kind of the norm before the transform (as in ModernBERT); None if there is no such norm."""
    first_eps: float = 0.0
    """The epsilon of that norm."""


_TENSORS = ("gain", "norm_bias", "unembedding")
_OPTIONAL_TENSORS = ("logit_bias", "dense_weight", "dense_bias")


def normalised(states: Tensor, kind: NormKind, eps: float) -> Tensor:
    """Apply a norm, without gain and bias, to states (..., H). Half-precision states become float32 first."""
    # Squares can be too large for float16, and bfloat16 would round them to three digits.
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    if kind == "layer":
        states = states - states.mean(-1, keepdim=True)
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + eps)


class Head(nn.Module):
    """logits = softcap(scale (W_U norm(T(h)) + b)), in float32, for states of any precision.

    A causal model has no transform T. A masked language model (BERT, arXiv 1810.04805) has T(h) =
    activation(h D' + c), or activation(norm1(h) D' + c) (ModernBERT, arXiv 2412.13663), where D and c
    include the gain and the bias of norm1. E, the width of the embeddings, is H in most models, and smaller
    in some.

    Parameters
    ----------
    config : HeadConfig
    gain, norm_bias : Tensor of shape (E,)
        Gain and bias of the final norm.
    unembedding : Tensor of shape (V, E)
        W_U.
    logit_bias : Tensor of shape (V,) or None
        b.
    dense_weight : Tensor of shape (E, H) or None
        D; None if there is no transform.
    dense_bias : Tensor of shape (E,) or None
        c.

    Attributes
    ----------
    model_digest : str or None
        The identity of the model that the head belongs to (`onejump.models.description`), if it is known.

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
        """Apply the transform's activation to h D' + c (..., E)."""
        return dense if self.config.activation is None else ACTIVATIONS[self.config.activation](dense)

    @property
    def first_norm(self) -> tuple[NormKind, float] | None:
        """Kind and epsilon of the norm that the head begins with; None if it begins with a linear map."""
        if self.dense_weight is None:
            return None if self.config.norm is None else (self.config.norm, self.config.eps)
        return None if self.config.first is None else (self.config.first, self.config.first_eps)

    def transform(self, states: Tensor) -> Tensor:
        """T(h) (..., E) for states (..., H). Without a transform, the states themselves."""
        states = states.to(self.gain.dtype)
        if self.dense_weight is None:
            return states
        return self.activate(functional.linear(self.essence(states), self.dense_weight, self.dense_bias))

    def normalise(self, states: Tensor) -> Tensor:
        """Apply the final norm to transformed states (..., E). Without a final norm, gain is 1 and bias 0."""
        if self.config.norm is None:
            return states.to(self.gain.dtype) * self.gain + self.norm_bias
        return normalised(states, self.config.norm, self.config.eps) * self.gain + self.norm_bias

    def features(self, states: Tensor) -> Tensor:
        """Give what W_U is multiplied with, (..., E), for last-level states (..., H)."""
        return self.normalise(self.transform(states))

    def logits(self, states: Tensor) -> Tensor:
        """Give the logits (..., V) of last-level states (..., H)."""
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
        """Give what the head depends on in last-level states (..., H): the right target of least squares.

        A head that begins with a norm does not depend on a state's length, so this gives normalised states.
        For a head that begins with a linear map, this gives the states themselves.
        """
        norm = self.first_norm
        states = states.to(self.gain.dtype)
        return states if norm is None else normalised(states, *norm)

    def linear(self) -> Tensor:
        """W (V, H), the linear part of the head: W times a small error of `essence` is the logits' error.

        It is scale W_U diag(gain). With a transform it is scale W_U diag(gain) D; this leaves out what the
        activation and the norm behind it do to an error.
        """
        matrix = self.config.scale * self.unembedding * self.gain
        return matrix if self.dense_weight is None else matrix @ self.dense_weight

    def cap(self, logits: Tensor) -> Tensor:
        """Apply the soft cap to logits, in place."""
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
            If an older or newer onejump wrote the file, or it does not hold a head.
        OneJumpError
            If the file is missing or not readable.
        """
        tensors, config, model_digest = read_tensors(path, HEAD)
        check_keys(path, tensors, _TENSORS, _OPTIONAL_TENSORS)
        head = cls(from_keys(HeadConfig, path, config), **tensors)
        head.model_digest = model_digest
        return head
