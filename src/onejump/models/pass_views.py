"""Views of a model for partial passes: blocks that do nothing, and masks by the positions of each row."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.masking_utils import (
    AttentionMaskInterface,
    bidirectional_mask_function,
    eager_mask,
    sdpa_mask,
)

from onejump.base.errors import ModelError
from onejump.models.module_views import with_modules
from onejump.models.row_cache import KeysKept, Place
from onejump.models.seen import given_to, state_of

# Attention whose mask can be told the position of each row's tokens, and the name of such a mask.
OWN_MASKS = {"sdpa": "onejump_sdpa", "eager": "onejump_eager"}


class Passing(threading.local):
    """What goes into and comes out of the pass that a thread runs."""

    states: Tensor | None = None
    """States that the pass begins with, until they were brought in."""
    out: Tensor | None = None
    """States that came out of it."""
    place: Place | None = None
    shared: Tensor | None = None
    """What the first block makes for all others of the tokens' places (`Shared`), given to the pass."""
    made: Tensor | None = None
    """The same, as it came out of a pass."""


# Masks are made by functions that transformers knows by name, so that there is one for all models.
passing = Passing()


class Shared(NamedTuple):
    """A tensor that the first block makes of the tokens' places alone, and that the others take (T5)."""

    place: int
    """Its place in the tuple that a block returns."""
    key: int | str
    """Its place among the arguments of a block, or its name there."""


class Inside(NamedTuple):
    """How the blocks of a model call and return."""

    returned: Any
    """What the first block returned once: a state, or a tuple that begins with one."""
    shared: Shared | None
    """What the first block makes for all others, if it does."""


class _LeftOut(nn.Module):
    """Stands in the place of a block that a pass leaves out.

    Parameters
    ----------
    block : torch.nn.Module
        The block, whose attributes the model's code may ask for.
    inside : Inside
    brings_in, takes_out : bool
        Whether the pass begins, or ends, in this place.
    """

    def __init__(
        self, block: nn.Module, inside: Inside, *, brings_in: bool = False, takes_out: bool = False
    ) -> None:
        super().__init__()
        # Past `nn.Module`, which would take the block for a part of this one.
        self.__dict__["block"] = block
        self._others = len(inside.returned) - 1 if isinstance(inside.returned, tuple) else None
        self._shared = inside.shared
        self._brings_in, self._takes_out = brings_in, takes_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Give on the states, those that the pass begins with in the place where it begins."""
        states = self.entering(arguments, named)
        if self._takes_out:
            passing.out = states
            if self._shared is not None:
                key = self._shared.key
                passing.made = arguments[key] if isinstance(key, int) else named[key]
        return self.returned(states)

    def entering(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        """The states that enter here: those given by the model, or those that the pass begins with."""
        if not self._brings_in or passing.states is None:
            return given_to(arguments, named, self.__dict__["block"])
        states, passing.states = passing.states, None
        return states

    def run(self, states: Tensor, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run the block with these states, and with what it shares with others where that is known."""
        given = list(arguments)
        if given:
            given[0] = states
        else:
            named["hidden_states"] = states
        if self._shared is not None and passing.shared is not None:
            key = self._shared.key
            if isinstance(key, int):
                given[key] = passing.shared
            else:
                named[key] = passing.shared
        return self.__dict__["block"](*given, **named)

    def returned(self, states: Tensor) -> Any:
        """Return states in the way the block does."""
        if self._others is None:
            return states
        others: list[Any] = [None] * self._others
        if self._shared is not None:
            others[self._shared.place - 1] = passing.shared
        return (states, *others)


class _KeysOnly(_LeftOut):
    """A block that keeps the keys and values of the states given to it, and gives on the same states."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the block until its cache has got keys and values."""
        states = passing.out = self.entering(arguments, named)
        try:
            self.run(states, arguments, named)
        except KeysKept:
            return self.returned(states)
        raise ModelError(f"{type(self.__dict__['block']).__name__}: it gave no keys and values to its cache")


class _Entered(_LeftOut):
    """The first block, given other states than those that the model made, or what it shares with others."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the block."""
        return self.run(self.entering(arguments, named), arguments, named)


