"""Finds a module by the name that a study uses. Each shortcut kind has such a module, and so has each figure.

A stage that imported all of them would run again when any of them changes. So it imports only the module that
its job uses, by name. The rule passes the fingerprint of that module (`onejump.base.fingerprint`).
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from onejump.base.errors import OneJumpError


def module_names(package: str) -> tuple[str, ...]:
    """Names of a package's modules, as a study writes them: ``n-njtc`` for ``n_njtc.py``.

    Parameters
    ----------
    package : str
        Without ``onejump.``, such as ``shortcuts.kinds``.
    """
    found = pkgutil.iter_modules(importlib.import_module(f"onejump.{package}").__path__)
    return tuple(sorted(module.name.replace("_", "-") for module in found if not module.ispkg))


def module_named(package: str, name: str, *, what: str) -> ModuleType:
    """Import the module that a study calls by this name.

    Parameters
    ----------
    package : str
        Without ``onejump.``, such as ``shortcuts.kinds``.
    name : str
        As a study writes it.
    what : str
        What the name stands for, such as "shortcut kind". The message uses it.

    Raises
    ------
    OneJumpError
        If the package has no such module.
    """
    accepted = module_names(package)
    if name not in accepted:
        raise OneJumpError(f"{what} {name!r} given, accepted is one of {', '.join(accepted)}")
    return importlib.import_module(f"onejump.{package}.{name.replace('-', '_')}")
