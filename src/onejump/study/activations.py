"""Sections of what is extracted from a model, how it is stored, and which documents no fit sees."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from onejump.study.messages import rule
from onejump.study.values import Empty, Section, refuse_without_effect


class Store(Section):
    """How activations are stored: in zarr v3, with one chunk for each level and `chunk_samples` samples."""

    dtype: Literal["float32", "float16"] = "float32"
    """Number format. float32 holds the activations of every model. float16 is refused if a value is beyond
    65,504."""
    keepbits: Annotated[int, Field(ge=1, le=23)] | None = 10
    """Mantissa bits that BitRound keeps: k bits leave a relative error of at most 2^-(k+1). null: all."""
    compressor: Literal["zstd", "lz4", "none"] = "zstd"
    """Codec of Blosc, which compresses the chunks after a bit shuffle."""
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
    """Number of token positions that are sampled in each sentence, each of them once."""
    special_tokens: bool = False
    """Also sample special tokens of the tokenizer, such as the start token that it puts before each sentence.
    Special tokens of a masked language model are never sampled."""
    skip_first: bool = False
    """Never sample the first token of a sentence (with special_tokens: true, the first special token). Many
    models use the state of a sequence's first token as an attention sink."""
    max_tokens: PositiveInt = 512
    """Sentences with more tokens are cut to this length."""
    top_k: Annotated[int, Field(ge=1)] = 64
    """How many of the most likely tokens of the model's own prediction are kept with each sample."""
    shard_sentences: PositiveInt = 4096
    """Sentences in a shard. Each shard is a job of its own and has a store of its own."""
    store: Annotated[Store, Empty] = Store()


class HeldOut(Section):
    """Parts of the training documents that are held out from fits. The study's seed draws them."""

    stopping: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the training documents that decides when the training of a distilled kind stops."""
    thresholds: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the training documents on which early exit chooses its thresholds."""

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.stopping + self.thresholds >= 1:
            raise rule(
                f"{self.said('stopping')}, accepted is less than 1 - thresholds = {1 - self.thresholds:g}: "
                "some documents have to be left to fit to",
                "stopping",
            )
        return self
