"""The shortcut kinds: the section of each, with the facts that everything else derives from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from onejump.base.rank import PAPERS_RANK, rank_for
from onejump.study.values import KindsRank, Section, Switches, refuse_without_effect


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rest of the project has to know about a shortcut kind."""

    fitted_by: Literal["shortcuts", "distillation"] | None
    """Rule that fits it: `shortcuts` to the last level's states, `distillation` to the model's own
    predictions. None: there is nothing to fit."""
    stored_as: str
    """Kind whose map its files hold: the module of `onejump.shortcuts.kinds`."""
    one_for_all: bool = False
    """One map serves all levels; otherwise each level has its own."""
    exit_head: bool = False
    """Its predictions go through an exit head, which costs V r instead of V H."""
    selected_by: Literal["selection", "distilled_selection"] | None = None
    """Rule that selects one of its jumps for all levels."""
    papers: bool = False
    """The figures of JTC and N-NJTC compare it: `level-pairs` can fit it, `prediction` draws it."""
    analysed: bool = False
    """The figures `spaces` and `ranks` compare its jumps."""
    exits: bool = False
    """Exits early unless the study names the methods that do."""
    sweepable: bool = False
    """A sweep can fit it at every rank."""
    swept: bool = False
    """A sweep fits it at every rank unless the study names the methods that it fits."""
    reads_previous: bool = False
    """It reads the last level's state of the position before, which activations keep for it."""


class Kind(Section):
    """The options of a shortcut kind; what does not depend on the study is in `facts`."""

    facts: ClassVar[Facts]

    def numbers(self, hidden: int, levels: int) -> int:
        """Count the numbers that are kept for a model with L levels and width H."""
        raise NotImplementedError


class OfRank(Kind):
    """A kind with a low-rank matrix."""

    rank: KindsRank = PAPERS_RANK
    """The rank r, or, below 1, the part of H that r is, rounded down to at least 1. null means 0.01."""


class Gradient(Section):
    """Options of the papers' solver: Adam on minibatches of all levels; a cosine lowers its step size."""

    epochs: PositiveInt = 400
    """Passes over the training samples."""
    batch: Annotated[int, Field(ge=2)] = 256
    """Samples in a minibatch, for each level. Few samples give n-njtc and joint noisy batch statistics."""
    learning_rate: PositiveFloat = 0.02
    """Adam's step size at the start."""


class EitherSolver(OfRank):
    """A kind that is fitted exactly or by gradient."""

    solver: Literal["exact", "gradient"] = "exact"
    """exact: reduced-rank regression, which finds the global optimum. gradient: the papers' way."""
    gradient: Gradient | None = None
    """Options of the gradient solver."""

    @model_validator(mode="after")
    def _options_of_the_solver_in_use(self) -> Self:
        if self.solver != "gradient":
            refuse_without_effect(self, ("gradient",), "without solver: gradient")
        return self


class Distillation(Kind):
    """A kind that is trained on the model's own predictions."""

    steps: NonNegativeInt
    """Training steps of Adam; a cosine lowers its step size. 0 keeps the closed form that training starts
    from."""
    batch: PositiveInt
    """Samples in a step."""
    learning_rate: PositiveFloat = 0.01
    """Adam's step size at the start."""
    sharpness: PositiveFloat = 2.0
    """The model's logits are multiplied by this before training. Above 1, its first choice counts more."""
    patience: PositiveInt = 5
    """Stop after this many checks (20 per fit) without a new lowest loss on the documents for stopping."""
    normalise: bool = True
    """Normalise the state first, by the model's own kind of norm (RMSNorm or LayerNorm) without its gain."""

    @model_validator(mode="after")
    def _options_of_training(self) -> Self:
        if self.steps == 0:
            refuse_without_effect(self, ("learning_rate", "patience"), "with steps: 0, which trains nothing")
        return self


class Identity(Kind):
    """The state itself, unchanged: h."""

    facts = Facts(fitted_by=None, stored_as="identity", papers=True, exits=True)

    def numbers(self, hidden: int, levels: int) -> int:
        return 0


