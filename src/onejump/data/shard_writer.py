"""Writes an activation shard, chunk after chunk, in a separate thread."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.numcodecs import BitRound

from onejump.base.format import FORMAT, KIND, check_keys
from onejump.data.shard_layout import (
    ACTIVATIONS,
    ORIGIN,
    SAMPLE_ARRAYS,
    Array,
    description_checksum,
    storable,
)


@dataclass(frozen=True)
class StoreOptions:
    """How activations are stored on disk."""

    dtype: Literal["float32", "float16"] = "float32"
    """Number format."""
    keepbits: int | None = 10
    """How many mantissa bits are kept; None keeps all."""
    compressor: Literal["zstd", "lz4", "none"] = "zstd"
    """Blosc codec."""
    compression_level: int = 1
    """Level of the codec, 0 to 9."""
    chunk_samples: int = 512
    """Samples in a chunk."""


DEFAULT_STORE = StoreOptions()


class ShardWriter:
    """Write one shard. Rows go into a buffer of one chunk; a thread compresses and writes each full chunk.

    Parameters
    ----------
    path : Path
        A folder that does not exist yet.
    levels, samples, hidden, top_k : int
        L + 1, the number of rows that will be appended, H, and how many of the most likely tokens are kept.
    options : StoreOptions
    attributes : mapping
        Where the shard comes from; the keys are among `onejump.data.shard_layout.ORIGIN`. "shard" is the
        number of this shard and "shards" how many there are. If they are given, `ActivationStore` reads
        either all shards or none.

    Attributes
    ----------
    storable : Storable
        The number format. The caller has to make sure that the values fit it: the writer does not check.
    """

    def __init__(
        self,
        path: Path,
        *,
        levels: int,
        samples: int,
        hidden: int,
        top_k: int,
        options: StoreOptions = DEFAULT_STORE,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.storable = storable(options.dtype, options.keepbits)
        self._samples = samples
        self._chunk = min(options.chunk_samples, samples)
        stated = {**ACTIVATIONS.statement(), **(attributes or {})}
        check_keys(path, stated, (KIND, FORMAT), ORIGIN)
        group = zarr.create_group(path)
        packing = []
        if options.compressor != "none":
            packing = [
                BloscCodec(
                    cname=options.compressor,
                    clevel=options.compression_level,
                    shuffle="bitshuffle",
                    typesize=np.dtype(options.dtype).itemsize,
                )
            ]
        self._activations: Any = group.create_array(
            "activations",
            shape=(levels, samples, hidden),
            chunks=(1, self._chunk, hidden),
            dtype=options.dtype,
            # A chunk that is lost is read as NaN, which the reader refuses.
            fill_value=float("nan"),
            filters=[] if options.keepbits is None else [BitRound(keepbits=options.keepbits)],
            compressors=[*packing, Crc32cCodec()],
        )
        self._of_samples: dict[str, Any] = {}
        for name, kind in SAMPLE_ARRAYS.items():
            shape = (samples, top_k) if name.startswith("top_") else (samples,)
            self._of_samples[name] = group.create_array(
                name,
                shape=shape,
                chunks=shape,
                dtype=kind,
                fill_value=float("nan") if kind is np.float32 else -1,
                compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()],
            )
        group.attrs.update({**stated, "checksum": description_checksum(path, stated)})
        self._kept = {name: np.empty(array.shape, array.dtype) for name, array in self._of_samples.items()}
        self._levels, self._hidden, self._dtype = levels, hidden, options.dtype
        self._buffer = self._fresh_buffer()
        self._filled = 0
        self._written = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shard-writer")
        self._pending: Future[None] | None = None

    def append(self, activations: Array, **of_samples: Array) -> None:
        """Add rows.

        Parameters
        ----------
        activations : ndarray of shape (levels, n, H)
        **of_samples : ndarray of shape (n,) or (n, k)
            One for each name in SAMPLE_ARRAYS.
        """
        so_far = self._written + self._filled
        for name, kept in self._kept.items():
            kept[so_far : so_far + activations.shape[1]] = of_samples[name]
        done = 0
        while done < activations.shape[1]:
            take = min(self._chunk - self._filled, activations.shape[1] - done)
            self._buffer[:, self._filled : self._filled + take] = activations[:, done : done + take]
            self._filled += take
            done += take
            if self._filled == self._chunk:
                self._flush()

    def close(self) -> None:
        """Write what is left in the buffer, and wait until all is written."""
        if self._filled:
            self._flush()
        self._wait()
        if self._written != self._samples:
            raise ValueError(f"{self._samples} samples were announced, {self._written} were appended")
        # This runs in the thread too: after an error or a signal, __exit__ waits for the thread, so that
        # nothing is written after it.
        self._pending = self._thread.submit(self._write_samples)
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _fresh_buffer(self) -> Array:
        return np.empty((self._levels, self._chunk, self._hidden), self._dtype)

    def _flush(self) -> None:
        # One chunk is compressed while the next one fills, so that there are never more than two buffers.
        self._wait()
        start, stop = self._written, self._written + self._filled
        self._pending = self._thread.submit(self._write, self._buffer, start, stop)
        self._written = stop
        self._buffer = self._fresh_buffer()
        self._filled = 0

    def _write(self, buffer: Array, start: int, stop: int) -> None:
        for level in range(self._levels):
            self._activations[level, start:stop] = buffer[level, : stop - start]

    def _write_samples(self) -> None:
        for name, array in self._of_samples.items():
            array[...] = self._kept[name]

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
