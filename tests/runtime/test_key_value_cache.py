"""The cache is exact: after any exits and catch-ups, keys and values are those of a plain run."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from families import GENERATING, VOCABULARY, generating
from random_exits import Drawn, drawn_gate, padded, prompt
from torch import Tensor
from transformers import DynamicCache

from onejump.models.row_cache import RowCache
from onejump.runtime.early_exit import EarlyExit
from onejump.shortcuts.kinds.identity import Identity

# Besides: blocks that return a tuple, windows in all or some blocks.
FAMILIES = (*GENERATING, "FalconForCausalLM", "GPTJForCausalLM", "MinistralForCausalLM", "GPTNeoForCausalLM")
LENGTHS = (9, 1, 5)


class Watched(RowCache):
    """A cache that begins small and counts the candidates that were moved."""

    def __init__(self, blocks: int, rows: int = 1, columns: int = 64) -> None:
        super().__init__(blocks, rows, min(columns, 4))
        self.moved = 0

    def move(self, rows: Tensor, sources: Tensor, targets: Tensor) -> None:
        self.moved += len(rows)
        super().move(rows, sources, targets)


@torch.inference_mode()
def plain(model: Any, text: list[int]) -> DynamicCache:
    """Keys and values of all tokens of a text, also of those that a window has left behind."""
    cache = DynamicCache()
    model(torch.tensor([text]), past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_and_values_are_those_of_a_plain_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # In double precision: what rounds is a norm or softmax that a family computes in single precision.
    exits = EarlyExit(generating(name).double(), Identity(), gate=None, packed=False)
    model, blocks = exits.transformer.model, exits.passes.blocks
    caches: list[Watched] = []

    def watched(rows: int = 1, columns: int = 64, sources: None = None) -> Watched:
        caches.append(Watched(blocks, rows, columns))
        return caches[-1]

    trees = exits.passes.rows_differ  # tried out here, with a cache of its own
    monkeypatch.setattr(exits.passes, "cache", watched)
    drawn, accepted, moved = random.Random(name), 0, 0
    for seed in range(8):
        exits.mode = "trusted" if seed % 4 == 3 else "verified"
        exits.gate = drawn_gate(drawn, range(blocks), VOCABULARY)
        exits.policy = Drawn(seed, exits.gate.levels, widths=(1, 3, 24))
        prompts = [prompt(length, 10 * seed + length) for length in LENGTHS]
        tokens, mask = padded(prompts, drawn.choice(["left", "right"]))
        caches.clear()
        # Texts that end after any round: whatever was pending has been caught up with.
        found = exits.generate(tokens, attention_mask=mask, max_new_tokens=drawn.randint(2, 16))
        accepted, moved = accepted + found.accepted, moved + sum(cache.moved for cache in caches)
        rows = [(cache, row) for cache in caches for row in range(cache.rows)]
        for (cache, row), given, new in zip(rows, prompts, found.new_tokens, strict=True):
            text = [*given[0].tolist(), *new[:-1]]  # the last token is not run
            for ours, theirs in zip(cache.layers, plain(model, text).layers, strict=True):
                for mine, own in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
                    scale = float(own.abs().max())
                    kept = mine[row, :, : len(text)]
                    torch.testing.assert_close(kept, own[0], rtol=1e-3, atol=1e-4 * scale)
    assert accepted > 0
    assert moved > 0 or not trees
