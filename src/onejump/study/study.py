"""The study: one configuration file, which is checked before any job is planned.

Every field's docstring is its documentation: `onejump schema` turns the sections into the JSON schema that
`workflow/schemas/study.schema.json` keeps for editors.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, model_validator

from onejump.base.errors import StudyError
from onejump.base.scores import MSE, SIGNED_SQUARED_COSINE
from onejump.base.selected import SELECTED, Selected
from onejump.study.activations import Activations, HeldOut
from onejump.study.compute import Compute
from onejump.study.dimensions import check_needs, dimension_mistakes
from onejump.study.drawn import ANALYSIS, Drawn
from onejump.study.evaluation import SELECTABLE, Evaluation, Selection
from onejump.study.experiments import DISTILLED, EarlyExit, Experiments, Gates, SubWords
from onejump.study.export import EXPORTABLE, Export
from onejump.study.figures import Figures
from onejump.study.kinds import FACTS, EitherSolver, Facts, OfRank, Shortcuts, kinds_where
from onejump.study.messages import rule
from onejump.study.sources import Corpus, Model, check_mixtures, check_prompts
from onejump.study.tuned import check_tuned
from onejump.study.untrained import check_untrained
from onejump.study.values import Empty, Name, Section


class Study(Section):
    """A study: models, corpora, kinds of shortcut, and what to measure and draw."""

    study: Name
    """Name of the study. Its results go to the folder results/<name>."""
    seed: NonNegativeInt = 0
    """Seed of the split into training and validation, the sampled positions, generated text, the start of the
    gradient solver and the random jumps."""
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    """The models. Each name is also the name of a folder in the results."""
    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    """The corpora. Each name is also the name of a folder in the results."""
    activations: Annotated[Activations, Empty] = Activations()
    held_out: Annotated[HeldOut, Empty] = HeldOut()
    shortcuts: Annotated[Shortcuts, Empty]
    selection: Annotated[Selection, Empty] = Selection()
    evaluation: Annotated[Evaluation, Empty] = Evaluation()
    figures: Annotated[Figures, Empty] = Figures()
    experiments: Annotated[Experiments, Empty] = Experiments()
    export: Annotated[Export, Empty] = Export()
    compute: Annotated[Compute, Empty] = Compute()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        methods = self.shortcuts.names()
        if self.selection.method not in methods:
            possible = [method for method in SELECTABLE if method in methods]
            accepted = (
                f"accepted is what can be selected from, of the study's own shortcuts: {', '.join(possible)}"
                if possible
                else f"but the study has none to select from: switch shortcuts.{self.selection.method} on"
            )
            raise rule(f"{self.selection.said('method')}, {accepted}", "selection/method")
        normalised = SELECTED["ojfa-normalised"].kind
        if self.evaluation.normalised and self.selection.method != normalised:
            raise rule(
                f"true given, but selection.method is {self.selection.method!r}: only {normalised} has "
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
        for path, section in self.drawn().items():
            if section.needs is not None and section.needs not in methods:
                raise rule(f"it needs {section.needs}: switch shortcuts.{section.needs} on", path)
            if path == "experiments/sample-sweep" and not self.sampled():
                raise rule(f"it needs a kind to fit: switch on one of shortcuts {', '.join(DISTILLED)}", path)
            if ANALYSIS.items() <= section.tables.items() and not self.analysed():
                analysed = ", ".join(kinds_where(lambda facts: facts.analysed))
                raise rule(
                    f"it needs a kind whose jumps it can analyse: switch on one of shortcuts {analysed}", path
                )
        measured = {f"precision@{k}" for k in self.evaluation.precision_at} | {"surprisal", "r2", "kl"}
        if all(corpus.label is not None for corpus in self.corpora.values()):
            measured.add("accuracy")
        for path, section in self.drawn().items():
            for metric in getattr(section, "metrics", ()):
                if metric not in measured:
                    why = f"evaluation.precision_at is {self.evaluation.precision_at}"
                    if metric == "accuracy":
                        why = "accuracy needs labels: name the key label of every corpus"
                    raise rule(f"{section.said('metrics', metric)}, but {why}", f"{path}/metrics")
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

    @model_validator(mode="after")
    def _possible_sources(self) -> Self:
        check_prompts(self.corpora)
        check_mixtures(self.corpora)
        check_tuned(self.models, self.corpora)
        check_untrained(self.models, self.corpora)
        return self

    def origin_of(self, model: str) -> Model:
        """Give the section that says how a model is loaded: of a tuned model, that of the other model."""
        tuned = self.models[model].tuned
        return self.models[model if tuned is None else tuned.model]

    def activations_of(self, corpus: str) -> Activations:
        """Give what is extracted of a corpus: its own number of positions in each text, if it has one.

        A shard of such a corpus has as many samples as one of any other corpus, in fewer texts.
        """
        source, options = self.corpora[corpus], self.activations
        positions = (source.generated or source.mixture or options).positions
        if positions is None:
            return options
        texts = max(1, options.shard_sentences * options.positions // positions)
        return options.model_copy(update={"positions": positions, "shard_sentences": texts})

    def keeps_previous(self) -> bool:
        """Tell whether activations keep the last level's state of the position before: a kind reads it."""
        return any(FACTS[name].reads_previous for name in self.shortcuts.names())

    def shard_count(self, corpus: str, split: str) -> int:
        """Count the shards of a split: each is generated, and extracted, by a job of its own."""
        sentences: int = getattr(self.corpora[corpus], split)
        return -(-sentences // self.activations_of(corpus).shard_sentences)

    def _check_r2_is_measured(self, path: str, section: Section) -> None:
        """Refuse r2 where only distilled kinds are drawn, which have no r2."""
        if "r2" not in getattr(section, "metrics", ()):
            return
        drawn = {
            "experiments/transfer": self.transferred(),
            "experiments/rank-sweep": self.swept(),
            "experiments/sample-sweep": self.sampled(),
        }.get(path, getattr(section, "methods", None) or tuple(FACTS))
        if all(self._is_distilled(method) for method in drawn):
            raise rule(
                f"{section.said('metrics', 'r2')}, but the methods drawn are {', '.join(drawn)}: "
                "distilled kinds predict no state, so they have no r2: accepted are the other metrics",
                f"{path}/metrics",
            )

    def drawn(self) -> dict[str, Drawn]:
        """Give the figures and experiments that are switched on, by the path of each in the study."""
        return {
            f"{group}/{name}": getattr(switches, name.replace("-", "_"))
            for group, switches in (("figures", self.figures), ("experiments", self.experiments))
            for name in switches.names()
        }

    @model_validator(mode="after")
    def _possible_experiments(self) -> Self:
        evaluated = [method for method in self.evaluated() if method != "arbitrary"]
        for path, section in self.drawn().items():
            if path == "experiments/level-pairs":
                continue  # fits kinds of its own
            for method in getattr(section, "methods", None) or ():
                if method not in evaluated and (path, method) != ("figures/lens", "identity"):
                    raise rule(
                        f"{section.said('methods', method)}, but the study evaluates {', '.join(evaluated)}",
                        f"{path}/methods",
                    )
        check_needs(self)
        self._check_thresholds()
        gates = self.experiments.gates
        if gates is not None and set(gates.gates) == {"learned"}:
            reading = [method for method in self.gated() if FACTS[self.fitted_as(method)].exit_head]
            if not reading:
                raise rule(
                    f"{gates.said('gates')}, but none of {', '.join(self.gated())} is a low-rank jump, whose "
                    "coordinates a learned gate reads: accepted are the other gates",
                    "experiments/gates/gates",
                )
        return self

    @model_validator(mode="after")
    def _possible_exports(self) -> Self:
        possible = [method for method in EXPORTABLE if self.fitted_as(method) in self.shortcuts.names()]
        for method in self.export.methods or ():
            if method not in possible:
                raise rule(
                    f"{self.export.said('methods', method)}, but with the study's own shortcuts accepted is "
                    f"{', '.join(possible)}",
                    "export/methods",
                )
        return self

    def exported(self) -> tuple[str, ...]:
        """Name the methods whose jump is kept for use outside of the study."""
        if self.export.methods is not None:
            return tuple(self.export.methods)
        return ("one-jump",) if "one-jump" in self.shortcuts.names() else ("ojfa",)

    def calibrated(self) -> tuple[str, ...]:
        """Name the methods whose gates are calibrated."""
        return self.exported() if self.export.targets else ()

    def _check_thresholds(self) -> None:
        """Refuse a solver that cannot leave out the documents for thresholds."""
        users = {
            "experiments/early-exit": self.exiting(),
            "experiments/gates": self.gated(),
            "experiments/sub-words": self.cut_in_pieces(),
            "experiments/copied-states": self._copying_by_target(),
            "export/targets": self.calibrated(),
        }
        for path, methods in users.items():
            for method in {self.fitted_as(exiting) for exiting in methods}:
                kind = self.shortcuts.kind(method)
                if isinstance(kind, EitherSolver) and kind.solver == "gradient":
                    raise rule(
                        f"shortcuts.{method}.solver: 'gradient' given, but early exit fits this kind again "
                        "without the documents for thresholds, which only the solver exact can do",
                        path,
                    )

    def needed_roles(self) -> tuple[str, ...]:
        """Name the held-out documents that the study uses: stopping, thresholds."""
        distilled = any(map(self._is_distilled, self.shortcuts.names()))
        thresholds = bool((*self.thresholded(), *self.calibrated()))
        choosing = (self.experiments.joint_optimisation, self.experiments.sub_layers)
        thresholds |= any(section is not None for section in choosing)
        roles = {"stopping": distilled, "thresholds": thresholds}
        return tuple(role for role, wanted in roles.items() if wanted)

    def evaluated(self) -> tuple[str, ...]:
        """Name the methods that are evaluated, each by a job: the kinds, and what is selected from them."""
        asked = {"ojfa-normalised": self.evaluation.normalised}
        selected = [
            name
            for name, made in SELECTED.items()
            if made.evaluated_with is None
            and (made.kind is None or made.kind in self.shortcuts.names())
            and asked.get(name, True)
        ]
        return (*self.shortcuts.names(), *selected)

    def exiting(self) -> tuple[str, ...]:
        """Name the methods that exit early."""
        return self._exiting_in(self.experiments.early_exit)

    def gated(self) -> tuple[str, ...]:
        """Name the methods whose gates are compared with the oracle."""
        return self._exiting_in(self.experiments.gates)

    def learning(self) -> tuple[str, ...]:
        """Name the methods whose confidences hold coordinates, for learned gates."""
        options = self.experiments.gates
        return self.gated() if options is not None and "learned" in options.gates else ()

    def cut_in_pieces(self) -> tuple[str, ...]:
        """Name the methods whose exits are told by pieces of words."""
        return self._exiting_in(self.experiments.sub_words)

    def copying(self) -> tuple[str, ...]:
        """Name the methods that generate with copied keys and values."""
        options = self.experiments.copied_states
        if options is None:
            return ()
        wanted = options.methods or ("identity", *filter(self._reads_states, self.exported() or ("ojfa",)))
        return tuple(method for method in self.evaluated() if method in wanted)

    def thresholded(self) -> tuple[str, ...]:
        """Name the methods whose confidence is measured on the documents for thresholds too."""
        others = (*self.gated(), *self.cut_in_pieces(), *self._copying_by_target())
        return tuple(dict.fromkeys((*self.exiting(), *others)))

    def _copying_by_target(self) -> tuple[str, ...]:
        options = self.experiments.copied_states
        return self.copying() if options is not None and options.targets else ()

    def _exiting_in(self, options: EarlyExit | Gates | SubWords | None) -> tuple[str, ...]:
        if options is None:
            return ()
        return tuple(options.methods or (method for method in self.evaluated() if _facts(method).exits))

    def foreseen(self) -> tuple[str, ...]:
        """Name the methods whose oracle exits are found."""
        options = self.experiments.oracle
        if options is None:
            return ()
        return tuple(options.methods or (method for method in self.evaluated() if method != "arbitrary"))

    def confident(self) -> tuple[str, ...]:
        """Name the methods whose confidence is measured on validation samples."""
        return tuple(dict.fromkeys((*self.thresholded(), *self.foreseen())))

    def transferred(self) -> tuple[str, ...]:
        """Name the methods that are evaluated on other corpora."""
        options = self.experiments.transfer
        if options is None:
            return ()
        return tuple(options.methods or (method for method in self.evaluated() if method != "arbitrary"))

    def swept(self) -> tuple[str, ...]:
        """Name the methods that are fitted and evaluated at every rank of the sweep."""
        options = self.experiments.rank_sweep
        if options is None:
            return ()
        return tuple(options.methods or (method for method in self.evaluated() if _facts(method).swept))

    def sampled(self) -> tuple[str, ...]:
        """Name the kinds that are fitted to several numbers of samples."""
        options = self.experiments.sample_sweep
        if options is None:
            return ()
        return tuple(options.methods or filter(self._is_distilled, self.shortcuts.names()))

    def costed(self) -> tuple[str, ...]:
        """Name the methods whose exits are counted and measured."""
        options = self.experiments.exit_costs
        if options is None:
            return ()
        return tuple(options.methods or self._of_states_alone())

    def translated(self) -> tuple[str, ...]:
        """Name the methods whose exits write targets."""
        options = self.experiments.translation
        if options is None:
            return ()
        return tuple(options.methods or self._of_states_alone())

    def is_fitted_at(self, method: str, rank: float) -> bool:
        """Tell whether the pipeline itself fits a method at this rank of the sweep, written the same way."""
        kind = self.shortcuts.kind(self.fitted_as(method))
        return isinstance(kind, OfRank) and kind.rank == rank

    def looked_through(self) -> tuple[str, ...]:
        """Name the methods of the figure lens."""
        options = self.figures.lens
        if options is None:
            return ()
        exported = (method for method in self.exported() if method in self._of_states_alone())
        return tuple(options.methods or ("identity", *exported))

    def distilled_metric(self) -> str:
        """Name the score that selects a distilled jump. Such jumps predict no state, so they have no mse."""
        metric = self.selection.metric
        return SIGNED_SQUARED_COSINE if metric == MSE else metric

    def analysed(self) -> tuple[str, ...]:
        """Name the kinds whose jumps the figures spaces and ranks compare."""
        return tuple(name for name in self.shortcuts.names() if FACTS[name].analysed)

    def fitted_as(self, method: str) -> str:
        """Name the kind whose shortcuts an evaluated method uses."""
        if method not in SELECTED:
            return method
        return SELECTED[method].kind or self.selection.method

    def _of_states_alone(self) -> tuple[str, ...]:
        """Name the methods, but the arbitrary ones, that read the state of one token at one level."""
        return tuple(
            method for method in self.evaluated() if method != "arbitrary" and self._reads_states(method)
        )

    def _reads_states(self, method: str) -> bool:
        return not FACTS[self.fitted_as(method)].reads_previous

    def _is_distilled(self, method: str) -> bool:
        return FACTS[self.fitted_as(method)].fitted_by == "distillation"

    def check_dimensions(self, model: str, *, blocks: int, hidden: int) -> None:
        """Check ranks and levels against the size of a model.

        Raises
        ------
        StudyError
            If a rank is over H, or the model cannot exit from a level.
        """
        mistakes = self.dimension_mistakes(model, blocks=blocks, hidden=hidden)
        if mistakes:
            raise StudyError("\n".join(mistakes))

    def dimension_mistakes(self, model: str, *, blocks: int, hidden: int) -> list[str]:
        """Write a line for each rank over H, and for each level that the model cannot exit from."""
        return dimension_mistakes(self, model, blocks=blocks, hidden=hidden)


def _facts(method: str) -> Facts | Selected:
    return SELECTED[method] if method in SELECTED else FACTS[method]
