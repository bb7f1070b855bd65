"""Views of a module: copies that share all with it but for one module inside."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any

from torch import nn

from onejump.base.errors import ModelError


def way_to(model: nn.Module, blocks: nn.ModuleList) -> list[str]:
    """Names of the modules that lead to the list of a model's blocks."""
    wanted = list(blocks)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and list(module) == wanted:
            way: list[str] = name.split(".")
            return way
    raise ModelError(
        f"{type(model).__name__}: it does not run in parts: its blocks are not all of one list, each once"
    )


def with_module(module: nn.Module, way: list[str], other: nn.Module) -> nn.Module:
    """A copy of a module that shares all with it but for the module at the end of a way."""
    view = copy.copy(module)
    inner = other if len(way) == 1 else with_module(getattr(module, way[0]), way[1:], other)
    view.__dict__["_modules"] = {**module._modules, way[0]: inner}
    # accelerate gives a module a forward of its own, and torch a compiled one: both run that very module.
    for name, value in vars(module).items():
        if (rebound := _rebound(value, module, view)) is not value:
            view.__dict__[name] = rebound
    view.__dict__.pop("_compiled_call_impl", None)
    return view


def _rebound(function: Any, module: nn.Module, view: nn.Module) -> Any:
    """A function that is bound to a module, bound to a view of it instead; any other one as it is."""
    if isinstance(function, types.MethodType) and function.__self__ is module:
        return types.MethodType(function.__func__, view)
    if isinstance(function, functools.partial) and any(given is module for given in function.args):
        given = [view if one is module else one for one in function.args]
        return functools.partial(function.func, *given, **function.keywords)
    return function
