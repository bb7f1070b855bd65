"""What a study will cost, stage by stage, before anything runs: tokens, FLOPs, bytes, memory, time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from onejump.planning.cost import Cost, together
from onejump.planning.devices import Device
from onejump.planning.jobs import JobCosts
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import tokens_of_text
from onejump.planning.tuning_cost import tuning_cost
from onejump.study.drawn import ANALYSIS
from onejump.study.experiments import JointOptimisation, SubModules
from onejump.study.kinds import FACTS, EitherSolver, Kind
from onejump.study.sources import Corpus
from onejump.study.study import Study

TOKENS_PER_SENTENCE = 29.0
"""Tokens in a sentence of Wikipedia, on average: an exact count needs the text."""
# A stage has the name of its rule.
_GPU_STAGES = (
    *("tuning", "generation", "activations", "distillation", "evaluate"),
    *(
        "level_predictions",
        "confidences",
        "calibration",
        "criteria",
        "exit_costs",
        "sub_module_activations",
        "sub_modules",
        "sub_layers",
        "copied_texts",
        "copied_states",
    ),
    *("translation", "translation_by_gates", "lens"),
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
        if (tuned := study.models[model].tuned) is not None:
            cost = tuning_cost(size, tuned)
            yield Row(model, tuned.corpus, "tuning", 1, True, cost, cost.seconds(device, size.dtype))
        for corpus in study.corpora:
            costs = JobCosts(study, size, corpus, tokens_per_sentence)
            for stage in _stages(study, costs):
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


def _stages(study: Study, costs: JobCosts) -> Iterator[_Stage]:
    """Go through the stages in the order in which they run."""
    yield from _pipeline(study, costs)
    experiments = study.experiments
    if experiments.level_pairs is not None:
        yield _stage("level_pairs", [costs.level_pairs(experiments.level_pairs)])
    if experiments.sub_modules is not None:
        yield from _sub_modules(experiments.sub_modules, costs)
    if experiments.sub_layers is not None:
        yield _stage("sub_layers", [costs.sub_layers(experiments.sub_layers)])
    if experiments.copied_states is not None:
        yield _stage("copied_texts", [costs.copied_texts(experiments.copied_states)])
        yield _stage("copied_states", [costs.copied_states(experiments.copied_states)])
    yield from _refits(study, costs)
    yield from _confidences(study, costs)
    for method in study.calibrated():
        # Samples for thresholds and those for validation are predicted in one job.
        samples = costs.samples("validation") + _unseen(study, costs)
        yield _stage(f"calibration {method}", [costs.evaluate(method, samples)])
    if experiments.joint_optimisation is not None:
        yield from _joint_optimisation(study, costs, experiments.joint_optimisation)
    if experiments.criteria is not None:
        yield _stage("criteria", [costs.criteria()])
    if experiments.exit_costs is not None:
        yield _stage("exit_costs", [costs.exit_costs(experiments.exit_costs)])
    if experiments.translation is not None:
        yield _stage("translation", [costs.translation(experiments.translation)])
        yield _stage("translation_by_gates", [costs.translation_by_gates(experiments.translation)])
    if experiments.rank_sweep is not None:
        yield from _rank_sweep(study, costs, experiments.rank_sweep.ranks)
    if experiments.sample_sweep is not None:
        counts = len(experiments.sample_sweep.counts)
        for name in study.sampled():
            yield _fits(study, name, [costs.fit(name)] * counts, note=" (samples)")
            jobs = [costs.evaluate(name, costs.samples("validation"))] * counts
            yield _stage(f"evaluate {name} (samples)", jobs)
    if experiments.transfer is not None:
        others = [
            sentences.validation * study.activations_of(corpus).positions
            for corpus, sentences in study.corpora.items()
            if corpus != costs.corpus
        ]
        for method in study.transferred():
            jobs = [costs.evaluate(method, samples) for samples in others]
            yield _stage(f"evaluate {method} (transfer)", jobs)


def _pipeline(study: Study, costs: JobCosts) -> Iterator[_Stage]:
    shards = [(split, shard) for split in ("training", "validation") for shard in range(costs.shards(split))]
    if study.corpora[costs.corpus].generated is not None:
        yield _stage("generation", [costs.generation(*shard) for shard in shards])
    yield _stage("activations", [costs.activations(*shard) for shard in shards])
    for name in study.shortcuts.names():
        if FACTS[name].fitted_by is not None:
            yield _fits(study, name, [costs.fit(name)])
    yield _stage("scores", [costs.scores(study.selection.method)])
    for name in study.shortcuts.names():
        if FACTS[name].selected_by == "distilled_selection":
            yield _stage("distilled_scores", [costs.scores(name)])
    if any(ANALYSIS.items() <= drawn.tables.items() for drawn in study.drawn().values()):
        yield _stage("analysis", [costs.analysis()])
    for method in study.evaluated():
        yield _stage(f"evaluate {method}", [costs.evaluate(method, costs.samples("validation"))])
    if study.figures.lens is not None:
        yield _stage("lens", [costs.lens(study.figures.lens, len(study.looked_through()))])


def _sub_modules(options: SubModules, costs: JobCosts) -> Iterator[_Stage]:
    for part in options.parts:
        shards = range(costs.shards("training"))
        jobs = [costs.sub_module_activations(part, shard) for shard in shards]
        yield _stage(f"sub_module_activations {part}", jobs)
        yield _stage(f"sub_module_maps {part}", [costs.sub_module_maps(part)])
    yield _stage("sub_modules", [costs.sub_modules(options)])


def _refits(study: Study, costs: JobCosts) -> Iterator[_Stage]:
    """Fits without the documents for thresholds."""
    for name in sorted({study.fitted_as(method) for method in (*study.thresholded(), *study.calibrated())}):
        if FACTS[name].fitted_by == "shortcuts":
            yield _fits(study, name, [costs.fit(name)], note=" (held out)")


def _unseen(study: Study, costs: JobCosts) -> int:
    """Count the samples for thresholds."""
    return math.ceil(study.held_out.thresholds * costs.samples("training"))


def _confidences(study: Study, costs: JobCosts) -> Iterator[_Stage]:
    for method in study.confident():
        samples = [costs.samples("validation")]
        if method in study.thresholded():
            samples.append(_unseen(study, costs))
        yield _stage(f"confidences {method}", [costs.confidences(method, count) for count in samples])


def _joint_optimisation(study: Study, costs: JobCosts, options: JointOptimisation) -> Iterator[_Stage]:
    yield _stage("level_predictions", [costs.level_predictions(options)])
    if "identity" not in study.exiting():
        counts = costs.samples("validation"), _unseen(study, costs)
        yield _stage("confidences identity", [costs.evaluate("identity", samples) for samples in counts])


def _rank_sweep(study: Study, costs: JobCosts, ranks: Sequence[float]) -> Iterator[_Stage]:
    def others(method: str) -> list[float]:
        """Ranks besides the one that the pipeline itself fits."""
        return [rank for rank in ranks if not study.is_fitted_at(method, rank)]

    for name in dict.fromkeys(map(study.fitted_as, study.swept())):
        yield _fits(study, name, [costs.fit(name, rank) for rank in others(name)], note=" (ranks)")
    for method in study.swept():
        jobs = [costs.evaluate(method, costs.samples("validation"), rank) for rank in others(method)]
        yield _stage(f"evaluate {method} (ranks)", jobs)


def _fits(study: Study, name: str, jobs: list[Cost], note: str = "") -> _Stage:
    rule = str(FACTS[name].fitted_by)
    return _Stage(f"{rule} {name}{note}", uses_gpu(rule, study.shortcuts.kind(name)), jobs)


def _stage(name: str, jobs: list[Cost]) -> _Stage:
    return _Stage(name, uses_gpu(name.split()[0]), jobs)


# Bytes of a sentence in a corpus' table, of a generated token in one, of a figure as SVG and PNG, and of a
# kept jump's model card with two figures.
_SENTENCE, _TOKEN, _FIGURE, _CARD = 100, 5, 230_000, 230_000


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
        "weights tuned": sum(sizes[name].weights for name, model in study.models.items() if model.tuned),
        "heads": sum(4.0 * size.vocabulary * size.hidden for size in sizes.values()),
        "text": float(sum(_text_bytes(study, name, len(study.models)) for name in study.corpora)),
        "figures": float(pairs * len(study.drawn()) * _FIGURE),
        "kept jumps": sum(
            len(study.corpora) * (_CARD + 4.0 * _numbers_kept(study, method, size))
            for method in study.exported()
            for size in sizes.values()
        ),
    }


def _text_bytes(study: Study, name: str, models: int) -> float:
    """Bytes of a corpus' tables. Each model generates its own text: tables of shards, and one of all."""
    corpus = study.corpora[name]
    texts = corpus.training + corpus.validation
    if corpus.mixture is not None:
        shares = corpus.mixture.parts
        mean = sum(share * _bytes_of_text(study.corpora[part]) for part, share in shares.items())
        return models * texts * mean / sum(shares.values())
    return texts * _bytes_of_text(corpus) * (1 if corpus.generated is None else models * 2)


def _bytes_of_text(corpus: Corpus) -> float:
    """Bytes of a sentence, or of a generated text, in a table."""
    return _SENTENCE if corpus.generated is None else tokens_of_text(corpus.generated) * _TOKEN


def _numbers_kept(study: Study, method: str, size: Sizes) -> float:
    """Count the numbers of the one map by which a method serves all levels."""
    kind = study.fitted_as(method)
    numbers = study.shortcuts.kind(kind).numbers(size.hidden, size.blocks)
    return numbers if FACTS[kind].one_for_all else numbers / size.blocks
