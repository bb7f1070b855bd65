"""The score matrix against the matrix products it needs, and against the loop that makes every prediction."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from measure import at_least, at_most, ratio, seconds

from onejump.base.scores import OF_STATES, SIGNED_SQUARED_COSINE
from onejump.data.shard_layout import Array
from onejump.data.store import ActivationStore
from onejump.scoring.scores import score_matrix
from onejump.shortcuts.kinds.n_njtc import NNJTC

LEVELS, HIDDEN, RANK, SAMPLES, CHUNK, ROUNDS = 30, 576, 5, 9000, 512, 7


class InMemory:
    """A store without its disk, so that arithmetic is compared with arithmetic."""

    levels, hidden, samples = LEVELS + 1, HIDDEN, SAMPLES

    def __init__(self, states: Array) -> None:
        self.chunks = [
            np.ascontiguousarray(states[:, start : start + CHUNK]) for start in range(0, SAMPLES, CHUNK)
        ]

    def blocks(self, levels: Sequence[int]) -> Iterator[tuple[Array, ...]]:
        for chunk in self.chunks:
            yield tuple(chunk[level] for level in levels)


def random_jump(generator: torch.Generator) -> NNJTC:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return NNJTC(
        normal(HIDDEN, RANK),
        normal(RANK, HIDDEN),
        1 + 0.1 * normal(HIDDEN),
        normal(HIDDEN),
        normal(HIDDEN),
        normal(HIDDEN).square() + 0.1,
    )


@torch.inference_mode()
def products(store: InMemory, down: torch.Tensor) -> None:
    """Each level's activations times all A's."""
    for *states, _ in store.blocks(range(store.levels)):
        for level in states:
            torch.from_numpy(level) @ down


@torch.inference_mode()
def double_loop(states: torch.Tensor, jumps: Sequence[NNJTC]) -> torch.Tensor:
    """The definition of D_m: every jump's prediction at every level, in float32."""
    scores = torch.zeros(len(jumps), LEVELS)
    for m, jump in enumerate(jumps):
        for level in range(LEVELS):
            cosine = torch.nn.functional.cosine_similarity(jump(states[level]), states[-1], dim=-1)
            scores[m, level] = (cosine.sign() * cosine.square()).sum()
    return scores


def main() -> None:
    states = np.random.default_rng(0).normal(size=(LEVELS + 1, SAMPLES, HIDDEN)).astype(np.float32)
    generator = torch.Generator().manual_seed(0)
    jumps = [random_jump(generator) for _ in range(LEVELS)]
    down = torch.cat([jump.down for jump in jumps], 1)
    store = InMemory(states)
    ours = cast(ActivationStore, store)
    work: dict[str, Any] = {
        "ours": lambda: score_matrix(ours, jumps),
        "products": lambda: products(store, down),
    }
    seconds(work, 1)
    taken = seconds(work, ROUNDS)
    start = time.perf_counter()
    expected = double_loop(torch.from_numpy(states), jumps)
    loop = time.perf_counter() - start
    scores = score_matrix(ours, jumps)[OF_STATES.index(SIGNED_SQUARED_COSINE)]
    apart = float((scores - expected).abs().max() / expected.abs().max())
    gflops = 2e-9 * SAMPLES * HIDDEN * RANK * LEVELS * LEVELS / min(taken["products"])
    note = f"{min(taken['ours']):.2f} s; products alone at {gflops:.0f} GFLOPS"
    at_most("score matrix / its matrix products", ratio(taken["ours"], taken["products"]), 1.5, note)
    at_least("double loop / score matrix", loop / min(taken["ours"]), 20, f"same numbers to {apart:.0e}")


if __name__ == "__main__":
    main()
