"""What code a stage depends on: a hash of a module and of all onejump modules that it imports.

Snakemake sees a rule and its script change, not the library behind them. A rule that keeps this hash among
its parameters reruns when the library code it uses changes, and only then: comments, docstrings and layout do
not count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent


def fingerprint(*modules: str, data: Sequence[str] = ()) -> str:
    """Hash of onejump modules, named without the package (`"selection"`), and of what they import of it.

    Parameters
    ----------
    *modules : str
    data : sequence of str
        Files of the package that they read, such as a style sheet.
    """
    closure: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in closure:
            closure.add(module)
            waiting += _imports(module)
    meaning = "".join(f"{module}\n{_meaning(module)}\n" for module in sorted(closure))
    meaning += "".join((_PACKAGE / name).read_text(encoding="utf-8") for name in data)
    return hashlib.sha256(meaning.encode()).hexdigest()[:16]


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse((_PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


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


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith("onejump."):
                yield node.module.removeprefix("onejump.")
            elif node.module == "onejump":
                yield from (name.name for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                name.name.removeprefix("onejump.") for name in node.names if name.name.startswith("onejump.")
            )
