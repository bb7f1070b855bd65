"""Sections of what is extracted from a model, how it is stored, and which documents no fit sees."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from onejump.study.messages import rule
from onejump.study.values import Empty, Section, refuse_without_effect


class Store(Section):
    """How activations lie on disk: zarr v3, one chunk per level and `chunk_samples` samples."""

    dtype: Literal["float32", "float16"] = "float32"
    """float32 holds every model's activations; float16 is refused when a value is beyond 65,504."""
    keepbits: Annotated[int, Field(ge=1, le=23)] | None = 10
    """Mantissa bits kept by BitRound: k bits leave a relative error of at most 2^-(k+1). null: all."""
    compressor: Literal["zstd", "lz4", "none"] = "zstd"
    """Blosc codec behind a bit shuffle."""
    compression_level: Annotated[int, Field(ge=0, le=9)] = 1
    """Blosc's compression level."""
    chunk_samples: PositiveInt = 512
    """Samples in one chunk."""

    @model_validator(mode="after")
    def _mantissa(self) -> Self:
        if self.dtype == "float16" and self.keepbits is not None and self.keepbits > 10:
            raise rule(f"{self.said('keepbits')}, accepted is at most 10 for float16", "keepbits")
        if self.compressor == "none":
            refuse_without_effect(self, ("compression_level",), "with compressor: none")
        return self


class Activations(Section):
    """What is extracted from the model."""

    positions: PositiveInt = 1
    """Token positions sampled in each sentence, without repetition."""
    special_tokens: bool = False
    """Sample special tokens of the tokenizer too, such as the start token that it puts before each sentence.
    Those of a masked model are never sampled."""
    skip_first: bool = False
    """Never sample the first token of those that may be sampled, which is the text's own first one unless
    special_tokens is true: many models use the state of a sequence's first token as an attention sink."""
    max_tokens: PositiveInt = 512
    """Longer sentences are cut."""
    top_k: Annotated[int, Field(ge=1)] = 64
    """Most likely tokens of the final distribution kept with each sample."""
    shard_sentences: PositiveInt = 4096
    """Sentences in a shard; every shard is a job of its own, with a store of its own."""
    store: Annotated[Store, Empty] = Store()
    """How they lie on disk."""


class HeldOut(Section):
    """Training documents that shortcuts are not fitted to, drawn by the study's seed."""

    stopping: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of the training documents that says when the training of a distilled kind stops."""
    thresholds: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of the training documents that early exit chooses its thresholds on."""

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.stopping + self.thresholds >= 1:
            raise rule(
                f"{self.said('stopping')}, accepted is less than 1 - thresholds = {1 - self.thresholds:g}: "
                "some documents have to be left to fit to",
                "stopping",
            )
        return self
