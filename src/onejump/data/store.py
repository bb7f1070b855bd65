"""The activation store: zarr v3, a group per shard, written once by one writer.

A shard holds `activations` (levels, samples, H), chunked one level and `chunk_samples` samples at a time so
that a level reads contiguously, and for each sample what later stages need of the teacher:

| array | shape | what it is |
|---|---|---|
| `sentence` | (samples,) | the sentence's id in the corpus table |
| `position` | (samples,) | the token's position in the sentence |
| `token` | (samples,) | the token's id |
| `top_tokens` | (samples, k) | most likely tokens of the final distribution, best first |
| `top_logits` | (samples, k) | their logits |
| `logsumexp` | (samples,) | of all V final logits |

Every chunk ends in a CRC-32C checksum. The shard's attributes hold one over the descriptions of its arrays
(their zarr.json) and over the other attributes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.numcodecs import BitRound

from onejump.base.errors import CorruptStoreError
from onejump.base.levels import check_level

# BitRound beyond the zarr v3 core specification is this store's documented choice, no news to its users.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")

Array = NDArray[Any]

FORMAT = "onejump-activations-2"
SAMPLE_ARRAYS = {
    "sentence": np.int64,
    "position": np.int32,
    "token": np.int32,
    "top_tokens": np.int32,
    "top_logits": np.float32,
    "logsumexp": np.float32,
}


_REMEDY = "delete this shard and run snakemake again"


class Storable(NamedTuple):
    """What a store's numbers can be."""

    name: str
    """The dtype, and the mantissa bits kept."""
    largest: float
    """Largest value that is finite after rounding."""


def storable(dtype: str, keepbits: int | None) -> Storable:
    """What can be stored; BitRound rounds all beyond the largest number of so few bits up, to infinity."""
    numbers = np.finfo(dtype)
    if keepbits is None or keepbits >= numbers.nmant:
        return Storable(dtype, float(numbers.max))
    return Storable(
        f"{dtype} with {keepbits} mantissa bits", (2 - 2.0**-keepbits) * 2.0 ** int(numbers.maxexp - 1)
    )


