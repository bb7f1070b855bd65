"""Blocks that are compiled, once for all blocks of a model.

A block dispatches some 25 small operations beside its matrix products. torch.compile joins them. All blocks
of a model run the same code, so one compiled block serves them all, if it does not matter which block it is.
Two things differ: the weights, which are inputs of the compiled code, and the number of the block, by which
it finds its keys and values in the cache. So each block gets a cache that holds its own layer only, and the
number 0.
"""

from __future__ import annotations

import copy
import inspect
import logging
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from onejump.models.seen import given_to
from onejump.models.transformer import Transformer
from onejump.runtime.packing import gives_the_same, packed_maps, viewed

_LOG = logging.getLogger(__name__)
# More tokens in a pass than this gain nothing: their products take much longer than the dispatch.
_MOST_TOKENS = 64
# Codes for blocks of different kinds and passes of different forms.
_MOST_CODES = 32
_BACKEND: str | Callable[..., Any] = "inductor"
# By this name a part of a block has its block's number.
_NUMBERS = ("layer_idx", "layer_id")


def compile_blocks(transformer: Transformer) -> Transformer:
    """Give a view of a model whose blocks are compiled when they first run.

    Passes over many tokens, passes with gradients, and blocks with hooks run as they are.

    Parameters
    ----------
    transformer : Transformer
        Stays as it is.

    Returns
    -------
    Transformer
        The given one, with a warning, if there is no C++ compiler, or if blocks do not run without their
        number.
    """
    name = type(transformer.model).__name__
    blocks = list(dict.fromkeys(transformer.blocks))
    reason = None
    if not transformer.causal:
        reason = "a masked model was given"
    elif len(blocks) < len(transformer.blocks):
        reason = "one block stands in several places"
    elif not _compiler_found():
        reason = "no C++ compiler was found; g++ and clang++ are looked for, or what CXX names"
    if reason is not None:
        _LOG.warning("%s: blocks are not compiled: %s", name, reason)
        return transformer
    code = _Code(name)
    view = viewed(transformer, {block: _numbered(block, index, code) for index, block in enumerate(blocks)})
    # Look only whether blocks run with caches of their own. Compiling takes a while: the first passes do it.
    code.used = False
    same = gives_the_same(view, transformer, "compiled")
    code.used = True
    return view if same else transformer


class _Code:
    """What all blocks of a model share: the compiled code, and whether it is used."""

    def __init__(self, name: str) -> None:
        self.name, self.used, self.warned = name, True, False
        # torch keeps and counts what it compiled by code object: each model has its own.
        own = types.FunctionType(_run.__code__.replace(co_name=f"_run_{id(self)}"), _run.__globals__)
        taken = inspect.signature(torch.compile).parameters
        options: dict[str, Any] = {"dynamic": True, "fullgraph": True, "backend": _BACKEND}
        if "recompile_limit" in taken:
            options["recompile_limit"] = _MOST_CODES
        self.run: Callable[..., Any] = torch.compile(own, **options)

    def warn(self, error: Exception) -> None:
        """Say once that blocks run as they are."""
        if not self.warned:
            self.warned = True
            reason = " ".join(str(error).split("Set TORCH")[0].split())[:200]
            _LOG.warning("%s: blocks are not compiled: %s", self.name, reason)


def _run(block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return block.forward(*arguments, **named)


class _Call:
    """What calling a block does: run the compiled code if it serves, else the block's own.

    Parameters
    ----------
    block : torch.nn.Module
        A copy, whose number is 0.
    index : int
        Its number in the model.
    code : _Code
    """

    def __init__(self, block: nn.Module, index: int, code: _Code) -> None:
        self._block, self._index, self._code = block, index, code
        self._maps = packed_maps(block)
        self._hooks = [
            hooks
            for module in block.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        cache = next((of for of in (*named.values(), *arguments) if isinstance(of, Cache)), None)
        if cache is None:
            return self._run(None, arguments, named)
        own = copy.copy(cache)
        own.layers = cache.layers[self._index : self._index + 1]
        arguments = tuple(own if of is cache else of for of in arguments)
        named = {key: own if of is cache else of for key, of in named.items()}
        returned = self._run(cache, arguments, named)
        if len(cache.layers) == self._index:  # a cache that adds a layer when a block first comes
            cache.layers += own.layers
        return returned

    def _run(self, cache: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not self._serves(cache, arguments, named):
            return self._block._call_impl(*arguments, **named)  # type: ignore[no-untyped-call]
        from torch._dynamo import exc

        try:
            return self._code.run(self._block, arguments, named)
        except exc.FailOnRecompileLimitHit as error:
            self._code.warn(error)
        except exc.TorchDynamoException as error:
            self._code.warn(error)
            self._code.used = False
        return self._block._call_impl(*arguments, **named)  # type: ignore[no-untyped-call]

    def _serves(self, cache: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
        """Whether the compiled code does what the block does, and is worth it."""
        if not self._code.used or cache is None or not cache.layers or torch.is_grad_enabled():
            return False
        if getattr(cache, "keys_only", False) or not cache.layers[-1].is_initialized:
            return False
        states = given_to(arguments, named, self._block)
        return (
            states.shape[0] * states.shape[1] <= _MOST_TOKENS
            and not any(self._hooks)
            and not any(one.changed() for one in self._maps)
        )


def _numbered(block: nn.Module, index: int, code: _Code) -> nn.Module:
    """A copy of a block that is the first of its kind, and runs compiled code when it is called."""
    view = _copied(block, index)
    view.__dict__["_compiled_call_impl"] = _Call(view, index, code)
    return view


def _copied(module: nn.Module, index: int) -> nn.Module:
    view = copy.copy(module)
    for name in _NUMBERS:
        if view.__dict__.get(name) == index:
            view.__dict__[name] = 0
    view.__dict__["_modules"] = {
        name: part and _copied(part, index) for name, part in module._modules.items()
    }
    return view


def _compiler_found() -> bool:
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception:  # what is raised differs from version to version
        return False
    return True
