"""The shortcut kinds: a section each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from onejump.study.values import Rank, Section, Switches, refuse_without_effect

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