class Jtc(Kind):
    """h A, with a full H x H matrix for each level: "jump to conclusions" (JTC, arXiv 2303.09435)."""

    facts = Facts(fitted_by="shortcuts", stored_as="jtc", papers=True, exits=True)

    solver: Literal["exact"] = "exact"
    """Least squares."""

    def numbers(self, hidden: int, levels: int) -> int:
        return levels * hidden**2


class Njtc(EitherSolver):
    """h A B of rank r, for each level (arXiv 2409.14091)."""

    facts = Facts(
        fitted_by="shortcuts",
        stored_as="njtc",
        exit_head=True,
        selected_by="selection",
        papers=True,
        exits=True,
        sweepable=True,
    )

    def numbers(self, hidden: int, levels: int) -> int:
        return levels * 2 * hidden * rank_for(hidden, self.rank)


class NNjtc(EitherSolver):
    """BatchNorm(h) A B of rank r, for each level (arXiv 2409.14091)."""

    facts = Facts(
        fitted_by="shortcuts",
        stored_as="n-njtc",
        exit_head=True,
        selected_by="selection",
        papers=True,
        analysed=True,
        exits=True,
        sweepable=True,
        swept=True,
    )

    def numbers(self, hidden: int, levels: int) -> int:
        return levels * (2 * hidden * rank_for(hidden, self.rank) + 4 * hidden)


class Joint(EitherSolver):
    """One BatchNorm(h) A B of rank r for all levels, fitted to the states of all levels together."""

    facts = Facts(fitted_by="shortcuts", stored_as="n-njtc", one_for_all=True, exit_head=True)

    def numbers(self, hidden: int, levels: int) -> int:
        return 2 * hidden * rank_for(hidden, self.rank) + 4 * hidden


class Residual(OfRank):
    """h + BatchNorm(h) A B, for each level, with A B of rank r. Its head costs V H, as h has full rank."""

    facts = Facts(fitted_by="shortcuts", stored_as="residual")

    solver: Literal["exact"] = "exact"
    """Reduced-rank regression of the last level's state minus h."""

    def numbers(self, hidden: int, levels: int) -> int:
        return levels * (2 * hidden * rank_for(hidden, self.rank) + 4 * hidden)


class Distilled(Distillation, OfRank):
    """(norm(h) A + c) B + b of rank r, for each level, trained on the model's own predictions.

    One of these jumps is also selected for all levels (ojfa-distilled).
    """

    facts = Facts(
        fitted_by="distillation",
        stored_as="distilled",
        exit_head=True,
        selected_by="distilled_selection",
        analysed=True,
        exits=True,
        sweepable=True,
        swept=True,
    )

    steps: NonNegativeInt = 200
    """Training steps of Adam for each level; a cosine lowers its step size. 0 keeps the closed form that
    training starts from."""
    batch: PositiveInt = 512
    """Samples in a step."""

    def numbers(self, hidden: int, levels: int) -> int:
        rank = rank_for(hidden, self.rank)
        return levels * (2 * hidden * rank + rank + hidden)


class OneJump(Distillation, OfRank):
    """One low-rank map for all levels, trained on the model's own predictions.

    The levels share B and A; a level only mixes what A gives, or scales what it takes.
    """

    facts = Facts(
        fitted_by="distillation",
        stored_as="one-jump",
        one_for_all=True,
        exit_head=True,
        exits=True,
        sweepable=True,
        swept=True,
    )

    statistics: Literal["shared", "level"] = "shared"
    """What each level has of its own, besides r numbers that are added behind A. shared: an r x r matrix
    behind A. level: a factor for each of the H coordinates of the state."""
    steps: NonNegativeInt = 1000
    """Training steps of Adam for all levels together; a cosine lowers its step size. 0 keeps the closed form
    that training starts from."""
    batch: PositiveInt = 512
    """Samples in a step, each from a level drawn at random."""

    def numbers(self, hidden: int, levels: int) -> int:
        rank = rank_for(hidden, self.rank)
        width = 2 * hidden if self.facts.reads_previous else hidden
        own = {"shared": rank**2, "level": width}[self.statistics]
        return (width + hidden) * rank + hidden + levels * (rank + (own if levels > 1 else 0))


