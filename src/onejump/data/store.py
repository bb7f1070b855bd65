"""Reads the activation store: all shards of one split together."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onejump.base.errors import CorruptStoreError, OneJumpError
from onejump.base.format import FORMAT, KIND, MODEL_DIGEST
from onejump.base.levels import check_level
from onejump.data.shard_layout import LABELLED, PREVIOUS, REMEDY, Array, open_shard


class ActivationStore:
    """Read the samples of several shards, in the order of the paths.

    Parameters
    ----------
    paths : sequence of path
        Shards of one split.
    complete : bool
        Whether to refuse fewer shards than the split has. A shard may say how many there are.

    Attributes
    ----------
    levels, samples, hidden : int
        L + 1, the number of rows in all shards, H.
    shard_samples : list of int
        The number of rows in each shard.
    model_digest : str or None
        The identity of the model whose states these are (`onejump.models.description`), if it is known.
    labelled : bool
        Whether the samples are texts whose labels are known.
    keeps_previous : bool
        Whether the last level's states of the position before each sample are kept (`with_previous`).

    Raises
    ------
    CorruptStoreError
        If a shard is missing, damaged or not an activation shard, or if its shape is not that of the first
        one. Also if a shard comes from another extraction: from one with more shards, or from another split.
    """

    def __init__(self, paths: Sequence[str | Path], *, complete: bool = True) -> None:
        if not paths:
            raise CorruptStoreError("no activation shards were given")
        self.paths = [Path(path) for path in paths]
        self._shards = [open_shard(path) for path in self.paths]
        shapes = [shard["activations"].shape for shard in self._shards]
        rows: int
        rows, _, hidden = shapes[0]
        self.hidden: int = hidden
        for path, shape in zip(self.paths, shapes, strict=True):
            if (shape[0], shape[2]) != (rows, self.hidden):
                raise CorruptStoreError(
                    f"{path}: {shape[0]} levels of width {shape[2]}, where {self.paths[0]} has {rows} "
                    f"of width {self.hidden}: shards of one model were expected"
                )
        self.keeps_previous = bool(self._shards[0].attrs.get(PREVIOUS))
        self.levels: int = rows - (1 if self.keeps_previous else 0)
        self._beside = False
        self.model_digest: str | None = self._shards[0].attrs.get(MODEL_DIGEST)
        self.labelled = bool(self._shards[0].attrs.get(LABELLED))
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
                    "extraction were expected; delete the shards that an earlier run left"
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

    @property
    def width(self) -> int:
        """How many numbers a state of an early-exit level has: H, or 2H (`with_previous`)."""
        return 2 * self.hidden if self._beside else self.hidden

    def with_previous(self) -> ActivationStore:
        """Give the same store with the last level's state of the position before behind each early state.

        States of the early-exit levels are (n, 2H) then; those of the last level stay (n, H).

        Raises
        ------
        OneJumpError
            If the shards do not keep these states.
        """
        if not self.keeps_previous:
            raise OneJumpError(
                f"{self.paths[0].parent}: the last level's states of the position before are not kept here: "
                "a study that fits one-forward keeps them"
            )
        beside = copy.copy(self)
        beside._beside = True
        return beside

    def blocks(self, levels: Sequence[int], kept: Array | None = None) -> Iterator[tuple[Array, ...]]:
        """Go through all samples, a chunk at a time.

        Parameters
        ----------
        levels : sequence of int
        kept : ndarray of shape (samples,), bool, optional
            The samples to give; all if it is None.

        Yields
        ------
        tuple of ndarray of shape (n, H), float32
            The same samples at each of the levels; (n, width) for early-exit levels.

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
            states = self._states(shard, levels, start, stop)
            if kept is not None:
                inside = kept[passed : passed + stop - start]
                states = tuple(of_level[inside] for of_level in states)
            passed += stop - start
            yield states

    def parts(self, level: int, size: int, kept: Array | None = None) -> Iterator[tuple[slice, Array]]:
        """Go through the samples of one level, at most `size` at a time.

        Parameters
        ----------
        level, size : int
        kept : ndarray of shape (samples,), bool, optional
            The samples to give; all if it is None.

        Yields
        ------
        slice
            The place of these samples among all that are given.
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
        """One shard at these levels, or at all: ndarray (levels, samples of the shard, width), float32."""
        samples, levels = self.shard_samples[index], range(self.levels) if levels is None else levels
        for level in levels:
            check_level(level, self.levels, "activations")
        states = np.empty((len(levels), samples, self.width), np.float32)
        for number, level in enumerate(levels):
            states[number, :, : self.hidden] = self._row(index, level, 0, samples)
        if self._beside:
            states[:, :, self.hidden :] = self._row(index, self.levels, 0, samples)
        return states

    def rows(self, rows: Array, levels: Sequence[int]) -> list[Array]:
        """Some samples at some levels: for each level, an ndarray of shape (len(rows), H), float32.

        Parameters
        ----------
        rows : ndarray of int
            In rising order, counted over all shards.
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
        """One of `SAMPLE_ARRAYS`, for all samples."""
        return np.concatenate([self._of_shard(i, name) for i in range(len(self._shards))])

    def labels(self) -> Array | None:
        """The number of each sample's label, (samples,), int32; None if labels are not known."""
        return self.of_samples("token") if self.labelled else None

    def _of_shard(self, shard: int, name: str) -> Array:
        values = self._read(shard, name, np.s_[...])
        # Ids are never negative and logits are never NaN, so that the fill value shows a missing chunk.
        if bool((np.isnan(values) if values.dtype.kind == "f" else values < 0).any()):
            raise CorruptStoreError(
                f"{self.paths[shard]}: {name} is lost (its chunk file is missing): {REMEDY}"
            )
        return values

    def _chunks(self) -> Iterator[tuple[int, tuple[int, int]]]:
        for index, shard in enumerate(self._shards):
            _, samples, _ = shard["activations"].shape
            step = shard["activations"].chunks[1]
            for start in range(0, samples, step):
                yield index, (start, min(start + step, samples))

    def _states(self, shard: int, levels: Sequence[int], start: int, stop: int) -> tuple[Array, ...]:
        states = tuple(self._row(shard, level, start, stop) for level in levels)
        if not self._beside:
            return states
        previous = self._row(shard, self.levels, start, stop)
        return tuple(
            np.concatenate([of_level, previous], 1) if level < self.levels - 1 else of_level
            for level, of_level in zip(levels, states, strict=True)
        )

    def _row(self, shard: int, level: int, start: int, stop: int) -> Array:
        states = self._read(shard, "activations", np.s_[level, start:stop]).astype(np.float32, copy=False)
        # The writer gets finite values only, so that NaN shows a missing chunk. A NaN makes the sum NaN.
        if not np.isfinite(states.sum(dtype=np.float64)):
            raise CorruptStoreError(
                f"{self.paths[shard]}: samples {start} to {stop - 1} of level {level} are lost or not finite "
                f"(a chunk file is missing?): {REMEDY}"
            )
        return states

    def _read(self, shard: int, name: str, region: Any) -> Array:
        try:
            return np.asarray(self._shards[shard][name][region])
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise CorruptStoreError(
                f"{self.paths[shard]}: {name}{_shown(region)} cannot be read "
                f"({' '.join(str(error).split())[:200]}): {REMEDY}"
            ) from error


def _shown(region: Any) -> str:
    if region is Ellipsis:
        return ""
    level, rows = region
    return f" at level {level}, samples {rows.start} to {rows.stop - 1},"


def _origin(shard: Any) -> dict[str, Any]:
    """The attributes that are the same in all shards of one extraction."""
    return {name: value for name, value in shard.attrs.items() if name not in ("shard", "checksum")}


def _told(origin: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name} {value}" for name, value in origin.items() if name not in (KIND, FORMAT))
        or "no origin"
    )
