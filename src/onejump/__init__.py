"""Shortcuts in transformers: maps from an early block's hidden state to the last block's.

>>> import onejump, torch
>>> results = "results/default/smollm2-135m"
>>> head = onejump.Head.load(f"{results}/head.safetensors")
>>> jump = onejump.load_shortcuts(f"{results}/wikipedia-en", "ojfa").at(12)
>>> store = onejump.ActivationStore([f"{results}/wikipedia-en/activations/validation-0.zarr"])
>>> states = torch.from_numpy(store.level(12))  # of level 12, (samples, H)
>>> logits = head.logits(jump(states))
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ActivationStore": "data.store",
    "EarlyExit": "runtime.early_exit",
    "ExitHead": "shortcuts.exit_head",
    "Head": "models.head",
    "OneJump": "runtime.artefact",
    "OneJumpError": "base.errors",
    "Shortcut": "shortcuts.shortcut",
    "ShortlistHead": "shortcuts.shortlist_head",
    "ShortcutFolder": "shortcuts.files",
    "Shortcuts": "shortcuts.results",
    "Trajectory": "lens.trajectory",
    "Transformer": "models.transformer",
    "load_model": "models.loading",
    "load_shortcut": "shortcuts.files",
    "load_shortcuts": "shortcuts.results",
    "load_study": "study.reading",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # On first use, so that neither the command line nor planning a workflow waits for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'onejump' has no attribute {name!r}")
    return getattr(importlib.import_module(f"onejump.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
