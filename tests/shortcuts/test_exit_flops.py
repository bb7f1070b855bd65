"""FLOPs of jumps and exit heads that are counted from shapes, against those that torch counts in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from onejump.models.flops import head_flops
from onejump.models.head import Head
from onejump.shortcuts.exit_flops import exit_head_flops, jump_flops
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.residual import Residual
from onejump.shortcuts.shortcut import LowRank, Shortcut

H, V, R, L = 12, 30, 3, 4


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def n_njtc() -> NNJTC:
    return NNJTC(normal(H, R), normal(R, H), *(torch.ones(H) for _ in range(4)))


SHORTCUTS: dict[str, Callable[[], Shortcut]] = {
    "identity": Identity,
    "jtc": lambda: JTC(normal(H, H)),
    "n-njtc": n_njtc,
    "residual": lambda: Residual(n_njtc()),
    "one-jump": lambda: OneJump(
        normal(H, R), normal(L, R), normal(R, H), normal(H), "rms", 1e-5, mix=normal(L, R, R)
    ).at(2),
}
HEADS: dict[str, dict[str, Any]] = {
    "rms": {"norm": "rms"},
    "layer": {"norm": "layer", "bias": True},
    "transform": {"norm": "layer", "activation": "gelu"},
    "transform behind a norm": {"norm": "layer", "activation": "gelu", "first": "layer"},
}


@pytest.mark.parametrize("kind", SHORTCUTS)
@pytest.mark.parametrize("head", HEADS)
def test_an_exit_costs_what_torch_counts(kind: str, head: str, make_head: Callable[..., Head]) -> None:
    full, shortcut = make_head(H, V, **HEADS[head]), SHORTCUTS[kind]()
    states = normal(5, H)
    with torch.inference_mode():
        if isinstance(shortcut, LowRank):
            exit_head = ExitHead.of(full, shortcut)
            of_head = exit_head_flops(exit_head)
            with FlopCounterMode(display=False) as counter:
                exit_head.top(shortcut.reduce(states))
        else:
            of_head = head_flops(full)
            with FlopCounterMode(display=False) as counter:
                full.logits(shortcut(states))
    assert 5 * (jump_flops(shortcut) + of_head) == counter.get_total_flops()
