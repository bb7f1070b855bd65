"""Modules that are found by a name that a study gives: one a shortcut kind, one a figure.

A stage that imported them all would depend on the code of them all. Found by name, each is code of its own:
the rule passes the fingerprint of the one that its job uses (`onejump.base.fingerprint`).
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from onejump.base.errors import OneJumpError


def module_names(package: str) -> tuple[str, ...]:
    """Names that a package has a module for, as a study writes them (``n-njtc`` of ``n_njtc.py``).

    Parameters
    ----------
    package : str
        Without ``onejump.``, such as ``shortcuts.kinds``.
    """
    found = pkgutil.iter_modules(importlib.import_module(f"onejump.{package}").__path__)
    return tuple(sorted(module.name.replace("_", "-") for module in found if not module.ispkg))


def module_named(package: str, name: str, *, what: str) -> ModuleType:
    """Import the module of a name.

    Parameters
    ----------
    package : str
        Without ``onejump.``, such as ``shortcuts.kinds``.
    name : str
        As a study writes it.
    what : str
        What has that name, for the message: "shortcut kind".

    Raises
    ------
    OneJumpError
        If the package has no such module.
    """
    accepted = module_names(package)
    if name not in accepted:
        raise OneJumpError(f"{what} {name!r} given, accepted is one of {', '.join(accepted)}")
    return importlib.import_module(f"onejump.{package}.{name.replace('-', '_')}")
