"""What code a stage depends on: a hash of a module and of all onejump modules that it imports.

Snakemake notices that a rule or its script changed, but not that the library changed which they use. A rule
that has this hash as a param runs again when the library code that it uses changes. Comments, docstrings and
layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
_NAME = "onejump"


def fingerprint(*modules: str, data: Sequence[str] = ()) -> str:
    """Hash of onejump modules, and of all that they import of onejump.

    Parameters
    ----------
    *modules : str
        Their names without `onejump.`, such as `"scoring.selection"`. The `__init__` of the package that
        holds the module counts too.
    data : sequence of str
        Files of onejump that the modules read, such as a style sheet.

    Raises
    ------
    ImportError
        If onejump has no such module, or one of them imports a module by a relative name.
    """
    closure: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in closure:
            closure.add(module)
            waiting += [package for package in _packages_of(module) if _file(package) is not None]
            waiting += _imports(module)
    meaning = "".join(f"{module}\n{_meaning(module)}\n" for module in sorted(closure))
    meaning += "".join((_PACKAGE / name).read_text(encoding="utf-8") for name in data)
    return hashlib.sha256(meaning.encode()).hexdigest()[:16]


def _file(module: str) -> Path | None:
    """The file of a module or of a package's `__init__`, or None where there is no such module."""
    path = _PACKAGE.joinpath(*module.split("."))
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _packages_of(module: str) -> Iterator[str]:
    """The packages that a module lies in: Python runs their `__init__` first."""
    parts = module.split(".")
    yield from (".".join(parts[:depth]) for depth in range(1, len(parts)))


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    if file is None:
        raise ImportError(f"{_NAME}.{module}: no such module in {_PACKAGE}")
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


@cache
def _meaning(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_docstring(part)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _imports(module: str) -> tuple[str, ...]:
    return tuple(_imported_by(module))


def _imported_by(module: str) -> Iterator[str]:
    """Modules of onejump that a module imports, wherever in its code."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ImportError(
                    f"{_NAME}.{module}, line {node.lineno}: a relative import, which the fingerprint does "
                    f"not follow: import from {_NAME} by its full name"
                )
            yield from _imported_from(node)
        elif isinstance(node, ast.Import):
            yield from (
                name.name.removeprefix(f"{_NAME}.")
                for name in node.names
                if name.name.startswith(f"{_NAME}.")
            )


def _imported_from(node: ast.ImportFrom) -> Iterator[str]:
    """What `from onejump.package import name` reads: the package's own code, or its module of that name."""
    origin = node.module or ""
    if origin != _NAME and not origin.startswith(f"{_NAME}."):
        return
    package = origin.removeprefix(_NAME).removeprefix(".")
    names = [f"{package}.{name.name}".removeprefix(".") for name in node.names]
    modules = [name for name in names if _file(name) is not None]
    yield from modules
    if package and len(modules) < len(names):
        yield package
    elif not package and len(modules) < len(names):
        missing = ", ".join(sorted(set(names) - set(modules)))
        raise ImportError(
            f"{_NAME}: {missing} imported from the package itself, which gives names to users only: import "
            "from the module that has it"
        )
