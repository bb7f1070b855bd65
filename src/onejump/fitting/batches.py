"""The samples of a step of distillation, and those that decide when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from onejump.base.amounts.distillation import held_out_of_a_level
from onejump.data.held_out import some_of
from onejump.data.store import ActivationStore
from onejump.fitting.teacher import Teacher

Batch = tuple[Tensor, Tensor, Teacher]
"""Prepared states (n, H), the number of each one's level (n,), and the teacher."""


class Batches:
    """Samples at random levels, from one shard at a time.

    Parameters
    ----------
    store : ActivationStore
    teacher : Teacher
        The teacher of all samples of the store.
    prepare : callable
        What is done to states (n, H) first.
    trained, stopping : Tensor of shape (samples,), bool
        Samples to train on, and samples that decide when to stop.
    levels : sequence of int
        Levels to draw states of. Batches number them from 0 on.
    seed : int
    device : torch.device
    weights : sequence of float, optional
        How much each of the levels counts: the odds that a sample is drawn at it. Unless given, all count
        alike.
    """

    def __init__(
        self,
        store: ActivationStore,
        teacher: Teacher,
        prepare: Callable[[Tensor], Tensor],
        *,
        trained: Tensor,
        stopping: Tensor,
        levels: Sequence[int],
        seed: int,
        device: torch.device,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._store, self._teacher, self._prepare = store, teacher, prepare
        self._levels, self._device = levels, device
        self._weights = None if weights is None else torch.tensor(weights)
        self._generator = torch.Generator().manual_seed(seed)
        self._begin = [0, *np.cumsum(store.shard_samples).tolist()[:-1]]
        self._trained = [
            trained[begin : begin + samples].nonzero()[:, 0] + begin
            for begin, samples in zip(self._begin, store.shard_samples, strict=True)
        ]
        self._stopping = some_of(stopping.nonzero()[:, 0], held_out_of_a_level(len(levels)))
        self._stopping_states = [
            torch.from_numpy(of_level) for of_level in store.rows(self._stopping.numpy(), levels)
        ]

    def steps(self, count: int, batch: int) -> Iterator[Batch]:
        """Draw the batches of a number of steps."""
        parts = [part for part, rows in enumerate(self._trained) if len(rows)]
        epochs = max(1, round(count * batch / (sum(map(len, self._trained)) * len(self._levels))))
        visits = [
            parts[i] for _ in range(epochs) for i in torch.randperm(len(parts), generator=self._generator)
        ]
        loaded, states = -1, torch.empty(0)
        for number, part in enumerate(visits):
            if part != loaded:
                states = torch.empty(0)  # frees the last shard before the next one is read
                loaded, states = part, torch.from_numpy(self._store.shard(part, self._levels))
            for _ in range(count * number // len(visits), count * (number + 1) // len(visits)):
                yield self._draw(states, part, batch)

    def stopping(self) -> Iterator[Batch]:
        """Give the samples for stopping, one level after another."""
        for number, states in enumerate(self._stopping_states):
            inputs = self._prepare(states.to(self._device))
            level = torch.full((len(self._stopping),), number, device=self._device)
            yield inputs, level, self._teacher.rows(self._stopping, self._device)

    def _draw(self, states: Tensor, part: int, batch: int) -> Batch:
        trained = self._trained[part]
        rows = trained[torch.randint(len(trained), (batch,), generator=self._generator)]
        if self._weights is None:
            level = torch.randint(len(self._levels), (batch,), generator=self._generator)
        else:
            level = torch.multinomial(self._weights, batch, replacement=True, generator=self._generator)
        drawn = states[level, rows - self._begin[part]].to(self._device)
        return self._prepare(drawn), level.to(self._device), self._teacher.rows(rows, self._device)
