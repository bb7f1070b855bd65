"""Reads or replaces one part of all blocks: attention, the feed-forward network, or the norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.pairs import Inputs
from onejump.models.resumable_pass import ResumablePass, at_positions, input_states, output_states
from onejump.models.transformer import Transformer


class Part:
    """One part of all blocks, to be read or replaced.

    Parameters
    ----------
    transformer : Transformer
    name : str
        One of `onejump.models.anatomy.PARTS`.

    Attributes
    ----------
    modules : list of torch.nn.Module
        The K modules that the part consists of, block after block.

    Raises
    ------
    ModelError
        If the part is not found, or does not map states to states of the same shape.
    """

    def __init__(self, transformer: Transformer, name: str) -> None:
        self.name = name
        self._transformer = transformer
        of_blocks = transformer.parts(name)
        self._each = len(of_blocks[0])
        self.modules = [module for modules in of_blocks for module in modules]
        self._returned = self._probe()

    def where(self, module: int) -> str:
        """Name a module in words, for a message."""
        block, number = divmod(module, self._each)
        return f"{self.name} {f'{number} ' if self._each > 1 else ''}of block {block}"

    @torch.inference_mode()
    def read(self, tokens: Inputs, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Read the inputs and outputs of the modules, at some positions.

        Parameters
        ----------
        tokens, rows, positions
            As in `Transformer.states`.

        Returns
        -------
        Tensor of shape (2 K, n, H), float32
            All inputs, then all outputs, in the order of `modules`.
        Tensor of shape (n, H)
            States of the last level.
        """
        count = len(self.modules)
        shape = (2 * count, len(rows), self._transformer.hidden)
        read = torch.empty(shape, dtype=torch.float32, device=self._transformer.device)
        last: list[Tensor] = []

        def see(module: int, received: Tensor, returned: Any) -> None:
            read[module] = at_positions(received, rows, positions)
            read[count + module] = at_positions(output_states(returned), rows, positions)

        def see_last(_: nn.Module, __: Any, returned: Any) -> None:
            last.append(at_positions(output_states(returned), rows, positions))

        with self._watched(see), self._transformer.blocks[-1].register_forward_hook(see_last):
            self._transformer.run(tokens)
        return read, last[0]

    @contextmanager
    def replaced(self, maps: Sequence[nn.Module]) -> Iterator[None]:
        """Replace the modules by maps of states (..., H), within a ``with`` block.

        Parameters
        ----------
        maps : sequence of torch.nn.Module
            One for each of `modules`, in float32.
        """
        # If a model is spread over devices, accelerate has put another `forward` into each module.
        before = [module.__dict__.get("forward") for module in self.modules]
        try:
            for module, states_map, returned in zip(self.modules, maps, self._returned, strict=True):
                module.forward = _mapped(states_map, returned)
            yield
        finally:
            for module, forward in zip(self.modules, before, strict=True):
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.forward = forward

    @contextmanager
    def _watched(self, see: Callable[[int, Tensor, Any], None]) -> Iterator[None]:
        def hook(number: int) -> Callable[..., None]:
            return lambda _, arguments, named, returned: see(number, input_states(arguments, named), returned)

        handles = [
            module.register_forward_hook(hook(number), with_kwargs=True)
            for number, module in enumerate(self.modules)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def _probe(self) -> list[tuple[None, ...] | None]:
        """Find how much each module returns after its states, such as attention weights: a None for each."""
        behind: list[tuple[None, ...] | None] = [None] * len(self.modules)
        not_seen = set(range(len(self.modules)))

        def see(module: int, received: Tensor, returned: Any) -> None:
            if output_states(returned).shape != received.shape:
                raise ModelError(
                    f"{self.where(module)}: a map between states of one shape was expected, it maps "
                    f"{tuple(received.shape)} to {tuple(output_states(returned).shape)}"
                )
            if isinstance(returned, tuple):
                behind[module] = (None,) * (len(returned) - 1)
            not_seen.discard(module)

        with self._watched(see):
            self._transformer.run(self._transformer.example())
        if not_seen:
            raise ModelError(f"{self.where(min(not_seen))} was found, but the model runs without it")
        return behind


def _mapped(states_map: nn.Module, returned: tuple[None, ...] | None) -> Callable[..., Any]:
    def forward(*arguments: Any, **named: Any) -> Any:
        states = input_states(arguments, named)
        # The map stays on the device where it was first needed, as a module's device does not change.
        mapped = states_map.to(states.device)(states.float()).to(states.dtype)
        return mapped if returned is None else (mapped, *returned)

    return forward


class _Zero(nn.Module):
    """Maps every state to zero."""

    def forward(self, states: Tensor) -> Tensor:
        return torch.zeros_like(states)


def check_parts(transformer: Transformer) -> None:
    """Check that blocks without attention and feed-forward network pass on their input unchanged.

    Raises
    ------
    ModelError
        If they do not. Then a part does more than its name says (in Bloom, parts add the residual
        themselves), or something else changes the states. Also if the blocks cannot be run one after the
        other, or if the model is not causal.
    """
    if not transformer.causal:
        raise ModelError(f"{type(transformer.model).__name__}: parts of a causal model were expected")
    run = ResumablePass(transformer, transformer.probe(), [0])
    zero = _Zero()
    attention, feed_forward = (Part(transformer, name) for name in ("attention", "feed-forward"))
    again = run.finish(0, run.states[0])
    with (
        attention.replaced([zero] * len(attention.modules)),
        feed_forward.replaced([zero] * len(feed_forward.modules)),
    ):
        passed_on = run.finish(0, run.states[0])
    if not _alike(again, run.last):
        raise ModelError(
            f"{type(transformer.model).__name__}: its blocks, called one after the other, do not give the "
            "model's own last level"
        )
    if not _alike(passed_on, run.states[0]):
        raise ModelError(
            f"{type(transformer.model).__name__}: blocks that add attention and feed-forward to their input "
            "were expected; with both at zero, these do not pass their input on"
        )


def _alike(states: Tensor, reference: Tensor) -> bool:
    off = (states.to(reference) - reference).abs().max()
    return bool(off <= 1e-3 * reference.abs().max())
