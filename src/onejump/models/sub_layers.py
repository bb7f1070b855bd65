"""Reads the residual stream inside of blocks, and what attention and feed-forward network add to it.

A block adds twice to its stream: x + attention(x), then x + feed-forward(x). Both additions are found by what
one run does, whatever the modules are called: of the two states of a residual addition, one is made from the
other. The older one is the stream, the younger one is what is added. So what counts is what is really added:
behind a norm where the family has one there (Gemma 2), scaled where it is scaled (Granite), and without the
stream where a module adds it itself (Bloom). Where a norm stands behind an addition (BERT),
the stream goes on behind that norm, and that is the state between attention and feed-forward network.

Some families (GPT-NeoX, Falcon, Phi, Cohere) give attention and feed-forward network the same input. Their
blocks have one residual addition, of both, and no state between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from onejump.base.errors import ModelError
from onejump.models.pairs import Inputs, size_of
from onejump.models.seen import given_to, state_of
from onejump.models.transformer import Transformer

LEVEL, MIDDLE = "level", "middle"
ATTENTION, FEED_FORWARD, BOTH = "attention", "feed-forward", "both"
STATES = (LEVEL, MIDDLE, ATTENTION, FEED_FORWARD, BOTH)
"""What is read: the output of a block, the state between its attention and its feed-forward network, and what
attention, feed-forward network, or in parallel blocks both together, add to the stream."""

_ADDITIONS = frozenset(("add", "__add__", "__radd__", "add_", "__iadd__"))

See = Callable[[int, str, Tensor], None]
"""Gets the number of a block, from 1, the name of a state, one of `STATES`, and the states (n, H) of some
samples in the model's dtype. Level 0 is the `level` of block 0."""


class _Addition(NamedTuple):
    """A residual addition of a block, or another addition to its sum that nothing lies between."""

    number: int
    """Among all additions of two states in the block."""
    stream: int
    """Which of the two operands is the stream, 0 or 1."""
    place: int
    """Among the residual additions of the block."""


