"""What the decoder of an encoder-decoder takes of its sources: states, a mask, and keys and values.

The encoder runs once, in full. Each block of the decoder makes keys and values of the encoder's states in the
first pass that runs it, and attends to the same ones in all later passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True)
class Sources:
    """The sources of some rows, as the encoder leaves them."""

    output: Any
    """What the encoder gives, as it calls it."""
    mask: Tensor
    """(rows, longest), int64: 0 for padding."""

    @property
    def states(self) -> Tensor:
        """(rows, longest, H): the encoder's."""
        states: Tensor = self.output[0]
        return states

    def of(self, rows: Tensor | None) -> Sources:
        """Those of some rows; of all, in their order, without `rows`."""
        if rows is None:
            return self
        return Sources(replace(self.output, last_hidden_state=self.states[rows]), self.mask[rows])


class SourceCache(Cache):  # type: ignore[misc]
    """Keys and values of the sources, in every block.

    Parameters
    ----------
    blocks : int
        L.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__(layers=[_OfSources(self) for _ in range(blocks)])
        self.rows: Tensor | None = None
        """Rows that take part in the pass, (rows,), int64; None: all, in their order."""


class _OfSources(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one block: (rows, heads, longest, width) each."""

    is_sliding = False

    def __init__(self, cache: SourceCache) -> None:
        # Past the mixin, for which keys and values are no properties.
        self._cache, self._kept = cache, (torch.empty(0), torch.empty(0))
        self.is_initialized = False

    @property
    def keys(self) -> Tensor:
        return self._of_rows(0)

    @property
    def values(self) -> Tensor:
        return self._of_rows(1)

    def _of_rows(self, index: int) -> Tensor:
        rows = self._cache.rows
        kept = self._kept[index]
        return kept if rows is None else kept[rows.to(kept.device)]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self._kept, self.is_initialized = (key_states, value_states), True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self._cache.rows is not None:
            raise ValueError("a block runs for some rows before it ran for all: it lacks sources of others")
        self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self._kept[0].shape[2] if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        return -1
