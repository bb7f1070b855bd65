"""Random jumps of the kinds that a study would train, and one that is kept as an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.one_forward import OneForward
from onejump.shortcuts.kinds.one_jump import OneJump as OneJumpKind
from onejump.shortcuts.kinds.shortlist import Shortlist

RANK = 3


def trained(kind: str, levels: int, hidden: int) -> list[OneJumpKind] | list[Distilled] | list[Shortlist]:
    """Give the one jump of a kind for all levels (one-jump and kin), or a distilled jump for each level."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(*shape, generator=generator) / hidden**0.5
        return drawn

    def one_jump(rank: int, of: type[OneJumpKind] = OneJumpKind, states: int = 1) -> OneJumpKind:
        shared = (normal(states * hidden, rank), normal(levels, rank), normal(rank, hidden), normal(hidden))
        return of(*shared, "rms", 1e-6, mix=normal(levels, rank, rank))

    if kind == "one-jump":
        return [one_jump(RANK)]
    if kind == "one-forward":
        return [one_jump(RANK, OneForward, states=2)]
    if kind in ("shortlist", "one-residual"):
        weights = torch.linspace(0.2, 2, 2 * levels).view(levels, 2)
        return [Shortlist(one_jump(RANK), weights, 8, one_jump(2) if kind == "one-residual" else None)]
    return [
        Distilled(normal(hidden, RANK), normal(RANK), normal(RANK, hidden), normal(hidden), "rms", 1e-6)
        for _ in range(levels)
    ]


def keep_jump(folder: Path, model: Path, rank: int, gates: dict[str, Any]) -> None:
    """Keep a jump of a saved model that leaves out all but some random directions of a state."""
    from onejump.models.loading import load_model
    from onejump.shortcuts.kinds.njtc import NJTC

    transformer = load_model(str(model), device="cpu")
    directions = _directions(transformer.hidden, rank)
    _keep(folder, model, transformer, NJTC(directions, directions.T), gates, method="ojfa", level=2)


def keep_forward_jump(folder: Path, model: Path, rank: int) -> None:
    """Keep a forward jump of a saved model: some random directions of the state and of the one before.

    It has no calibrated gate.
    """
    from onejump.models.loading import load_model

    transformer = load_model(str(model), device="cpu")
    hidden, levels = transformer.hidden, len(transformer.blocks)
    directions = _directions(hidden, rank)
    down = torch.cat([0.5 * directions, directions])
    norm = transformer.head.config.norm
    shortcut = OneForward(down, torch.zeros(levels, rank), directions.T, torch.zeros(hidden), norm, 1e-6)
    _keep(folder, model, transformer, shortcut, {}, method="one-forward", level=None)


def _directions(hidden: int, rank: int) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(3)
    found: torch.Tensor = torch.linalg.qr(torch.randn(hidden, rank, generator=drawn)).Q
    return found


def _keep(
    folder: Path, model: Path, transformer: Any, shortcut: Any, gates: dict[str, Any], **named: Any
) -> None:
    from onejump.runtime.artefact import OneJump
    from onejump.runtime.jump_config import JumpConfig
    from onejump.runtime.weight_hash import weight_hashes

    head = transformer.head
    config = JumpConfig(
        **named,
        kind=shortcut.kind,
        rank=shortcut.down.shape[1],
        base_model=model.name,
        architecture=type(transformer.model).__name__,
        causal=transformer.task == "causal",
        task=transformer.task,
        blocks=len(transformer.blocks),
        hidden=head.hidden,
        vocabulary=head.vocabulary,
        norm=head.config.norm,
        unembedding=weight_hashes(head.unembedding, "float32"),
        study="tiny",
        model=model.name,
        corpus="random",
        gates=gates,
    )
    OneJump(config, shortcut).save_pretrained(folder)
