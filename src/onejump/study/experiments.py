"""The experiments: the section of each, with the tables that it makes and its place in the report."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from onejump.base.rank import PAPERS_RANK
from onejump.base.selected import SELECTED
from onejump.study.drawn import EVALUATION, SELECTION, Drawn
from onejump.study.kinds import FACTS, kinds_where
from onejump.study.messages import rule
from onejump.study.shapes import LLAMA_2_7B, Shapes
from onejump.study.values import (
    Colormap,
    KindsRank,
    Metric,
    Name,
    Prediction,
    Rank,
    Switches,
    one_of,
    refuse_without_effect,
)

PAPERS_KINDS = kinds_where(lambda facts: facts.papers)
DISTILLED = kinds_where(lambda facts: facts.fitted_by == "distillation")
SWEEPABLE = (
    *kinds_where(lambda facts: facts.sweepable),
    *(name for name, selected in SELECTED.items() if selected.swept),
)


class LevelPairs(Drawn):
    """r2 of shortcuts from every level to every later level, as heat maps (JTC, Fig. 2; N-NJTC, Fig. 2)."""

    tables = {"level_pairs": "level-pairs.parquet"} | SELECTION
    place = 130

    methods: Annotated[list[Annotated[str, *one_of(PAPERS_KINDS)]], Field(min_length=1)] = list(PAPERS_KINDS)
    """Kinds that are fitted to every pair of levels, by the exact solver."""
    rank: KindsRank = PAPERS_RANK
    """Rank of njtc and n-njtc: r, or, below 1, the part of H that r is. null means 0.01."""
    colormap: Colormap = "cividis"
    """A matplotlib colour map."""

    @model_validator(mode="after")
    def _options_of_the_methods_in_use(self) -> Self:
        of_rank = [method for method in PAPERS_KINDS if FACTS[method].exit_head]
        if not set(of_rank) & set(self.methods):
            refuse_without_effect(self, ("rank",), f"without {' and '.join(of_rank)}")
        return self


class SubModules(Drawn):
    """Predictions with one part of all blocks above a level replaced by a linear map (JTC, section 6)."""

    tables = {"sub_modules": "sub-modules.parquet"} | EVALUATION | SELECTION
    place = 140

    parts: Annotated[list[Literal["attention", "feed-forward", "norms"]], Field(min_length=1)] = [
        "attention",
        "feed-forward",
        "norms",
    ]
    """Parts that are replaced, one after another: attention, feed-forward networks, norms."""
    step: PositiveInt = 3
    """Replace above every `step`-th level only. Each level costs a pass through the blocks above it."""
    samples: PositiveInt = 600
    """Most validation samples to use, evenly spread."""
    metrics: Annotated[list[Prediction], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics, each in a panel of its own: precision@k or surprisal."""


class SubLayers(Drawn):
    """What the model's own head reads inside of the blocks, and exits between their parts (arXiv 2412.01455).

    Read are the stream behind the attention and behind the feed-forward network, and what either adds to it.
    """

    tables = {"states": "sub-layers/states.parquet", "exits": "sub-layers/exits.parquet"}
    place = 142

    samples: PositiveInt = 1000
    """Most validation samples to use, evenly spread, and as many of the documents for thresholds."""
    top: PositiveInt = 10
    """How many of the most likely tokens are compared with those of the full model."""
    rules: Annotated[list[Literal["fixed", "per-level"]], Field(min_length=1)] = ["fixed", "per-level"]
    """How the threshold on the probability depends on the place of the exit, as in early-exit."""
    targets: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.95, 0.9]
    """Agreements with the full model to aim at. Thresholds are chosen for each on the documents for
    thresholds."""
    from_level: NonNegativeInt = 1
    """The first level that a gate exits at. The oracle may exit anywhere."""


