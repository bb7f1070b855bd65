"""The section of a model that begins with random weights, to be trained by a tuned model of the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from onejump.study.messages import rule
from onejump.study.values import Name, Section

if TYPE_CHECKING:
    from onejump.study.sources import Corpus, Model


class Untrained(Section):
    """A small encoder-decoder with random weights, and a tokenizer that is trained on the study's pairs.

    A tuned model of the study can be trained from it.
    """

    corpus: Name
    """The corpus of pairs whose training sources and targets the tokenizer is trained on."""
    architecture: Literal["pegasus", "marian", "bart", "t5"] = "pegasus"
    """The family of the model. pegasus is Marian with the norms before attention and feed-forward network, as
    in newer models, and learns from random weights in far fewer steps."""
    blocks: PositiveInt = 6
    """Blocks of the decoder, L."""
    encoder_blocks: PositiveInt = 3
    """Blocks of the encoder."""
    hidden: PositiveInt = 256
    """Hidden size H. Feed-forward networks are four times as wide."""
    heads: PositiveInt = 4
    """Heads of attention."""
    vocabulary: PositiveInt = 4000
    """The most tokens of the tokenizer, V."""
    seed: NonNegativeInt | None = None
    """Seed of the weights. null: the study's seed."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise rule(f"{self.heads} given, but hidden / heads has to be even: {self.hidden} given", "heads")
        return self


def check_untrained(models: Mapping[str, Model], corpora: Mapping[str, Corpus]) -> None:
    """Make sure that every untrained model has a corpus of pairs for its tokenizer."""
    paired = [name for name, corpus in corpora.items() if corpus.target is not None]
    for name, model in models.items():
        if model.untrained is not None and model.untrained.corpus not in paired:
            raise rule(
                f"{model.untrained.corpus!r} given, accepted is a corpus of the study that has a target: "
                f"{', '.join(paired) or 'there is none'}",
                f"models/{name}/untrained/corpus",
            )
