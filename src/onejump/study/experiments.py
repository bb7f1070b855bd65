"""The experiments: a section each."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from onejump.study.values import Colormap, Metric, Prediction, Rank, Section, Switches, refuse_without_effect


class LevelPairs(Section):
    """Quality of fit from every level to every later one (JTC Fig. 2, N-NJTC Fig. 2)."""

    methods: Annotated[list[Literal["identity", "jtc", "njtc", "n-njtc"]], Field(min_length=1)] = [
        "identity",
        "jtc",
        "njtc",
        "n-njtc",
    ]
    """Kinds fitted to every pair of levels, exactly."""
    rank: Rank | None = None
    """Of njtc and n-njtc: r, or below 1 the part of H that it is; null means 0.01."""
    colormap: Colormap = "cividis"
    """A matplotlib colour map."""

    @model_validator(mode="after")
    def _options_of_the_methods_in_use(self) -> Self:
        if not {"njtc", "n-njtc"} & set(self.methods):
            refuse_without_effect(self, ("rank",), "without njtc and n-njtc")
        return self


class SubModules(Section):
    """Parts of all blocks above a level replaced by linear maps (JTC section 6)."""

    parts: Annotated[list[Literal["attention", "feed-forward", "norms"]], Field(min_length=1)] = [
        "attention",
        "feed-forward",
        "norms",
    ]
    """What is replaced, one after another."""
    step: PositiveInt = 3
    """Every how many levels; each costs a pass through the blocks above it."""
    samples: PositiveInt = 600
    """Validation samples at most, evenly spread."""
    metrics: Annotated[list[Prediction], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics drawn, a panel each: precision@k or surprisal."""


class EarlyExit(Section):
    """Exit at the first level that is confident enough (JTC section 5)."""

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """What is evaluated and exits; null: all of it but arbitrary jumps and joint."""
    rules: Annotated[list[Literal["fixed", "decaying", "per-level"]], Field(min_length=1)] = [
        "fixed",
        "decaying",
        "per-level",
    ]
    """Thresholds: one; one that falls with the position, 0.9 lambda + 0.1 exp(-tau t / N); a level's own."""
    targets: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.95, 0.9]
    """Agreement with the full model, for which thresholds are chosen on the documents for thresholds."""
    tau: PositiveFloat = 4.0
    """How fast the decaying threshold falls."""
    length: PositiveFloat | None = None
    """N, tokens of an average sentence; null: as the sampled positions say."""
    from_level: NonNegativeInt = 1
    """The first level to exit from."""

    @model_validator(mode="after")
    def _options_of_the_rules_in_use(self) -> Self:
        if "decaying" not in self.rules:
            refuse_without_effect(self, ("tau", "length"), "without the rule decaying")
        return self


class Transfer(Section):
    """Shortcuts fitted and selected on one corpus, evaluated on the study's others."""

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """What is evaluated elsewhere; null: all of it but arbitrary jumps."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1"]
    """Metrics drawn, a row of panels each."""


class Criteria(Section):
    """The jump that each selection criterion chooses, and what that costs."""


class RankSweep(Section):
    """Precision against numbers kept, over the rank."""

    ranks: Annotated[list[Rank], Field(min_length=1)] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
    """r, or below 1 the parts of H that it is."""
    methods: (
        Annotated[
            list[Literal["njtc", "n-njtc", "distilled", "one-jump", "ojfa"]],
            Field(min_length=1),
        ]
        | None
    ) = None
    """Kinds fitted at each rank, with the study's other options of theirs; null: the study's but njtc."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics drawn, a panel each."""


class Experiments(Switches):
    """Experiments of the papers besides: each is a table and a figure. Leave one out and it is not made."""

    level_pairs: Annotated[LevelPairs | None, Field(alias="level-pairs")] = None
    """r2 from every level to every later one: heat maps."""
    sub_modules: Annotated[SubModules | None, Field(alias="sub-modules")] = None
    """Attention, feed-forward networks or norms replaced by linear maps."""
    early_exit: Annotated[EarlyExit | None, Field(alias="early-exit")] = None
    """Agreement with the full model for the blocks saved, by confidence."""
    transfer: Transfer | None = None
    """Precision on other corpora than the one fitted to."""
    criteria: Criteria | None = None
    """What each selection criterion chooses."""
    rank_sweep: Annotated[RankSweep | None, Field(alias="rank-sweep")] = None
    """What more ranks give."""
