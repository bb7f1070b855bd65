"""Watches one run of a model: which modules it calls, in which order, with which inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError


def state_of(returned: Any, block: nn.Module) -> Tensor:
    """Give the state in what a block takes or returns: a tensor, or the first element of a tuple.

    Raises
    ------
    ModelError
        If there is none of shape (sequences, length, H).
    """
    state = returned[0] if isinstance(returned, tuple) and returned else returned
    if isinstance(state, Tensor) and state.dim() == 3:
        return state
    found = f"shape {tuple(state.shape)}" if isinstance(state, Tensor) else f"a {type(state).__name__}"
    raise ModelError(
        f"{type(block).__name__}: blocks that pass on one state (sequences, length, H) were expected, this "
        f"one passes on {found}"
    )


def given_to(arguments: tuple[Any, ...], named: dict[str, Any], block: nn.Module) -> Tensor:
    """Give the state that a block is called with.

    Raises
    ------
    ModelError
        If there is none of shape (sequences, length, H).
    """
    return state_of(arguments[0] if arguments else named.get("hidden_states"), block)


def calls(modules: Iterable[nn.Module], run: Callable[[], Any]) -> list[nn.Module]:
    """List modules in the order in which a run calls them. A module is listed once for each call."""
    called: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: called.append(module))
        for module in dict.fromkeys(modules)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return called


def is_at_a_position(of_text: Tensor, of_tokens: Tensor) -> bool:
    """Whether a tensor (texts, width) is another one, or one position of (texts, length, width)."""
    if of_tokens.dim() == 3 and of_text.dim() == 2 and of_tokens.shape[::2] == of_text.shape:
        return bool((of_tokens == of_text[:, None]).all(-1).all(0).any())
    return of_text.shape == of_tokens.shape and torch.equal(of_text, of_tokens)


@dataclass(frozen=True)
class Step:
    """One call of a module."""

    module: nn.Module
    given: Tensor
    made: Tensor


class Way:
    """The calls of modules behind the last block, in a run of the model.

    Parameters
    ----------
    model : torch.nn.Module
    blocks : sequence of torch.nn.Module
    run : callable
        Runs the model once.
    dtype : torch.dtype
        The model's dtype. Some models keep their states in a wider one between their modules.
    besides : torch.nn.Module, optional
        A module to watch besides those without children.
    one_position : bool
        Whether a module that takes the state of one position takes the state (`same`).

    Attributes
    ----------
    last : Tensor
        The last block's output.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        run: Callable[[], Any],
        dtype: torch.dtype,
        besides: nn.Module | None = None,
        *,
        one_position: bool = False,
    ) -> None:
        self._dtype = dtype
        self._one_position = one_position
        self._steps: list[Step] = []
        blocks = list(dict.fromkeys(blocks))
        inside = {module for block in blocks for module in block.modules()}
        ends = [
            module
            for module in model.modules()
            if module is besides or (module not in inside and not any(True for _ in module.children()))
        ]
        hooks = [block.register_forward_hook(self._begin) for block in blocks]
        hooks += [module.register_forward_hook(self._step) for module in ends]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, block: nn.Module, _: Any, returned: Any) -> None:
        self.last = state_of(returned, block)
        self._steps.clear()

    def _step(self, module: nn.Module, arguments: tuple[Any, ...], made: Any) -> None:
        given = arguments[0] if arguments else None
        # A module that changes nothing, such as dropout, is not a step.
        if isinstance(given, Tensor) and isinstance(made, Tensor) and not self.same(given, made):
            self._steps.append(Step(module, given, made))

    def same(self, one: Tensor, other: Tensor) -> bool:
        """Whether two tensors hold the same numbers, in the model's own dtype.

        Some models (Longformer) lengthen their sequences for the blocks, and shorten them again behind the
        blocks. So only the length that both tensors have is compared. The head of a classifier takes one
        position (sequences, H) of a state.
        """
        if self._one_position and {one.dim(), other.dim()} == {2, 3}:
            of_text, of_tokens = (tensor.detach().to("cpu", self._dtype) for tensor in (one, other))
            if of_text.dim() == 3:
                of_text, of_tokens = of_tokens, of_text
            return is_at_a_position(of_text, of_tokens)
        if one.dim() == other.dim() == 3:
            length = min(one.shape[1], other.shape[1])
            one, other = one[:, :length], other[:, :length]
        return one.shape == other.shape and torch.equal(
            one.detach().to("cpu", self._dtype), other.detach().to("cpu", self._dtype)
        )

    def after(self, state: Tensor) -> list[Step]:
        """The steps whose input is this state."""
        return [step for step in self._steps if self.same(step.given, state)]

    def making(self, state: Tensor) -> Step | None:
        """The step whose output is this state, if there is one."""
        return next((step for step in self._steps if self.same(step.made, state)), None)

    def of(self, module: nn.Module) -> Step | None:
        """The first call of a module, if there is one."""
        return next((step for step in self._steps if step.module is module), None)
