"""A model's head on the model's own modules, so that gradients reach its norm and its unembedding.

`onejump.models.head.Head` keeps copies of the weights. Training needs the weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onejump.base.errors import ModelError
from onejump.models.anatomy import find_unembedding, follow_head, logits_of, way_of
from onejump.models.head import ACTIVATIONS
from onejump.models.named import named_modules
from onejump.models.norms import TOLERANCE, distance
from onejump.models.pairs import Inputs
from onejump.models.seen import given_to, state_of
from onejump.models.transformer import Transformer


class LastMap(NamedTuple):
    """logits = cap(factor (x W' + b) + offset), with cap(y) = softcap tanh(y / softcap), for features x."""

    weight: Tensor
    """W, (V, E)."""
    bias: Tensor | None
    """b, (V,)."""
    factor: float = 1.0
    offset: Tensor | None = None
    """(V,). It is never trained."""
    softcap: float | None = None


class LiveHead:
    """The head of a model: its transform if there is one, its final norm and its unembedding.

    Parameters
    ----------
    transformer : Transformer
    modules : mapping, optional
        As in `Transformer`.

    Raises
    ------
    ModelError
        If these modules do not give the logits of the model's head.
    """

    def __init__(self, transformer: Transformer, modules: Mapping[str, str | None] | None = None) -> None:
        model = transformer.model
        named = named_modules(model, modules or {})

        def run() -> Any:
            with torch.no_grad():
                return transformer.run_whole(transformer.example())

        self._unembedding: Any = named.get("head") or find_unembedding(model, run)
        norm = named.get("norm")
        way = way_of(model, transformer.blocks, run, norm)
        self._modules = follow_head(model, way, self._unembedding, norm)
        config = transformer.head.config
        self._activation = None if config.activation is None else ACTIVATIONS[config.activation]
        found = logits_of(model, self._modules.norm, self._unembedding, run)
        self._before, self._after, self._softcap = found.before, found.after, found.softcap
        self._offset = None if found.offset is None else found.offset.clone()
        self._check(transformer, way.last)

    def features(self, states: Tensor) -> Tensor:
        """Give what W is multiplied with, (..., E), for states (..., H) of the last level."""
        found = self._modules
        if found.first is not None:
            states = found.first(states)
        if found.dense is not None:
            dense: Tensor = found.dense(states)
            states = dense if self._activation is None else self._activation(dense)
        normalised: Tensor = states if found.norm is None else found.norm(states)
        return normalised if self._before == 1.0 else self._before * normalised

    def last_map(self) -> LastMap:
        """Give the map from features to logits, with the model's own parameters."""
        bias = getattr(self._unembedding, "bias", None)
        return LastMap(self._unembedding.weight, bias, self._after, self._offset, self._softcap)

    @torch.no_grad()
    def _check(self, transformer: Transformer, last: Tensor) -> None:
        name = type(transformer.model).__name__
        states = last.reshape(-1, last.shape[-1])
        ours = cap_logits(self.features(states), self.last_map())
        off = distance(ours.float(), transformer.head.logits(states).to(ours.device))
        if not off <= TOLERANCE[transformer.model.dtype]:
            raise ModelError(
                f"{name}: its head can be read but not trained: its own norm and unembedding, one after the "
                f"other, do not give its logits (off by {off:.3g} of their spread)"
            )


def cap_logits(features: Tensor, last: LastMap) -> Tensor:
    """Give the logits (..., V) of features (..., E)."""
    logits = torch.nn.functional.linear(features, last.weight, last.bias)
    if last.factor != 1.0:
        logits = logits * last.factor
    if last.offset is not None:
        logits = logits + last.offset
    return logits if last.softcap is None else last.softcap * torch.tanh(logits / last.softcap)


def states_of_pairs(
    transformer: Transformer, tokens: Inputs, rows: Tensor, positions: Tensor, of: Tensor, level: Tensor
) -> Tensor:
    """Give the states of some pairs of a token and a level, with gradients.

    Parameters
    ----------
    transformer : Transformer
    tokens, rows, positions : Tensor
        As in `Transformer.states`.
    of : Tensor of shape (R,), int64
        The number of each pair's token, from 0 to n - 1.
    level : Tensor of shape (R,), int64

    Returns
    -------
    Tensor of shape (R, H)
    """
    places = [(level == number).nonzero()[:, 0] for number in range(transformer.levels)]
    found: list[Tensor] = []

    def keep(state: Tensor) -> None:
        wanted = of[places[len(found)]]
        found.append(state[rows[wanted], positions[wanted]])

    def before_first(block: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not found:  # the first block can run several times
            keep(given_to(arguments, named, block))

    def after(block: Any, _: Any, returned: Any) -> None:
        keep(state_of(returned, block))

    handles = [transformer.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in dict.fromkeys(transformer.blocks)]
    try:
        transformer.run(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found)[torch.cat(places).argsort()]