class _Kept(_Entered):
    """The last block, whose states the pass gives beside the logits."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the block."""
        returned = super().forward(*arguments, **named)
        passing.out = state_of(returned, self.__dict__["block"])
        return returned


def view_of(
    module: nn.Module,
    way: list[str],
    inside: Inside,
    first: int,
    last: int,
    *,
    rows_differ: bool,
    keys_only: bool,
    brings_in: bool,
    keeps: bool = False,
) -> nn.Module:
    """Give a view of a model that runs blocks first + 1 to last only.

    Parameters
    ----------
    module : torch.nn.Module
        The model, or its body.
    way : list of str
        Names of the modules that lead to the list of its blocks.
    inside : Inside
    first, last : int
        Levels.
    rows_differ : bool
        Whether rows stand at places of their own (`Place.columns`).
    keys_only : bool
        Whether blocks only keep keys and values.
    brings_in : bool
        Whether the pass is given the states of level `first`.
    keeps : bool
        Whether the states of level L are kept, in a pass that ends there.
    """
    listed = module.get_submodule(".".join(way))
    assert isinstance(listed, nn.ModuleList)
    blocks = nn.ModuleList()
    for index, block in enumerate(listed):
        begins = index == 0 and brings_in
        if not first <= index < last:
            blocks.append(_LeftOut(block, inside, brings_in=begins, takes_out=index == last))
        elif keys_only:
            blocks.append(_KeysOnly(block, inside, brings_in=begins))
        elif keeps and index == len(listed) - 1:
            blocks.append(_Kept(block, inside, brings_in=begins))
        elif begins or (index == 0 and rows_differ and inside.shared is not None):
            blocks.append(_Entered(block, inside, brings_in=begins))
        else:
            blocks.append(block)
    view = with_modules(module, {listed: blocks})
    if rows_differ:
        _masked_by_rows(view, way)
    return view


def _masked_by_rows(view: nn.Module, way: list[str]) -> None:
    """Let the modules on the way to a view's blocks make their masks by the positions of each row.

    The blocks keep the model's own configuration, so that attention itself is computed as before.
    """
    for name in way:
        config = view.__dict__.get("config")
        if config is not None:
            config = copy.copy(config)
            config._attn_implementation_internal = OWN_MASKS[config._attn_implementation]
            view.__dict__["config"] = config
        view = getattr(view, name)


def _mask_by_rows(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    device: torch.device | str = "cpu",
    **named: Any,
) -> Tensor | None:
    """Evaluate a model's own mask function at the positions of each row: (rows, 1, n, columns), bool."""
    if mask_function is bidirectional_mask_function:
        # What a decoder sees of its source: all of it but its padding.
        mask: Tensor | None = sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            mask_function=mask_function,
            device=device,
            **named,
        )
        return mask
    return _own_mask(batch_size, q_length, kv_length, mask_function, device)


def _own_mask(
    rows_given: int,
    queries_given: int,
    columns: int,
    mask_function: Callable[..., Any],
    device: torch.device | str,
) -> Tensor:
    place = passing.place
    assert place is not None
    assert place.positions is not None
    keys = place.key_positions
    keys = torch.arange(columns, device=device)[None] if keys is None else keys.to(device)
    rows = torch.arange(rows_given, device=device)[:, None, None, None]
    queries = place.positions.to(device)[:, None, :, None]
    mask: Tensor = mask_function(rows, torch.zeros_like(rows), queries, keys[:, None, None, :])
    if place.visible is not None:
        mask = mask & place.visible.to(device)[:, None]
    return mask.expand(rows_given, 1, queries_given, columns)


def _float_mask_by_rows(*, dtype: torch.dtype = torch.float32, **named: Any) -> Tensor | None:
    if named["mask_function"] is bidirectional_mask_function:
        found: Tensor | None = eager_mask(dtype=dtype, **named)
        return found
    mask = _mask_by_rows(**named)
    assert mask is not None
    return torch.where(mask, torch.zeros((), dtype=dtype, device=mask.device), torch.finfo(dtype).min)


AttentionMaskInterface.register(OWN_MASKS["sdpa"], _mask_by_rows)
AttentionMaskInterface.register(OWN_MASKS["eager"], _float_mask_by_rows)
