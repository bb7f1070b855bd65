"""Runs a model once, and can then run its upper blocks again with other states.

Whole sequences run, without a key/value cache. For passes of single tokens with a cache see
`onejump.models.passes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onejump.models.pairs import Inputs
from onejump.models.transformer import Transformer


class ResumablePass:
    """One run of a model over a batch. It can be finished again from a level, with other states.

    Parameters
    ----------
    transformer : Transformer
    tokens : Tensor of shape (sequences, length), int64
        Padded on the right, as in `Transformer.states`.
    levels : sequence of int
        Levels whose states are kept, from 0 to L - 1.

    Attributes
    ----------
    states : dict of int -> Tensor of shape (sequences, length, H)
        States at the levels that are kept.
    last : Tensor of shape (sequences, length, H)
        States at level L.
    """

    @torch.inference_mode()
    def __init__(self, transformer: Transformer, tokens: Inputs, levels: Sequence[int]) -> None:
        self._blocks = transformer.blocks
        self.states: dict[int, Tensor] = {}
        self._rest: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            level = len(self._rest)
            if level in levels:
                self.states[level] = input_states(arguments, named)
            # All arguments but the states are kept: the states of all levels would take too much memory.
            self._rest.append((arguments[1:], {k: v for k, v in named.items() if k != "hidden_states"}))

        def after_last(_: nn.Module, __: Any, returned: Any) -> None:
            self.last = output_states(returned)

        handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in self._blocks]
        handles.append(self._blocks[-1].register_forward_hook(after_last))
        try:
            transformer.run(tokens)
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def finish(self, level: int, states: Tensor) -> Tensor:
        """Run states of a level through the blocks above it.

        Parameters
        ----------
        level : int
        states : Tensor of shape (sequences, length, H)

        Returns
        -------
        Tensor of shape (sequences, length, H)
            States at level L.
        """
        for block, (arguments, named) in zip(self._blocks[level:], self._rest[level:], strict=True):
            states = output_states(block(states, *arguments, **named))
        return states


def input_states(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """The states that a block, or a part of one, was called with."""
    states: Tensor = arguments[0] if arguments else named["hidden_states"]
    return states


def output_states(returned: Any) -> Tensor:
    """The states that a block, or a part of one, returned. Some return a tuple that begins with them."""
    states: Tensor = returned[0] if isinstance(returned, tuple) else returned
    return states


def at_positions(states: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """The states (n, H) of n samples.

    Parameters
    ----------
    states : Tensor of shape (sequences, length, H)
    rows, positions : Tensor of shape (n,), int64
    """
    return states[rows.to(states.device), positions.to(states.device)]
