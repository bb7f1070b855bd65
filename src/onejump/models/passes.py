"""Partial passes: some blocks of a causal model over some tokens, by the model's own code.

A token that exits early has been through the first blocks only. It goes through the other blocks later,
beside other tokens. Until then the key/value cache of a late block holds fewer tokens than that of an early
one.

No family's forward code is copied for that. The model is run through a view of itself, which shares all
weights and in which the blocks outside the pass do nothing; the first of them brings in the states that the
pass begins with. A view of the cache tells the model how many tokens the blocks of the pass have kept, and
from that number the model makes its masks.
"""

from __future__ import annotations

import copy
import inspect
import threading
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from onejump.base.errors import ModelError
from onejump.models.norms import TOLERANCE
from onejump.models.seen import given_to, state_of
from onejump.models.transformer import RUN_ERRORS, Transformer, distance

# More than rounding makes of a model's logits, in units of their spread, in any precision.
_MOST_ROUNDING = 0.3


class _Passing(threading.local):
    """What goes into and comes out of the pass that a thread runs."""

    states: Tensor | None = None
    out: Tensor | None = None


class _LeftOut(nn.Module):
    """Stands in the place of a block that a pass leaves out.

    Parameters
    ----------
    block : torch.nn.Module
        The block, whose attributes the model's code may ask for.
    returned : object
        What the block returned once: a state, or a tuple that begins with one.
    passing : _Passing
    brings_in, takes_out : bool
        Whether the pass begins, or ends, in this place.
    """

    def __init__(
        self, block: nn.Module, returned: Any, passing: _Passing, *, brings_in: bool, takes_out: bool
    ) -> None:
        super().__init__()
        # Past `nn.Module`, which would take the block for a part of this one.
        self.__dict__["block"] = block
        self._others = len(returned) - 1 if isinstance(returned, tuple) else None
        self._passing, self._brings_in, self._takes_out = passing, brings_in, takes_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Give on the states, those that the pass begins with in the place where it begins."""
        brought = self._passing.states if self._brings_in else None
        states = given_to(arguments, named, self.__dict__["block"]) if brought is None else brought
        if self._takes_out:
            self._passing.out = states
        return states if self._others is None else (states, *[None] * self._others)


class PartialPasses:
    """A causal model whose blocks can be run a few at a time.

    Parameters
    ----------
    transformer : Transformer

    Raises
    ------
    ModelError
        If the model cannot be run in parts: if it is no causal model, if its blocks keep a running state in
        the place of keys and values (linear attention), or if the parts do not give what the whole gives.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer, self.model = transformer, transformer.model
        self._name = type(self.model).__name__
        if not transformer.causal:
            raise ModelError(f"{self._name}: a masked model was given, a causal one can be run in parts")
        self._way = _way_to(self.model, transformer.blocks)
        self._passing = _Passing()
        self._views: dict[tuple[int, int], nn.Module] = {}
        self._takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        self._probe = transformer.probe().to(transformer.device)
        self._returned = self._look()
        self._check()

    def cache(self) -> Any:
        """Make an empty key/value cache."""
        return DynamicCache(config=self.model.config)

    def run(
        self,
        first: int,
        last: int,
        tokens: Tensor,
        positions: Tensor,
        cache: Any,
        *,
        states: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run blocks first + 1 to last, which are those between the levels `first` and `last`.

        Parameters
        ----------
        first, last : int
            Levels, 0 <= first < last <= L.
        tokens : Tensor of shape (sequences, n), int64
        positions : Tensor of shape (sequences, n), int64
            Of the tokens in their sequences.
        cache : transformers.Cache
            The keys and values of the blocks of the pass get those of the tokens; no other block's change.
        states : Tensor of shape (sequences, n, H), optional
            Of the tokens at level `first`; needed unless that is 0.
        mask : Tensor, optional
            As the model takes it: (sequences, cached + n) of padding, or (sequences, 1, n, cached + n).

        Returns
        -------
        Tensor
            Where `last` is L, the model's own logits (sequences, n, V); otherwise the states at level `last`,
            (sequences, n, H).
        """
        view = self._view(first, last)
        self._passing.states = states
        named = {"position_ids": positions} if self._takes_positions else {}
        try:
            out = view(
                input_ids=tokens,
                attention_mask=mask,
                past_key_values=_cache_between(cache, first, last),
                use_cache=True,
                **named,
            )
            result: Tensor | None = out.logits if last == len(self.transformer.blocks) else self._passing.out
        finally:
            self._passing.states = self._passing.out = None
        assert result is not None
        return result

    def _view(self, first: int, last: int) -> nn.Module:
        if (first, last) not in self._views:
            blocks = nn.ModuleList(
                block
                if first <= index < last
                else _LeftOut(
                    block,
                    self._returned,
                    self._passing,
                    brings_in=index == 0 and first > 0,
                    takes_out=index == last,
                )
                for index, block in enumerate(self.transformer.blocks)
            )
            self._views[first, last] = _with_module(self.model, self._way, blocks)
        return self._views[first, last]

    def _look(self) -> Any:
        """What the first block returns in a run with a cache."""
        found: list[Any] = []
        block = self.transformer.blocks[0]
        hook = block.register_forward_hook(lambda _, __, returned: found.append(returned))
        try:
            with torch.inference_mode():
                self.model(self._probe, past_key_values=self.cache(), use_cache=True)
        except RUN_ERRORS as error:
            raise self._refusal(error) from error
        finally:
            hook.remove()
        state_of(found[0], block)
        return found[0]

    def _refusal(self, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:200]
        return ModelError(f"{self._name}: it does not run in parts: {reason}")

    @torch.inference_mode()
    def _check(self) -> None:
        """Hold tokens that leave at different levels and are caught up with against a run of all blocks."""
        tokens, blocks = self._probe, len(self.transformer.blocks)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        whole = self.model(tokens, use_cache=False).logits
        middle = max(1, blocks // 2)
        cache = self.cache()

        def part(first: int, last: int, of: slice, states: Tensor | None = None) -> Tensor:
            return self.run(first, last, tokens[:, of], positions[:, of], cache, states=states)

        try:
            logits = [part(0, blocks, slice(0, 3))]
            if middle < blocks:
                pending = [part(0, middle, slice(index, index + 1)) for index in range(3, 6)]
                logits.append(part(middle, blocks, slice(3, 6), torch.cat(pending, 1)))
            logits.append(part(0, blocks, slice(sum(some.shape[1] for some in logits), None)))
            own = self._token_by_token(tokens)
        except RUN_ERRORS as error:
            raise self._refusal(error) from error
        # Passes of few tokens round otherwise than one of many, in the model's own decoding too.
        rounding = distance(own, whole)
        tolerance = max(TOLERANCE[self.model.dtype], 3 * rounding)
        if not rounding <= _MOST_ROUNDING:
            raise ModelError(
                f"{self._name}: it does not run in parts: with a key/value cache of transformers it does not "
                f"give the logits that it gives without (off by {rounding:.3g} of their spread)"
            )
        off = distance(torch.cat(logits, 1), whole)
        if not off <= tolerance:
            raise ModelError(
                f"{self._name}: run in parts it does not give its own logits (off by {off:.3g} of their "
                "spread)"
            )

    def _token_by_token(self, tokens: Tensor) -> Tensor:
        """Logits (1, n, V) of the model's own decoding with a cache."""
        cache = self.cache()
        logits = []
        for index in range(tokens.shape[1]):
            token = tokens[:, index : index + 1]
            logits.append(self.model(token, past_key_values=cache, use_cache=True).logits)
        return torch.cat(logits, 1)


def _way_to(model: nn.Module, blocks: nn.ModuleList) -> list[str]:
    """Names of the modules that lead to the list of a model's blocks."""
    wanted = list(blocks)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and list(module) == wanted:
            way: list[str] = name.split(".")
            return way
    raise ModelError(
        f"{type(model).__name__}: it does not run in parts: its blocks are not all of one list, each once"
    )


def _with_module(module: nn.Module, way: list[str], other: nn.Module) -> nn.Module:
    """A copy of a module that shares all with it but for the module at the end of a way."""
    view = copy.copy(module)
    inner = other if len(way) == 1 else _with_module(getattr(module, way[0]), way[1:], other)
    view.__dict__["_modules"] = {**module._modules, way[0]: inner}
    return view


def _cache_between(cache: Any, first: int, last: int) -> Any:
    """A view of a cache in which every block has kept as many tokens as those of the pass."""
    view = copy.copy(cache)
    passed = cache.layers[first:last]
    alike = {type(layer): layer for layer in reversed(passed)}
    view.layers = [
        layer if first <= index < last else alike.get(type(layer), passed[0])
        for index, layer in enumerate(cache.layers)
    ]
    return view