class SubLayers:
    """The residual additions of a model's blocks.

    Parameters
    ----------
    transformer : Transformer
        Causal or masked.

    Attributes
    ----------
    parallel : list of bool
        Whether a block has a single residual addition, block after block: its attention and its feed-forward
        network have the same input, or it has only one of them (Mamba).

    Raises
    ------
    ModelError
        If a block has no residual addition, or more than two.
    """

    def __init__(self, transformer: Transformer) -> None:
        self._transformer = transformer
        looking = _Looking()
        with torch.inference_mode(), self._in_blocks(looking), looking:
            transformer.run(transformer.probe())
        self._additions = looking.additions
        self._counts = looking.counts
        found = [len({addition.place for addition in of_block}) for of_block in self._additions]
        for block, count in zip(transformer.blocks, found, strict=True):
            if count not in (1, 2):
                raise ModelError(
                    f"{type(block).__name__}: its attention and its feed-forward network were not found: "
                    f"looked for one or two additions x + g(x) of states, {count} found"
                )
        self.parallel = [count == 1 for count in found]

    @torch.inference_mode()
    def read(self, tokens: Inputs, rows: Tensor, positions: Tensor, see: See) -> None:
        """Run a batch, and show the states at some positions as soon as each is there.

        Parameters
        ----------
        tokens, rows, positions
            As in `Transformer.states`.
        see : See
            It need not keep what it gets: no state is kept here.

        Raises
        ------
        ModelError
            If the blocks do not add as they did in the run that they were found in.
        """
        sequences, _ = size_of(tokens)

        def chosen(states: Tensor) -> Tensor:
            # Longformer lengthens its sequences for the blocks.
            whole = states.reshape(sequences, -1, states.shape[-1])
            return whole[rows.to(states.device), positions.to(states.device)]

        def end(block: int, streams: list[Tensor], added: list[Tensor], last: Tensor) -> None:
            if len(added) == 1:
                see(block, BOTH, added[0])
            elif added:
                for state, states in ((ATTENTION, added[0]), (MIDDLE, streams[1]), (FEED_FORWARD, added[1])):
                    see(block, state, states)
            see(block, LEVEL, last)

        reading = _Reading(self._additions, chosen, end)
        with self._in_blocks(reading), reading:
            self._transformer.run(tokens)
        if reading.counts != self._counts:
            raise ModelError(
                f"{type(self._transformer.body).__name__}: its blocks do not add to their states as they did "
                "in a run over a short sequence, so that attention and feed-forward network are not found"
            )

    @contextmanager
    def _in_blocks(self, mode: _InBlocks) -> Iterator[None]:
        blocks = list(dict.fromkeys(self._transformer.blocks))
        handles = [block.register_forward_pre_hook(mode.enter, with_kwargs=True) for block in blocks]
        handles += [block.register_forward_hook(mode.leave) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _InBlocks(TorchFunctionMode):
    """Sees the additions of two states that blocks make."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []
        """Additions of two states, by block."""
        self._size: tuple[int, int] | None = None

    def enter(self, block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A block begins."""
        state = given_to(arguments, named, block)
        self._size = state.numel(), state.shape[-1]
        self.counts.append(0)
        self.entered(state)

    def leave(self, block: nn.Module, _: Any, returned: Any) -> None:
        """A block ends."""
        self._size = None
        self.left(state_of(returned, block))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, seen if it runs in a block."""
        kwargs = kwargs or {}
        if self._size is None:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") in _ADDITIONS:
            operands = [*args, *kwargs.values()][:2]
            if len(operands) == 2 and all(self._is_state(operand) for operand in operands):
                self.addition(self.counts[-1], *operands)
                self.counts[-1] += 1
        made = func(*args, **kwargs)
        self.ran(args, kwargs, made)
        return made

    def _is_state(self, operand: Any) -> bool:
        # Some blocks lay their sequences one behind the other: (sequences n, H).
        return isinstance(operand, Tensor) and (operand.numel(), operand.shape[-1:]) == (
            self._size[0] if self._size else 0,
            (self._size[1],) if self._size else (),
        )

    def entered(self, state: Tensor) -> None:
        """Take the state that a block begins with."""

    def left(self, state: Tensor) -> None:
        """Take the state that a block ends with."""

    def addition(self, number: int, first: Tensor, second: Tensor) -> None:
        """Take two states before they are added."""

    def ran(self, args: Any, kwargs: Any, made: Any) -> None:
        """Take what a function was given, and what it made."""


class _Looking(_InBlocks):
    """Finds the residual additions: those where one state is made from the other."""

    def __init__(self) -> None:
        super().__init__()
        self.additions: list[list[_Addition]] = []

    def entered(self, state: Tensor) -> None:
        self.additions.append([])
        # What each tensor of the block was made from. The tensors are kept, so that no other gets their id.
        self._made_from: dict[int, set[int]] = {}
        self._kept: list[Tensor] = [state]
        self._sums: set[int] = set()
        self._residual = False

    def left(self, state: Tensor) -> None:
        self._made_from, self._kept = {}, []

    def addition(self, number: int, first: Tensor, second: Tensor) -> None:
        found = self.additions[-1]
        for stream, (older, younger) in enumerate(((first, second), (second, first))):
            if id(older) in self._made_from.get(id(younger), ()):
                found.append(_Addition(number, stream, found[-1].place + 1 if found else 0))
            elif id(older) in self._sums and id(younger) not in self._made_from.get(id(older), ()):
                # Cohere: x + attention(x) + feed-forward(x).
                found.append(_Addition(number, stream, found[-1].place))
            else:
                continue
            self._residual = True
            return

    def ran(self, args: Any, kwargs: Any, made: Any) -> None:
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        sources = {id(one) for one in given}.union(*(self._made_from.get(id(one), ()) for one in given))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                # A function can give back what it was given, such as dropout or an addition in place.
                self._made_from.setdefault(id(one), set()).update(sources - {id(one)})
                self._kept.append(one)
                if self._residual:
                    self._sums.add(id(one))
        self._residual = False
        self._kept += given


class _Reading(_InBlocks):
    """Takes some positions of the states of residual additions, and gives those of one block when it ends."""

    def __init__(
        self,
        additions: list[list[_Addition]],
        chosen: Callable[[Tensor], Tensor],
        end: Callable[[int, list[Tensor], list[Tensor], Tensor], None],
    ) -> None:
        super().__init__()
        self._places = [{addition.number: addition for addition in of_block} for of_block in additions]
        self._chosen, self._end = chosen, end
        self._streams: list[Tensor] = []
        self._added: list[Tensor] = []

    def entered(self, state: Tensor) -> None:
        if len(self.counts) == 1:
            self._end(0, [], [], self._chosen(state))

    def left(self, state: Tensor) -> None:
        self._end(len(self.counts), self._streams, self._added, self._chosen(state))
        self._streams, self._added = [], []

    def addition(self, number: int, first: Tensor, second: Tensor) -> None:
        found = self._places[len(self.counts) - 1].get(number)
        if found is None:
            return
        stream, what = (first, second) if found.stream == 0 else (second, first)
        if found.place < len(self._added):
            self._added[found.place] = self._added[found.place] + self._chosen(what)
        else:
            self._streams.append(self._chosen(stream))
            self._added.append(self._chosen(what))