class CopiedStates(Drawn):
    """Generation whose exits copy their state into the skipped blocks' keys and values, against exact ones.

    The papers' exits are natural: the hidden state as it is, the method identity (arXiv 2412.01455).
    """

    tables = {"copied_states": "copied-states.parquet"}
    place = 144

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods that exit; the study has to evaluate them. null: identity, and what the study exports."""
    prompts: PositiveInt = 12
    """Validation sentences to continue, all in one batch."""
    prompt_tokens: PositiveInt = 32
    """Longer prompts are cut. Tokens of the chat template come on top."""
    chat_template: bool = True
    """Put the prompt into the chat template, as a user's message, if the tokenizer has one."""
    new_tokens: Annotated[int, Field(ge=2)] = 512
    """Most tokens that are generated; a text ends earlier at the model's end token."""
    levels: list[Annotated[float, Field(ge=0, lt=1)]] = [0.8]
    """Let every token exit at this part of the blocks."""
    targets: list[Annotated[float, Field(gt=0, le=1)]] = [0.9]
    """Agreements with the full model that thresholds, one for each level, are chosen for on the documents for
    thresholds: by the rule per-level of early-exit."""
    thresholds: list[Annotated[float, Field(gt=0, le=1)]] = []
    """Let a token exit at the first level that is checked where its probability reaches this."""
    checked_from: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The first level that is checked, as a part of the blocks."""
    step: PositiveInt = 2
    """Check every `step`-th level. Each check costs a product with the whole vocabulary."""

    @model_validator(mode="after")
    def _something_exits(self) -> Self:
        if not self.levels and not self.targets and not self.thresholds:
            raise rule("levels, targets and thresholds are empty: give at least one of them", "levels")
        if not self.targets and not self.thresholds:
            refuse_without_effect(self, ("checked_from", "step"), "without targets or thresholds")
        return self


class EarlyExit(Drawn):
    """Early exit at the first level that is confident enough (JTC, section 5): blocks saved and agreement.

    Agreement is the share of tokens where the exit gives the full model's own token.
    """

    tables = {"curves": "early-exit/curves.parquet", "savings": "early-exit/savings.parquet"}
    place = 110

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods that exit; the study has to evaluate them. null: all of them but arbitrary jumps, joint,
    residual, affine and ojfa-normalised."""
    rules: Annotated[list[Literal["fixed", "decaying", "per-level"]], Field(min_length=1)] = [
        "fixed",
        "decaying",
        "per-level",
    ]
    """How the threshold depends on the token. fixed: not at all. decaying: it falls with the position t, as
    0.9 lambda + 0.1 exp(-tau t / N). per-level: each level has its own."""
    targets: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.95, 0.9]
    """Agreements with the full model to aim at. Thresholds are chosen for each on the documents for
    thresholds."""
    tau: PositiveFloat = 4.0
    """How fast the decaying threshold falls."""
    length: PositiveFloat | None = None
    """N of the decaying threshold: tokens in an average sentence. null: as the sampled positions suggest."""
    from_level: NonNegativeInt = 1
    """The first level to exit from."""

    @model_validator(mode="after")
    def _options_of_the_rules_in_use(self) -> Self:
        if "decaying" not in self.rules:
            refuse_without_effect(self, ("tau", "length"), "without the rule decaying")
        return self


class Oracle(Drawn):
    """The level at which each token could exit, for one who knows the full model's token (arXiv 2412.01455).

    The first level whose token is the full model's, and the first one from which on it never changes.
    """

    tables = {"levels": "oracle/levels.parquet", "corpora": "oracle/corpora.parquet"}
    place = 106

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods to look at; the study has to evaluate them. null: all of them but arbitrary jumps."""
    last_blocks: PositiveInt = 10
    """Count the samples that could exit before this many last blocks."""


class Gates(Drawn):
    """How well gates find the level at which a token could exit, and what they save (arXiv 2412.01455).

    Thresholds are chosen on the documents for thresholds, as for early-exit.
    """

    tables = {"curves": "gates/curves.parquet", "outcomes": "gates/outcomes.parquet"}
    place = 107

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods that exit; the study has to evaluate them. null: as for early-exit."""
    gates: Annotated[
        list[Literal["top-probability", "margin", "entropy", "patience", "learned"]], Field(min_length=1)
    ] = ["top-probability", "margin", "entropy", "patience", "learned"]
    """Kinds of gate. top-probability: the probability of the predicted token. margin: that minus the second
    largest. entropy: how far the entropy is below the largest possible one. patience: how many levels in a
    row predict the same token. learned: a classifier that reads a low-rank jump's coordinates too."""
    rules: Annotated[list[Literal["fixed", "per-level"]], Field(min_length=1)] = ["fixed", "per-level"]
    """fixed: one threshold for all levels. per-level: each level has its own."""
    targets: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.95, 0.9]
    """Agreements with the full model to aim at."""
    guarantee: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Beside the plain thresholds, also choose those whose agreement reaches the target with this
    probability, over the draw of the held-out documents: 0.9, say. They save less. null: plain ones only."""
    from_level: NonNegativeInt = 1
    """The first level to exit from."""


class SubWords(Drawn):
    """Exits by the piece of a word that is predicted, and gates that know its kind (arXiv 2412.01455).

    Whole words are found where neighbouring positions are sampled: best in a generated corpus with as many
    positions as new tokens.
    """

    tables = {"levels": "sub-words/levels.parquet", "gates": "sub-words/gates.parquet"}
    place = 108

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods that exit; the study has to evaluate them. null: as for early-exit."""
    targets: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.95, 0.9]
    """Agreements with the full model to aim at. Exits of a gate are told for the first one."""
    from_level: NonNegativeInt = 1
    """The first level to exit from."""
    parts_of_speech: bool = False
    """true: also tell exits by part of speech, of English text. It needs TextBlob: pip install
    'onejump[tags]'."""


class CrossScale(Drawn):
    """What an all-knowing gate would save, by depth and size of the study's models: from the oracle exits."""

    tables = {"cross_scale": "cross-scale.parquet"}
    scope = "study"
    place = 109


class Transfer(Drawn):
    """Shortcuts that are fitted and selected on one corpus, evaluated on the study's other corpora."""

    tables = {"transfer": "transfer.parquet"}
    place = 120

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods to evaluate on other corpora; the study has to evaluate them. null: all but arbitrary jumps."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1"]
    """Metrics, each in a row of panels: precision@k, surprisal, r2 or kl."""


