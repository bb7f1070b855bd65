"""The section of a model that is tuned from another one: joint optimisation (arXiv 2412.01455)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from onejump.study.messages import rule
from onejump.study.values import Name, Section, refuse_without_effect

if TYPE_CHECKING:
    from onejump.study.sources import Corpus, Model


class Adapters(Section):
    """Low-rank adapters (LoRA) at all linear maps in the blocks. In the end they are added to the weights."""

    rank: PositiveInt = 16
    """Rank of an adapter."""
    alpha: PositiveFloat = 32.0
    """What an adapter adds is multiplied by alpha / rank."""


class Tuned(Section):
    """A model of the study, trained further with the losses of all levels through its one head.

    It is trained on training sentences whose documents are held out for nothing, in float32, and runs in the
    dtype of the model that it is tuned from.
    """

    model: Name
    """The model of the study to tune: any model that is not tuned itself."""
    corpus: Name
    """The corpus of the study to train on: one of text, not a generated one."""
    loss: Literal["next-token", "distilled"] = "next-token"
    """next-token: the cross-entropy to the text's own next token, or masked token. distilled: the KL
    divergence from the final distribution of the model as it was, at each level and at the last one too,
    which it so holds
    where it was."""
    weights: Literal["uniform", "linear", "curriculum", "final"] = "linear"
    """Weights w_l of the levels 0 to L. uniform: 1. linear: l. curriculum: 1 in the end, but the training
    begins with the levels L and L-1 alone, and the next earlier level joins, one after another at even
    intervals, in the first half of the steps; a level that has not joined leaves its weight to level L.
    final: level L alone, a
    control."""
    early: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of all weight that the levels before the last one have together. null: as weights has it,
    which is
    L / (L + 1) for uniform and (L - 1) / (L + 1) for linear."""
    levels: PositiveInt = 1
    """How many of the earlier levels a step computes for each token, drawn by their weights, besides the last
    one. More cost more, and make the gradient less noisy; its expectation is the same."""
    steps: PositiveInt = 120
    """Steps of AdamW."""
    batch_tokens: PositiveInt = 512
    """Most tokens of a step, padding included."""
    learning_rate: PositiveFloat = 2e-4
    """AdamW's largest step size: it rises in the first tenth of the steps, then falls as a cosine."""
    adapters: Adapters | None = None
    """null: all parameters are trained."""
    seed: NonNegativeInt | None = None
    """Seed of the order of the sentences, the levels drawn, the adapters' start. null: the study's seed."""

    @model_validator(mode="after")
    def _no_idle_keys(self) -> Self:
        if self.weights == "final":
            refuse_without_effect(self, ("early", "levels"), "with weights: final, for the last level alone")
        return self


def check_tuned(models: Mapping[str, Model], corpora: Mapping[str, Corpus]) -> None:
    """Make sure that every tuned model has a model and a corpus to be tuned from."""
    own = [name for name, model in models.items() if model.tuned is None]
    text = [name for name, corpus in corpora.items() if corpus.is_text]
    for name, model in models.items():
        if model.tuned is not None:
            what, path = "that is not tuned", f"models/{name}/tuned/model"
            _expect(model.tuned.model, own, f"a model of the study {what}", path)
            what, path = "that is neither generated nor mixed", f"models/{name}/tuned/corpus"
            _expect(model.tuned.corpus, text, f"a corpus of the study {what}", path)


def _expect(given: str, accepted: Collection[str], what: str, path: str) -> None:
    if given not in accepted:
        raise rule(f"{given!r} given, accepted is {what}: {', '.join(accepted) or 'there is none'}", path)
