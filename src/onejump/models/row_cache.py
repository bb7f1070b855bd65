"""The key/value cache of sequences that grow at different speeds.

Each row of the cache is one sequence. The keys and values of a token lie in a column of its row, and whoever
runs a pass says in which one. Tokens are taken back by writing over their columns later: nothing is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache

from onejump.models.source_cache import SourceCache, Sources

# Columns that the buffers grow by at least.
_MORE_COLUMNS = 64


class KeysKept(Exception):
    """A block's keys and values were kept, and nothing else of the block is wanted."""


@dataclass(frozen=True)
class Place:
    """Where a pass over n tokens of some rows writes keys and values, and which of them each token sees.

    Without `positions`, all rows of the cache take part, and their tokens stand in the columns `start` to
    `start + n - 1`. The model then makes its own mask: each token sees all columns up to its own.
    """

    start: int
    """Columns that the model's own mask takes as filled before the pass."""
    columns: Tensor | None = None
    """Columns of the tokens, (rows, n), int64; None: `start` and those behind it, in all rows."""
    length: int = 0
    """Columns to look at, where `columns` are given."""
    rows: Tensor | None = None
    """Rows of the cache that take part, (rows,), int64; None: all, in their order."""
    positions: Tensor | None = None
    """Positions of the tokens in their sequences, (rows, n), int64; needed with `columns`."""
    key_positions: Tensor | None = None
    """Positions of all columns, (rows, length), int64; None: a column's number is its position."""
    visible: Tensor | None = None
    """Whether a token sees a column, (rows, n, length), besides what the model's own mask hides."""


class RowCache(Cache):  # type: ignore[misc]
    """Keys and values of every block, in preallocated buffers.

    `onejump.models.passes` says before each pass where its tokens stand.

    Parameters
    ----------
    blocks : int
        L.
    rows : int
        Sequences.
    columns : int
        Columns to begin with. The buffers grow when more are needed.
    sources : Sources, optional
        What the rows of an encoder-decoder are made from.
    """

    def __init__(
        self, blocks: int, rows: int = 1, columns: int = _MORE_COLUMNS, sources: Sources | None = None
    ) -> None:
        super().__init__(layers=[_Columns(self) for _ in range(blocks)])
        self.rows, self.first_columns = rows, columns
        self.place, self.keys_only = Place(0), False
        self.sources = sources
        self.shared: Tensor | None = None
        """What the first block makes of places for all others (`onejump.models.pass_views.Shared`)."""
        self._of_sources = None if sources is None else SourceCache(blocks)
        self.for_model: Cache = self
        """What the model takes: this cache, or one that holds the sources' keys and values besides."""
        if self._of_sources is not None:
            self.for_model = EncoderDecoderCache(self, self._of_sources)

    def begin(self, place: Place, *, keys_only: bool = False) -> None:
        """Say where the tokens of the next pass stand.

        Parameters
        ----------
        place : Place
        keys_only : bool
            Raise `KeysKept` once a block's keys and values were kept.
        """
        self.place, self.keys_only = place, keys_only
        if self._of_sources is not None:
            self._of_sources.rows = place.rows

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep keys and values of a block (rows, heads, n, width), and give all that its tokens see.

        Raises
        ------
        KeysKept
            If `keys_only` is set.
        """
        kept: tuple[Tensor, Tensor] = self.layers[layer_idx].update(key_states, value_states)
        if self.keys_only:
            raise KeysKept
        return kept

    def _keeps_a_state(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError("a block keeps a running state in the place of keys and values (linear attention)")

    get_conv_state = update_conv_state = get_recurrent_state = update_recurrent_state = _keeps_a_state

    def update_indexer(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse what blocks keep that choose by an index which tokens to attend to.

        Raises
        ------
        ValueError
        """
        raise ValueError("a block keeps an index besides keys and values (sparse attention)")

    def move(self, rows: Tensor, sources: Tensor, targets: Tensor) -> None:
        """Copy keys and values to other columns, in all blocks.

        Parameters
        ----------
        rows, sources, targets : Tensor of shape (n,), int64
            Of row `rows[i]`, column `sources[i]` goes to column `targets[i]`. All are read before any is
            written.
        """
        for layer in self.layers:
            if layer.is_initialized:
                for kept in (layer.keys, layer.values):
                    kept[rows, :, targets] = kept[rows, :, sources]


class _Columns(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one block: (rows, heads, columns, width) each."""

    is_sliding = False
    # What transformers asks of a layer, besides the numbers.
    is_compileable = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._empty(key_states, self._cache.first_columns)
        self.values = self._empty(value_states, self._cache.first_columns)
        self.is_initialized = True

    def _empty(self, like: Tensor, columns: int) -> Tensor:
        # Zeros: a masked column still takes part in products, where what memory holds might not be finite.
        return like.new_zeros((self._cache.rows, like.shape[1], columns, like.shape[3]))

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        place = self._cache.place
        new = key_states.shape[2]
        length = place.start + new if place.columns is None else place.length
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        if length > self.keys.shape[2]:
            columns = max(length + _MORE_COLUMNS, 2 * self.keys.shape[2])
            self.keys, self.values = self._grown(self.keys, columns), self._grown(self.values, columns)
        if place.columns is None:
            self.keys.narrow(2, place.start, new).copy_(key_states)
            self.values.narrow(2, place.start, new).copy_(value_states)
            return self.keys.narrow(2, 0, length), self.values.narrow(2, 0, length)
        device = self.keys.device
        columns_of = place.columns.to(device)
        rows = torch.arange(len(self.keys), device=device) if place.rows is None else place.rows.to(device)
        self.keys[rows[:, None], :, columns_of] = key_states.transpose(1, 2)
        self.values[rows[:, None], :, columns_of] = value_states.transpose(1, 2)
        if place.rows is None:
            return self.keys.narrow(2, 0, length), self.values.narrow(2, 0, length)
        return self.keys[rows, :, :length], self.values[rows, :, :length]

    def _grown(self, kept: Tensor, columns: int) -> Tensor:
        grown = self._empty(kept, columns)
        grown[:, :, : kept.shape[2]] = kept
        return grown

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        place = self._cache.place
        return (place.start + query_length if place.columns is None else place.length), 0

    def get_seq_length(self) -> int:
        return self._cache.place.start

    def get_max_length(self) -> int:
        return -1