class ShardWriter:
    """Write one shard: rows go into a buffer of one chunk, and full chunks to a thread that packs them.

    Parameters
    ----------
    path : Path
        A folder that does not exist yet.
    levels, samples, hidden, top_k : int
        L + 1, rows to come, H, and most likely tokens kept.
    dtype : {"float32", "float16"}
    keepbits : int or None
        Mantissa bits kept.
    compressor : {"zstd", "lz4", "none"}
    compression_level : int
    chunk_samples : int
    attributes : dict
        Kept with the shard: where it comes from. Where they have "shard" and "shards" (which one of how many
        it is), `ActivationStore` reads all of them or none.

    Attributes
    ----------
    storable : Storable
        What the values given have to be: the writer does not look at them.
    """

    def __init__(
        self,
        path: Path,
        *,
        levels: int,
        samples: int,
        hidden: int,
        top_k: int,
        dtype: str = "float32",
        keepbits: int | None = 10,
        compressor: str = "zstd",
        compression_level: int = 1,
        chunk_samples: int = 512,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        self.storable = storable(dtype, keepbits)
        self._samples = samples
        self._chunk = min(chunk_samples, samples)
        about = {"format": FORMAT, **(attributes or {})}
        group = zarr.create_group(path)
        packing = []
        if compressor != "none":
            width = np.dtype(dtype).itemsize
            packing = [
                BloscCodec(cname=compressor, clevel=compression_level, shuffle="bitshuffle", typesize=width)
            ]
        self._activations: Any = group.create_array(
            "activations",
            shape=(levels, samples, hidden),
            chunks=(1, self._chunk, hidden),
            dtype=dtype,
            # A lost chunk reads as NaN, which the reader refuses.
            fill_value=float("nan"),
            filters=[] if keepbits is None else [BitRound(keepbits=keepbits)],
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
        group.attrs.update({**about, "checksum": _checksum(path, about)})
        self._kept = {name: np.empty(array.shape, array.dtype) for name, array in self._of_samples.items()}
        self._levels, self._hidden, self._dtype = levels, hidden, dtype
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
        """Write what is left and wait for the disk."""
        if self._filled:
            self._flush()
        self._wait()
        if self._written != self._samples:
            raise ValueError(f"{self._samples} samples were announced, {self._written} were appended")
        # In the thread too: whoever breaks off the writing waits for the thread, and then nothing is written.
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
        # One chunk is packed while the next one fills: two buffers, never more.
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


class ActivationStore:
    """Read shards as one: samples of all shards, in the order of the paths.

    Parameters
    ----------
    paths : sequence of path
        Shards of one split.
    complete : bool
        Whether to refuse some of a split's shards, where they know how many there are.

    Attributes
    ----------
    levels, samples, hidden : int
        L + 1, rows in all shards, H.
    shard_samples : list of int
        Rows in each shard.

    Raises
    ------
    CorruptStoreError
        If a shard is missing, damaged, no activation shard, of another shape than the first, or of another
        extraction: one that was left when there were more shards, or another split's.
    """

    def __init__(self, paths: Sequence[str | Path], *, complete: bool = True) -> None:
        if not paths:
            raise CorruptStoreError("no activation shards were given")
        self.paths = [Path(path) for path in paths]
        self._shards = [_open(path) for path in self.paths]
        shapes = [shard["activations"].shape for shard in self._shards]
        self.levels, _, self.hidden = shapes[0]
        for path, shape in zip(self.paths, shapes, strict=True):
            if (shape[0], shape[2]) != (self.levels, self.hidden):
                raise CorruptStoreError(
                    f"{path}: {shape[0]} levels of width {shape[2]}, where {self.paths[0]} has {self.levels} "
                    f"of width {self.hidden}: shards of one model were expected"
                )
        self._check_origins(complete)
        self.shard_samples: list[int] = [shape[1] for shape in shapes]
        self.samples = sum(self.shard_samples)

    def _check_origins(self, complete: bool) -> None:
        origins = [_origin(shard) for shard in self._shards]
        numbers = [shard.attrs.get("shard") for shard in self._shards]
        for path, origin, number in zip(self.paths, origins, numbers, strict=True):
            if origin != origins[0]:
                raise CorruptStoreError(
                    f"{path} is of {_told(origin)}, {self.paths[0]} of {_told(origins[0])}: shards of one "
                    "extraction were expected; delete what an earlier run left"
                )
            if number is not None and numbers.count(number) > 1:
                raise CorruptStoreError(f"{path}: shard {number} was given more than once")
        if complete and None not in numbers:
            missing = sorted(set(range(origins[0]["shards"])) - set(numbers))
            if missing:
                raise CorruptStoreError(
                    f"{self.paths[0].parent}: {len(numbers)} of {origins[0]['shards']} shards were given, "
                    f"number {', '.join(map(str, missing))} is missing: run snakemake again"
                )

    def blocks(self, levels: Sequence[int], kept: Array | None = None) -> Iterator[tuple[Array, ...]]:
        """Go through all samples, a chunk at a time.

        Parameters
        ----------
        levels : sequence of int
        kept : ndarray of shape (samples,), bool, optional
            Which samples; all unless given.

        Yields
        ------
        tuple of ndarray of shape (n, H), float32
            The same samples at each of the levels.

        Raises
        ------
        CorruptStoreError
            If a chunk fails its checksum or is lost.
        OneJumpError
            If there is no such level.
        """
        for level in levels:
            check_level(level, self.levels, "activations")
        passed = 0
        for shard, (start, stop) in self._chunks():
            states = tuple(self._states(shard, level, start, stop) for level in levels)
            if kept is not None:
                inside = kept[passed : passed + stop - start]
                states = tuple(of_level[inside] for of_level in states)
            passed += stop - start
            yield states

    def parts(self, level: int, size: int, kept: Array | None = None) -> Iterator[tuple[slice, Array]]:
        """Go through the samples of one level, at most so many at a time.

        Parameters
        ----------
        level, size : int
        kept : ndarray of shape (samples,), bool, optional
            Which samples; all unless given.

        Yields
        ------
        slice
            Where these are among all that are kept.
        ndarray of shape (n, H), float32
        """
        passed = 0
        for (block,) in self.blocks([level], kept):
            for start in range(0, len(block), size):
                states = block[start : start + size]
                yield slice(passed, passed + len(states)), states
                passed += len(states)

    def level(self, level: int) -> Array:
        """All samples at one level: ndarray of shape (samples, H), float32."""
        return np.concatenate([states for (states,) in self.blocks([level])])

    def shard(self, index: int, levels: Sequence[int] | None = None) -> Array:
        """One shard at some levels, or at all: ndarray (levels, samples of the shard, H), float32."""
        samples, levels = self.shard_samples[index], range(self.levels) if levels is None else levels
        for level in levels:
            check_level(level, self.levels, "activations")
        states = np.empty((len(levels), samples, self.hidden), np.float32)
        for number, level in enumerate(levels):
            states[number] = self._states(index, level, 0, samples)
        return states

    def rows(self, rows: Array, levels: Sequence[int]) -> list[Array]:
        """Some samples at some levels: an ndarray of shape (len(rows), H) each, float32.

        Parameters
        ----------
        rows : ndarray of int
            Rising, counted over all shards.
        levels : sequence of int
        """
        found: list[list[Array]] = [[] for _ in levels]
        start = 0
        for block in self.blocks(levels):
            inside = rows[(rows >= start) & (rows < start + len(block[0]))] - start
            for of_level, states in zip(found, block, strict=True):
                of_level.append(states[inside])
            start += len(block[0])
        return [np.concatenate(of_level) for of_level in found]

    def of_samples(self, name: str) -> Array:
        """One of SAMPLE_ARRAYS for all samples."""
        return np.concatenate([self._of_shard(i, name) for i in range(len(self._shards))])

    def _of_shard(self, shard: int, name: str) -> Array:
        values = self._read(shard, name, np.s_[...])
        # Ids are not negative and logits are numbers, so the fill value is a chunk that is not there.
        if bool((np.isnan(values) if values.dtype.kind == "f" else values < 0).any()):
            raise CorruptStoreError(
                f"{self.paths[shard]}: {name} is lost (its chunk file is missing): {_REMEDY}"
            )
        return values

    def _chunks(self) -> Iterator[tuple[int, tuple[int, int]]]:
        for index, shard in enumerate(self._shards):
            _, samples, _ = shard["activations"].shape
            step = shard["activations"].chunks[1]
            for start in range(0, samples, step):
                yield index, (start, min(start + step, samples))

    def _states(self, shard: int, level: int, start: int, stop: int) -> Array:
        states = self._read(shard, "activations", np.s_[level, start:stop]).astype(np.float32, copy=False)
        # The writer gets finite values, so NaN is a chunk that is not there. A sum meets every value once.
        if not np.isfinite(states.sum(dtype=np.float64)):
            raise CorruptStoreError(
                f"{self.paths[shard]}: samples {start} to {stop - 1} of level {level} are lost or not finite "
                f"(a chunk file is missing?): {_REMEDY}"
            )
        return states

    def _read(self, shard: int, name: str, region: Any) -> Array:
        try:
            return np.asarray(self._shards[shard][name][region])
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise CorruptStoreError(
                f"{self.paths[shard]}: {name}{_shown(region)} cannot be read "
                f"({' '.join(str(error).split())[:200]}): {_REMEDY}"
            ) from error


def _shown(region: Any) -> str:
    if region is Ellipsis:
        return ""
    level, rows = region
    return f" at level {level}, samples {rows.start} to {rows.stop - 1},"


def _origin(shard: Any) -> dict[str, Any]:
    """What all shards of one extraction say of themselves."""
    return {name: value for name, value in shard.attrs.items() if name not in ("shard", "checksum")}


def _told(origin: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in origin.items() if name != "format") or "no origin"


def _checksum(path: Path, about: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=32)
    for name in ("activations", *SAMPLE_ARRAYS):
        digest.update((path / name / "zarr.json").read_bytes())
    return digest.hexdigest()


def _open(path: Path) -> Any:
    try:
        group = zarr.open_group(path, mode="r")
        about = dict(group.attrs)
        whole = about.pop("checksum", None) == _checksum(path, about) and about.get("format") == FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(
            f"{path}: not an activation shard ({' '.join(str(error).split())[:200]}): {_REMEDY}"
        ) from error
    if not whole:
        raise CorruptStoreError(
            f"{path}: not a whole activation shard of format {FORMAT} (it is damaged, or an older onejump "
            f"wrote it): {_REMEDY}"
        )
    return group