class Shortlist(OneJump):
    """A one-jump whose most likely tokens are judged again by the state itself.

    They are judged by the logits of h at these tokens, which cost k H multiplications in place of V H, with
    two weights for each level.
    """

    facts = Facts(
        fitted_by="distillation", stored_as="shortlist", one_for_all=True, exit_head=True, exits=True
    )

    candidates: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] = 64
    """How many of the jump's most likely tokens are judged again: k. Of a list, the smallest one whose
    precision on the documents for stopping is within a standard error of the best one's."""

    def numbers(self, hidden: int, levels: int) -> int:
        return super().numbers(hidden, levels) + 2 * levels

    @property
    def most_candidates(self) -> int:
        """The largest k that may be chosen."""
        return self.candidates if isinstance(self.candidates, int) else max(self.candidates)


class OneResidual(Shortlist):
    """A shortlist whose tokens are judged by the state and one low-rank correction of it, for all levels.

    The correction is trained through the shortlist.
    """

    facts = Facts(
        fitted_by="distillation", stored_as="shortlist", one_for_all=True, exit_head=True, exits=True
    )

    correction: KindsRank = PAPERS_RANK
    """The rank of the correction, or, below 1, the part of H that it is. null means 0.01."""
    correction_steps: NonNegativeInt = 600
    """Training steps of the correction."""

    def numbers(self, hidden: int, levels: int) -> int:
        rank = rank_for(hidden, self.correction)
        mixing = rank**2 if levels > 1 else 0
        return super().numbers(hidden, levels) + 2 * hidden * rank + hidden + levels * (rank + mixing)


class OneForward(OneJump):
    """A one-jump that also reads the last level's state of the position before.

    That state is known where tokens are drafted: the token before has been through all blocks.
    """

    facts = Facts(
        fitted_by="distillation",
        stored_as="one-forward",
        one_for_all=True,
        exit_head=True,
        reads_previous=True,
    )


class Affine(Distillation):
    """norm(h) A + b of full rank, for each level, trained on the model's own predictions.

    It is the limit that low ranks are compared with.
    """

    facts = Facts(fitted_by="distillation", stored_as="affine")

    steps: NonNegativeInt = 120
    """Training steps of Adam for each level; a cosine lowers its step size. 0 keeps the closed form that
    training starts from."""
    batch: PositiveInt = 256
    """Samples in a step."""

    def numbers(self, hidden: int, levels: int) -> int:
        return levels * (hidden**2 + hidden)


class Shortcuts(Switches):
    """The shortcut kinds to fit. A kind that is left out is neither fitted nor evaluated."""

    identity: Identity | None = None
    jtc: Jtc | None = None
    njtc: Njtc | None = None
    n_njtc: Annotated[NNjtc | None, Field(alias="n-njtc")] = None
    joint: Joint | None = None
    residual: Residual | None = None
    distilled: Distilled | None = None
    one_jump: Annotated[OneJump | None, Field(alias="one-jump")] = None
    shortlist: Shortlist | None = None
    one_residual: Annotated[OneResidual | None, Field(alias="one-residual")] = None
    one_forward: Annotated[OneForward | None, Field(alias="one-forward")] = None
    affine: Affine | None = None

    def kind(self, name: str) -> Kind:
        """Give the section of a kind that is switched on, with the options of its solver."""
        kind: Kind = getattr(self, name.replace("-", "_"))
        if isinstance(kind, EitherSolver) and kind.solver == "gradient" and kind.gradient is None:
            return kind.model_copy(update={"gradient": Gradient()})
        return kind

    def options(self, name: str) -> dict[str, Any]:
        """Give the options of a kind that is switched on, as plain values."""
        return self.kind(name).model_dump()


FACTS: dict[str, Facts] = {name: kind.facts for name, kind in Shortcuts.sections().items()}
"""Facts of every kind by its name, in the order of tables and legends."""


def kinds_where(true: Callable[[Facts], object]) -> tuple[str, ...]:
    """Name the kinds whose facts fulfil a condition."""
    return tuple(name for name, facts in FACTS.items() if true(facts))


REGRESSIONS = kinds_where(lambda facts: facts.fitted_by == "shortcuts" and not facts.one_for_all)
"""Kinds that are fitted to each level alone, by a regression on all H coordinates."""
