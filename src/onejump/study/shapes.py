"""The section of shapes of a model that is not at hand: what an exit costs is measured on random weights."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from onejump.study.messages import rule
from onejump.study.values import Section


class Shapes(Section):
    """Shapes of a model of the Llama family, measured on random weights."""

    blocks: PositiveInt
    """Blocks, L. One is measured and counts L times."""
    hidden: PositiveInt
    """Hidden size H."""
    feed_forward: PositiveInt
    """Width inside the feed-forward network."""
    heads: PositiveInt
    """Heads of attention."""
    key_heads: PositiveInt | None = None
    """Heads of keys and values. null: as many as heads of attention."""
    vocabulary: PositiveInt
    """Tokens of the vocabulary, V."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the block. Jumps and heads compute in float32."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        for key, number, whole in (
            ("heads", self.heads, self.hidden),
            ("key_heads", self.key_heads or self.heads, self.heads),
        ):
            if whole % number:
                raise rule(f"{number} given, accepted is a divisor of {whole}", key)
        if self.hidden // self.heads % 2:
            raise rule(f"{self.heads} given, but H / heads has to be even, for rotary positions", "heads")
        return self


LLAMA_2_7B = Shapes(blocks=32, hidden=4096, feed_forward=11_008, heads=32, vocabulary=32_000)
