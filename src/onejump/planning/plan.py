"""What a study will cost, stage by stage, before anything runs: tokens, FLOPs, bytes, memory, time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from onejump.planning.cost import Cost, together
from onejump.planning.devices import Device
from onejump.planning.experiment_costs import (
    criteria_cost,
    level_pairs_cost,
    sub_module_activations_cost,
    sub_module_maps_cost,
    sub_modules_cost,
)
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import (
    activations_cost,
    analysis_cost,
    evaluation_cost,
    fit_cost,
    scores_cost,
)
from onejump.study.drawn import ANALYSIS
from onejump.study.kinds import FACTS, EitherSolver, Kind, OfRank
from onejump.study.study import Study

TOKENS_PER_SENTENCE = 29.0
"""Tokens in a sentence of Wikipedia, on average: an exact count needs the text."""
# A stage has the name of its rule.
_GPU_STAGES = (
    *("activations", "distillation", "evaluate"),
    *("confidences", "criteria", "sub_module_activations", "sub_modules"),
)


class Row(NamedTuple):
    """What a stage costs for one model and corpus."""

    model: str
    corpus: str
    stage: str
    jobs: int
    gpu: bool
    cost: Cost
    """Summed over the jobs; the memory is that of the largest job."""
    seconds: float
    """Summed over the jobs."""


def uses_gpu(stage: str, kind: Kind | None = None) -> bool:
    """Tell whether a stage asks for a GPU.

    Stages that run the model or predict over its whole vocabulary do, and fits by gradient.
    """
    return stage in _GPU_STAGES or (isinstance(kind, EitherSolver) and kind.solver == "gradient")


def plan(
    study: Study,
    sizes: Mapping[str, Sizes],
    *,
    device: Device,
    host: Device,
    tokens_per_sentence: float = TOKENS_PER_SENTENCE,
) -> Iterator[Row]:
    """Count what every stage costs whose work grows with the study.

    Parameters
    ----------
    study : Study
    sizes : mapping of model name -> Sizes
    device : Device
        Where stages that use a GPU run.
    host : Device
        Where the others run.
    tokens_per_sentence : float
        Of whole sentences; positions are drawn from them evenly.
    """
    for model, size in sizes.items():
        for corpus, source in study.corpora.items():
            jobs = _Jobs(study, size, source.training, source.validation, tokens_per_sentence)
            for stage in jobs.of_all_stages():
                where = device if stage.gpu else host
                seconds = sum(job.seconds(where, size.dtype) for job in stage.jobs)
                yield Row(
                    model, corpus, stage.name, len(stage.jobs), stage.gpu, together(stage.jobs), seconds
                )


class _Stage(NamedTuple):
    """The jobs of a stage for one model and corpus."""

    name: str
    gpu: bool
    jobs: list[Cost]


@dataclass(frozen=True)
class _Jobs:
    """The jobs that a study needs for one model and corpus."""

    study: Study
    sizes: Sizes
    training: int
    """Training sentences."""
    validation: int
    """Validation sentences."""
    tokens_per_sentence: float

    @property
    def samples(self) -> int:
        """Training samples."""
        return self.training * self.study.activations.positions

    @property
    def held_out(self) -> int:
        """Validation samples."""
        return self.validation * self.study.activations.positions

    @property
    def shard(self) -> int:
        """Training samples in a shard."""
        options = self.study.activations
        return min(self.samples, options.shard_sentences * options.positions)

    def of_all_stages(self) -> Iterator[_Stage]:
        """Go through the stages in the order in which they run."""
        yield from self._pipeline()
        yield from self._level_pairs()
        yield from self._sub_modules()
        yield from self._early_exit()
        yield from self._criteria()
        yield from self._rank_sweep()
        yield from self._transfer()

    def _pipeline(self) -> Iterator[_Stage]:
        study, sizes = self.study, self.sizes
        yield _stage("activations", [*self._shards(self.training), *self._shards(self.validation)])
        for name in study.shortcuts.names():
            if FACTS[name].fitted_by is not None:
                yield self._fits(name)
        yield self._scores("scores", study.selection.method)
        for name in study.shortcuts.names():
            if FACTS[name].selected_by == "distilled_selection":
                yield self._scores("distilled_scores", name)
        if any(ANALYSIS.items() <= drawn.tables.items() for drawn in study.drawn().values()):
            ranks = [self._rank(name) for name in study.analysed()]
            top_k = study.activations.top_k
            yield _stage("analysis", [analysis_cost(sizes, ranks, samples=self.samples, top_k=top_k)])
        for method in study.evaluated():
            yield _stage(f"evaluate {method}", [self._evaluate(method, self.held_out)])

    def _level_pairs(self) -> Iterator[_Stage]:
        options, store = self.study.experiments.level_pairs, self.study.activations.store
        if options is not None:
            cost = level_pairs_cost(self.sizes, options, store, samples=self.samples, held_out=self.held_out)
            yield _stage("level_pairs", [cost])

    def _sub_modules(self) -> Iterator[_Stage]:
        study, sizes, activations = self.study, self.sizes, self.study.activations
        options = study.experiments.sub_modules
        if options is None:
            return
        batch, length = study.compute.batch_tokens, self.tokens_per_sentence
        count = math.ceil(self.training / activations.shard_sentences)
        for part in options.parts:
            one = sub_module_activations_cost(
                sizes,
                part,
                activations,
                math.ceil(self.training / count),
                batch_tokens=batch,
                tokens_per_sentence=length,
            )
            yield _stage(f"sub_module_activations {part}", [one] * count)
            maps = sub_module_maps_cost(
                sizes, part, activations.store, samples=self.samples, shard=self.shard
            )
            yield _stage(f"sub_module_maps {part}", [maps])
        measured = sub_modules_cost(
            sizes,
            activations,
            options,
            sentences=min(options.samples, self.validation),
            batch_tokens=batch,
            tokens_per_sentence=length,
        )
        yield _stage("sub_modules", [measured])

    def _early_exit(self) -> Iterator[_Stage]:
        study = self.study
        if study.experiments.early_exit is None:
            return
        kinds = {study.fitted_as(method) for method in study.exiting()}
        for name in sorted(kinds):
            if FACTS[name].fitted_by == "shortcuts":
                yield self._fits(name, note=" (held out)")
        unseen = math.ceil(study.held_out.thresholds * self.samples)
        for method in study.exiting():
            jobs = [self._evaluate(method, self.held_out), self._evaluate(method, unseen)]
            yield _stage(f"confidences {method}", jobs)

    def _criteria(self) -> Iterator[_Stage]:
        study, store = self.study, self.study.activations.store
        if study.experiments.criteria is not None:
            rank = self._rank(study.selection.method)
            yield _stage("criteria", [criteria_cost(self.sizes, rank, store, samples=self.held_out)])

    def _rank_sweep(self) -> Iterator[_Stage]:
        study = self.study
        if study.experiments.rank_sweep is None:
            return
        ranks = study.experiments.rank_sweep.ranks

        def others(method: str) -> list[float]:
            """Ranks besides the one that the pipeline itself fits."""
            return [rank for rank in ranks if not study.is_fitted_at(method, rank)]

        for name in dict.fromkeys(map(study.fitted_as, study.swept())):
            yield self._fits(name, ranks=others(name), note=" (ranks)")
        for method in study.swept():
            jobs = [self._evaluate(method, self.held_out, rank) for rank in others(method)]
            yield _stage(f"evaluate {method} (ranks)", jobs)

    def _transfer(self) -> Iterator[_Stage]:
        study = self.study
        if study.experiments.transfer is None:
            return
        others = [corpus.validation * study.activations.positions for corpus in study.corpora.values()]
        others.remove(self.held_out)
        for method in study.transferred():
            jobs = [self._evaluate(method, samples) for samples in others]
            yield _stage(f"evaluate {method} (transfer)", jobs)

    def _shards(self, sentences: int) -> Iterator[Cost]:
        options = self.study.activations
        count = math.ceil(sentences / options.shard_sentences)
        for shard in range(count):
            yield activations_cost(
                self.sizes,
                options,
                math.ceil((sentences - shard) / count),
                batch_tokens=self.study.compute.batch_tokens,
                tokens_per_sentence=self.tokens_per_sentence,
            )

    def _kind(self, name: str, rank: float | None = None) -> Kind:
        """The options of a kind, at a rank of the sweep if one is given."""
        kind = self.study.shortcuts.kind(name)
        return kind if rank is None else kind.model_copy(update={"rank": rank})

    def _rank(self, name: str) -> float:
        kind = self.study.shortcuts.kind(name)
        assert isinstance(kind, OfRank)
        return kind.rank

    def _fits(self, name: str, ranks: list[float] | None = None, note: str = "") -> _Stage:
        kinds = [self._kind(name, rank) for rank in ([None] if ranks is None else ranks)]
        jobs = [
            fit_cost(
                self.sizes,
                kind,
                self.study.activations.store,
                samples=self.samples,
                shard=self.shard,
                stopping=self.study.held_out.stopping,
            )
            for kind in kinds
        ]
        rule = str(FACTS[name].fitted_by)
        return _Stage(f"{rule} {name}{note}", uses_gpu(rule, self._kind(name)), jobs)

    def _scores(self, stage: str, name: str) -> _Stage:
        store = self.study.activations.store
        return _stage(stage, [scores_cost(self.sizes, self._rank(name), store, samples=self.samples)])

    def _evaluate(self, method: str, samples: int, rank: float | None = None) -> Cost:
        kind = self._kind(self.study.fitted_as(method), rank)
        store = self.study.activations.store
        return evaluation_cost(self.sizes, method, kind, self.study.evaluation, store, samples=samples)


def _stage(name: str, jobs: list[Cost]) -> _Stage:
    return _Stage(name, uses_gpu(name.split()[0]), jobs)


# Bytes of a sentence in a corpus' table, and of a figure as SVG and PNG.
_SENTENCE, _FIGURE = 100, 230_000


def other_files(study: Study, sizes: Mapping[str, Sizes]) -> dict[str, float]:
    """Count the bytes of files that are written with hardly any work.

    Parameters
    ----------
    study : Study
    sizes : mapping of model name -> Sizes

    Returns
    -------
    dict of what the files hold -> bytes
    """
    # Studies of one GGUF file share what is unpacked from it, in float32.
    unpacked = {
        (model.wheel, model.file, model.gguf): 4.0 * sizes[name].parameters
        for name, model in study.models.items()
        if model.wheel or model.gguf
    }
    pairs = len(study.models) * len(study.corpora)
    return {
        "weights unpacked": sum(unpacked.values()),
        "heads": sum(4.0 * size.vocabulary * size.hidden for size in sizes.values()),
        "text": float(sum(c.training + c.validation for c in study.corpora.values()) * _SENTENCE),
        "figures": float(pairs * len(study.drawn()) * _FIGURE),
    }