class Criteria(Drawn):
    """The jump that each selection criterion chooses, and how much precision the choice costs."""

    tables = {"criteria": "criteria.parquet"} | SELECTION
    place = 90


class RankSweep(Drawn):
    """Precision by the numbers kept, over several ranks."""

    tables = {"rank_sweep": "rank-sweep.parquet"}
    place = 100

    ranks: Annotated[list[Rank], Field(min_length=1)] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
    """Ranks r, or, below 1, the parts of H that r is."""
    methods: Annotated[list[Annotated[str, *one_of(SWEEPABLE)]], Field(min_length=1)] | None = None
    """Methods to fit at each rank, with the study's other options for them. null: all that the study has of
    these, without njtc."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics, each in a panel of its own: precision@k, surprisal, r2 or kl."""


class SampleSweep(Drawn):
    """Precision by the number of training samples, for kinds that are trained on the model's predictions.

    Each is fitted to some of the training samples, in as many steps as the study's own.
    """

    tables = {"sample_sweep": "sample-sweep.parquet"}
    place = 102

    counts: Annotated[list[PositiveInt], Field(min_length=1)] = [9_000, 27_000, 90_000, 270_000]
    """Numbers of samples, drawn at random among those that fits see; a larger number has the samples of a
    smaller one. A number that is larger than there are takes them all. activations.positions gives each
    sentence many samples."""
    methods: Annotated[list[Annotated[str, *one_of(DISTILLED)]], Field(min_length=1)] | None = None
    """Kinds to fit to each number of samples, with the study's options for them. null: all that it has."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics, each in a panel of its own: precision@k, surprisal or kl."""


class JointOptimisation(Drawn):
    """A model before and after joint optimisation (arXiv 2412.01455), with all models tuned from it.

    How levels predict, what gates save, and what that costs in final loss. Exits are those of identity.
    """

    tables = {
        "joint_optimisation": "joint-optimisation/comparison.parquet",
        "levels": "joint-optimisation/levels.parquet",
    }
    place = 112
    needs = "identity"

    targets: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [0.9, 0.95]
    """Agreements with each model's own final token that the gate aims at. Thresholds are chosen for each on
    the documents for thresholds. The figure draws the first."""
    sentences: PositiveInt = 600
    """Most validation sentences whose tokens' final loss is measured, evenly spread."""


class ExitCosts(Drawn):
    """FLOPs and latency of one decoded token that exits, for every method at every level.

    FLOPs are exact. Latency is measured, so it differs from run to run.
    """

    tables = {"exit_costs": "exit-costs.parquet"}
    place = 115

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods to measure; the study has to evaluate them. null: all of them but arbitrary jumps."""
    batches: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 32]
    """Numbers of sequences that decode together."""
    context: PositiveInt = 128
    """Tokens before the one that is decoded, whose keys and values are kept. A masked language model runs
    over as many tokens."""
    rounds: PositiveInt = 20
    """How often each part is measured."""
    shapes: dict[Name, Shapes] = {"llama-2-7b": LLAMA_2_7B}
    """Models that are not at hand: measured on random weights of their shapes, besides the study's own."""


class Translation(Drawn):
    """BLEU of the targets that an encoder-decoder writes if tokens exit: all at one level, and by gates."""

    tables = {
        "translation": "translation.parquet",
        "translation_gates": "translation-gates.parquet",
    } | SELECTION
    place = 118

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods that exit; the study has to evaluate them. null: all of them but arbitrary jumps."""
    pairs: PositiveInt = 200
    """The most validation pairs whose sources are translated, at every level by every method."""
    new_tokens: PositiveInt = 64
    """The most tokens of a target."""
    thresholds: list[Annotated[float, Field(gt=0, le=1)]] = [0.5, 0.7, 0.9]
    """Tokens exit at the first level where their probability reaches this, in the modes trusted and copied;
    empty: only all at one level."""


class Experiments(Switches):
    """Further experiments, each with a table and a figure. An experiment that is left out is not run."""

    level_pairs: Annotated[LevelPairs | None, Field(alias="level-pairs")] = None
    sub_modules: Annotated[SubModules | None, Field(alias="sub-modules")] = None
    sub_layers: Annotated[SubLayers | None, Field(alias="sub-layers")] = None
    copied_states: Annotated[CopiedStates | None, Field(alias="copied-states")] = None
    early_exit: Annotated[EarlyExit | None, Field(alias="early-exit")] = None
    oracle: Oracle | None = None
    gates: Gates | None = None
    sub_words: Annotated[SubWords | None, Field(alias="sub-words")] = None
    cross_scale: Annotated[CrossScale | None, Field(alias="cross-scale")] = None
    transfer: Transfer | None = None
    criteria: Criteria | None = None
    rank_sweep: Annotated[RankSweep | None, Field(alias="rank-sweep")] = None
    sample_sweep: Annotated[SampleSweep | None, Field(alias="sample-sweep")] = None
    exit_costs: Annotated[ExitCosts | None, Field(alias="exit-costs")] = None
    joint_optimisation: Annotated[JointOptimisation | None, Field(alias="joint-optimisation")] = None
    translation: Translation | None = None
