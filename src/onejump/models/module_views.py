"""Views of a module: copies that share all with it but for some modules inside."""

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


def with_modules(module: nn.Module, others: dict[nn.Module, nn.Module]) -> nn.Module:
    """Give a view of a module with other modules in the place of some.

    Parameters
    ----------
    module : torch.nn.Module
    others : dict of torch.nn.Module -> torch.nn.Module
        Of a module inside, what is in its place in the view. The views of all modules inside are added, so
        that what two modules share, their views share too.

    Returns
    -------
    torch.nn.Module
        Modules that contain one of `others` are shallow copies; all else is shared.
    """
    if module not in others:
        inner = {name: part and with_modules(part, others) for name, part in module._modules.items()}
        others[module] = module
        if any(inner[name] is not part for name, part in module._modules.items()):
            others[module] = _copied(module, inner)
    return others[module]


def _copied(module: nn.Module, inner: dict[str, nn.Module | None]) -> nn.Module:
    view = copy.copy(module)
    view.__dict__["_modules"] = inner
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
