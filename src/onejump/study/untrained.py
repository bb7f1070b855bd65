"""The section of a model that begins with random weights, to be trained by a tuned model of the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from onejump.study.messages import rule
from onejump.study.values import Name, Section, refuse_without_effect

if TYPE_CHECKING:
    from onejump.study.sources import Corpus, Model


class Untrained(Section):
    """A small encoder-decoder or classifier with random weights, and a tokenizer that is trained on a corpus.

    A tuned model of the study can be trained from it.
    """

    corpus: Name
    """The corpus whose training texts the tokenizer is trained on: one of pairs, for bert one with labels."""
    architecture: Literal["pegasus", "marian", "bart", "t5", "bert"] = "pegasus"
    """The family of the model. bert is a classifier of texts, the others are encoder-decoders. pegasus is
    Marian with the norms before attention and feed-forward network, as in newer models, and learns from
    random weights in far fewer steps."""
    blocks: PositiveInt = 6
    """Blocks of the decoder, or of bert, L."""
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
        if self.classifies:
            refuse_without_effect(self, ("encoder_blocks",), "on bert, which has one stack of blocks")
        return self

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier of texts, and no encoder-decoder."""
        return self.architecture == "bert"


def check_untrained(models: Mapping[str, Model], corpora: Mapping[str, Corpus]) -> None:
    """Make sure that every untrained model has a corpus of pairs, or with labels, for its tokenizer."""
    for name, model in models.items():
        if model.untrained is None:
            continue
        key = "label" if model.untrained.classifies else "target"
        accepted = [other for other, corpus in corpora.items() if getattr(corpus, key) is not None]
        if model.untrained.corpus not in accepted:
            raise rule(
                f"{model.untrained.corpus!r} given, accepted is a corpus of the study that has a {key}: "
                f"{', '.join(accepted) or 'there is none'}",
                f"models/{name}/untrained/corpus",
            )
