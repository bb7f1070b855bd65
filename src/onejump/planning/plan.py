"""What a study will cost, stage by stage, before anything runs: tokens, FLOPs, bytes, memory, time.

Counted from shapes: n samples, L blocks, width H, vocabulary V, rank r, P parameters. The few constants that
no shape gives (bytes moved per logit, cost of a factorisation) were measured on the default study.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from onejump.base.errors import OneJumpError
from onejump.base.files import read_json
from onejump.base.rank import rank_for
from onejump.study.activations import Activations, Store
from onejump.study.evaluation import Evaluation
from onejump.study.experiments import LevelPairs, SubModules
from onejump.study.kinds import DISTILLED_METHODS
from onejump.study.sources import Model
from onejump.study.study import Study

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Interpreter and libraries: memory, and seconds until a stage begins.
_LIBRARIES, _START = 0.35e9, 2.5
# A solve with its eigenvectors, in units of H^3 products.
_FACTORISATION = 45
# Prompts of like length share a batch; this much of a batch is padding.
_PADDING = 1.05
# An exact tokeniser count needs the text: sentences of Wikipedia have about as many tokens.
TOKENS_PER_SENTENCE = 29.0


@dataclass(frozen=True)
class Device:
    """Rates that a job reaches, FLOP/s and bytes/s."""

    name: str
    half: float
    single: float
    double: float
    bandwidth: float
    """Bytes a second through the many small operations between matrix products."""
    memory: float
    """Bytes."""
    loading: float = 1e9
    """Bytes of weights a second, from disk to where they compute."""

    def with_rate(self, flops: float) -> Device:
        """The same device at another rate in half precision, and other precisions in proportion."""
        share = flops / self.half
        return replace(
            self,
            name=f"{self.name} at {flops / 1e12:g} TFLOP/s",
            half=flops,
            single=self.single * share,
            double=self.double * share,
        )


DEVICES = {
    # Two cores of an EPYC; half precision is no faster than single there.
    "cpu": Device("2 CPU cores", 0.18e12, 0.18e12, 0.09e12, 4.8e9, 16e9),
    "node": Device("16 CPU cores", 1.2e12, 1.2e12, 0.6e12, 40e9, 128e9),
    "h100": Device("H100", 400e12, 45e12, 45e12, 1.5e12, 80e9),
}


@dataclass(frozen=True)
class Sizes:
    """What of a model decides costs."""

    blocks: int
    hidden: int
    vocabulary: int
    parameters: int
    dtype: str = "float32"
    causal: bool = True

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Sizes:
        """From what the model stage wrote (`model.json`)."""
        return cls(**{key: description[key] for key in cls.__dataclass_fields__ if key in description})

    @property
    def weights(self) -> float:
        """Bytes."""
        return self.parameters * _BYTES[self.dtype]


GPU_STAGES = ("activations", "distillation", "evaluate", "criteria", "confidences", "submodules")


class Cost(NamedTuple):
    """Of one job."""

    tokens: float = 0.0
    model_flops: float = 0.0
    """In the model's dtype."""
    single_flops: float = 0.0
    double_flops: float = 0.0
    moved: float = 0.0
    """Bytes through memory outside matrix products."""
    loaded: float = 0.0
    """Bytes of weights."""
    disk: float = 0.0
    """Bytes written."""
    memory: float = _LIBRARIES
    """Peak, in bytes."""

    @property
    def flops(self) -> float:
        """All of them."""
        return self.model_flops + self.single_flops + self.double_flops

    def seconds(self, device: Device, dtype: str) -> float:
        """Time on a device."""
        return _START + self.work(device, dtype)

    def work(self, device: Device, dtype: str) -> float:
        """Time on a device, without that of starting an interpreter."""
        rate = device.single if dtype == "float32" else device.half
        return (
            self.model_flops / rate
            + self.single_flops / device.single
            + self.double_flops / device.double
            + self.moved / device.bandwidth
            + self.loaded / device.loading
        )


def stored_bits(store: Store) -> float:
    """Bits of a stored activation: kept mantissa bits hardly compress, sign and exponent to about 7."""
    whole, mantissa = (32, 23) if store.dtype == "float32" else (16, 10)
    if store.compressor == "none":
        return whole
    return min(whole, (mantissa if store.keepbits is None else store.keepbits) + 7)


def activations_cost(
    sizes: Sizes, options: Activations, sentences: int, *, batch_tokens: int, tokens_per_sentence: float
) -> Cost:
    """Extract one shard."""
    samples = sentences * options.positions
    if sizes.causal:
        # The furthest of p positions drawn evenly from n tokens is the (n + 1) p / (p + 1)-th.
        prefix = (tokens_per_sentence + 1) * options.positions / (options.positions + 1)
        tokens = sentences * min(prefix, options.max_tokens)
    else:
        # Each position is masked in a sentence of its own.
        tokens = samples * min(tokens_per_sentence, options.max_tokens)
    levels, width, chunk = sizes.blocks + 1, sizes.hidden, options.store.chunk_samples
    head = sizes.vocabulary * width
    # Samples of a batch: those of an eighth of its tokens, but a token is one sample at most.
    together = min(min(batch_tokens / 8, sentences) * options.positions, batch_tokens, samples)
    # Logits are made for some samples at a time (`logit_parts.LOGITS_TOGETHER`).
    logits = min(together * sizes.vocabulary, max(2**22, sizes.vocabulary))
    return Cost(
        tokens=tokens,
        model_flops=2 * (sizes.parameters - head) * tokens * _PADDING,
        single_flops=2 * head * samples,
        moved=samples * (sizes.vocabulary * 16 + levels * width * 24),
        loaded=sizes.weights,
        disk=samples * (levels * width * stored_bits(options.store) / 8 + options.top_k * 6 + 16),
        memory=_LIBRARIES
        + 0.25e9  # transformers
        + sizes.weights
        + 4 * head
        + 8 * levels * min(chunk, samples) * width
        + together * levels * width * 8
        + 8 * logits
        + batch_tokens * width * 12 * _BYTES[sizes.dtype],
    )


def fit_cost(
    sizes: Sizes, method: str, options: Mapping[str, Any], store: Store, *, samples: int, shard: int
) -> Cost:
    """Fit one method."""
    levels, width = sizes.blocks, sizes.hidden
    chunk = min(store.chunk_samples, samples)
    rank = rank_for(width, options.get("rank"))
    full_rank = method in ("jtc", "affine")
    numbers = width**2 if full_rank else 2 * width * rank + 4 * width * (method not in ("njtc", "distilled"))
    disk = 4.0 * numbers * (1 if method in ("joint", "one-jump") else levels)
    if "steps" in options:
        return _distillation_cost(
            sizes, method, options, samples=samples, shard=shard, chunk=chunk, disk=disk
        )
    if options["solver"] == "gradient":
        gradient = options["gradient"]
        read = gradient["epochs"] * samples * levels * width
        batch = (levels + 1) * gradient["batch"] * width * 4
        memory = _LIBRARIES + 4 * (levels + 1) * shard * width + 5 * batch
        return Cost(single_flops=8 * read * rank, moved=40.0 * read, disk=disk, memory=memory)
    solves = 1 if method == "joint" else levels
    return Cost(
        double_flops=4 * samples * levels * width**2 + _FACTORISATION * solves * width**3,
        moved=samples * levels * width * 24.0,
        disk=disk,
        memory=_LIBRARIES + 10 * 8 * width**2 + 6 * 8 * chunk * width,
    )


def _distillation_cost(
    sizes: Sizes,
    method: str,
    options: Mapping[str, Any],
    *,
    samples: int,
    shard: int,
    chunk: int,
    disk: float,
) -> Cost:
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    inner = width if method == "affine" else 1 + rank_for(width, options["rank"])
    # A tenth of the documents says when to stop, unless the study says otherwise.
    fits, held_out = (1, 4096) if method == "one-jump" else (levels, min(4096, 0.1 * samples))
    passed = options["steps"] * (3 * options["batch"] * vocabulary * inner)
    # Behind a low rank, the exit head is made and its gradient brought back at each step.
    made = 0 if method == "affine" else 2 * options["steps"] * vocabulary * width * inner
    # Every twentieth step looks at the held-out samples.
    looked = 21 * held_out * vocabulary
    states = shard * (levels + 1) if method == "one-jump" else samples
    return Cost(
        single_flops=2.0 * fits * (passed + made + looked * inner),
        double_flops=4 * samples * levels * width**2 + 2 * _FACTORISATION * fits * width**3,
        moved=fits * (8.0 * options["steps"] * options["batch"] * vocabulary + 4.0 * looked)
        + samples * levels * width * 24.0,
        disk=disk,
        memory=_LIBRARIES
        + 12 * 8 * width**2
        + 6 * 8 * chunk * width
        + 12 * vocabulary * width
        + 6 * 4 * 2**21
        + 16 * vocabulary * inner
        + 4 * width * (states + held_out),
    )


def scores_cost(sizes: Sizes, options: Mapping[str, Any], store: Store, *, samples: int) -> Cost:
    """Score all jumps on all levels."""
    levels, width = sizes.blocks, sizes.hidden
    columns = levels * rank_for(width, options.get("rank"))
    chunk = min(store.chunk_samples, samples)
    return Cost(
        single_flops=2 * samples * levels * width * columns,
        moved=samples * levels * (columns * 12.0 + width * 8),
        disk=7000 + 9.0 * 3 * levels**2,
        memory=_LIBRARIES + 8 * (levels + 1) * chunk * width + 8 * width * columns + 12 * chunk * columns,
    )


def analysis_cost(sizes: Sizes, ranks: Sequence[float | None], *, samples: int, top_k: int) -> Cost:
    """The head's metric once; for each jump, its predictions of some samples with each number of ranks."""
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    predicted = min(1024, samples)
    known = [rank_for(width, rank) for rank in ranks]
    rows = [rank + 1 for rank in known for _ in range(levels)]
    return Cost(
        single_flops=2 * vocabulary * sum(row * width + row**2 * predicted for row in rows),
        double_flops=2 * width**2 * (vocabulary + 2 * samples),
        moved=16.0 * vocabulary * predicted * sum(rows) + 8.0 * samples * width * len(rows),
        loaded=4.0 * vocabulary * width,
        disk=20.0 * len(rows) * (levels + 2 * max(known, default=0)),
        memory=_LIBRARIES
        + 24 * vocabulary * width
        + 6 * 8 * width**2
        + 8 * 512 * top_k * width
        + 20 * samples * top_k
        + 8 * width * sum(3 * row for row in rows),
    )


def evaluation_cost(
    sizes: Sizes, method: str, evaluation: Evaluation, store: Store, *, samples: int, rank: float | None
) -> Cost:
    """Evaluate one method at all levels."""
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    chosen = len(evaluation.arbitrary) + evaluation.random if method == "arbitrary" else 1
    at_levels = samples * levels * chosen
    full_rank = method in ("identity", "jtc", "residual", "affine")
    inner = width if full_rank else rank_for(width, rank)
    chunk = min(store.chunk_samples, samples)
    one_for_all = method in ("joint", "one-jump") or method.startswith("ojfa")
    heads = 0 if full_rank else 1 if one_for_all else chosen if method == "arbitrary" else levels
    return Cost(
        single_flops=2 * vocabulary * (at_levels * inner + samples * width)
        + (2 * at_levels * width**2 if method in ("jtc", "affine") else 0),
        moved=at_levels * (vocabulary * (37.0 if full_rank else 16.0) + width * 40),
        loaded=4.0 * vocabulary * width,
        disk=6500 + 13.0 * levels * chosen * (len(evaluation.precision_at) + 3),
        memory=_LIBRARIES
        + 8 * vocabulary * width
        + 6 * 4 * 2**22
        + 4 * 8 * width**2
        + 6 * (levels + 1) * chunk * width
        + 4 * vocabulary * inner * heads,
    )


def criteria_cost(sizes: Sizes, options: Mapping[str, Any], store: Store, *, samples: int) -> Cost:
    """Every jump at every level, on validation samples."""
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    inner = rank_for(width, options.get("rank"))
    predictions = samples * levels**2
    return Cost(
        single_flops=2 * predictions * inner * (vocabulary + width) + 2 * levels * vocabulary * width * inner,
        moved=predictions * (vocabulary * 12.0 + width * 4),
        loaded=4.0 * vocabulary * width,
        disk=20_000,
        memory=_LIBRARIES
        + 4 * vocabulary * (width + levels * inner)
        + 8 * min(store.chunk_samples, samples) * width
        + 48 * samples * levels
        + 16 * 64 * vocabulary,
    )


def level_pairs_cost(sizes: Sizes, options: LevelPairs, store: Store, *, samples: int, held_out: int) -> Cost:
    """Fit every pair of levels, and measure it on validation samples."""
    levels, width = sizes.blocks, sizes.hidden
    pairs = levels * (levels + 1) / 2
    low_rank = len({"njtc", "n-njtc"}.intersection(options.methods))
    fitted = low_rank + ("jtc" in options.methods)
    predicted = held_out * width * (2 * width * ("jtc" in options.methods) + 6 * fitted)
    chunk = min(store.chunk_samples, max(samples, held_out))
    return Cost(
        double_flops=pairs * (2 * samples * width**2 + 2 * fitted * width**3 + predicted)
        + levels * _FACTORISATION * width**3,
        moved=(samples + held_out) * pairs * width * 24.0,
        disk=9000 + 2.0 * pairs * len(options.methods),
        memory=_LIBRARIES
        + max(2**28, 8 * (levels + 1) * width**2)
        + 8 * width**2 * (levels * ("jtc" in options.methods) + 12)
        + 12 * (levels + 1) * chunk * width,
    )


def submodule_activations_cost(
    sizes: Sizes,
    part: str,
    options: Activations,
    sentences: int,
    *,
    batch_tokens: int,
    tokens_per_sentence: float,
) -> Cost:
    """As extraction, but for what is kept: inputs and outputs of one module a block, or of two norms."""
    run: dict[str, Any] = {"batch_tokens": batch_tokens, "tokens_per_sentence": tokens_per_sentence}
    kept = replace(sizes, blocks=2 * _modules(sizes, part))
    larger = activations_cost(kept, options, sentences, **run)
    passed = activations_cost(sizes, options, sentences, **run)
    return passed._replace(disk=larger.disk, memory=larger.memory)


def submodule_maps_cost(sizes: Sizes, part: str, store: Store, samples: int, shard: int) -> Cost:
    """As a full-rank fit at as many levels as there are modules."""
    levels = replace(sizes, blocks=_modules(sizes, part))
    return fit_cost(levels, "jtc", {"solver": "exact"}, store, samples=samples, shard=shard)


def _modules(sizes: Sizes, part: str) -> int:
    return sizes.blocks * (2 if part == "norms" else 1)


def submodules_cost(
    sizes: Sizes,
    activations: Activations,
    options: SubModules,
    *,
    sentences: int,
    batch_tokens: int,
    tokens_per_sentence: float,
) -> Cost:
    """The model with each part replaced above each level; below it, its own states are kept."""
    whole = activations_cost(
        sizes, activations, sentences, batch_tokens=batch_tokens, tokens_per_sentence=tokens_per_sentence
    )
    measured = -(-sizes.blocks // options.step) * len(options.parts)
    head = sizes.vocabulary * sizes.hidden
    return whole._replace(
        model_flops=whole.model_flops * (1 + measured / 2),
        single_flops=2 * head * sentences * (1 + measured),
        moved=sentences * measured * sizes.vocabulary * 37.0,
        disk=7000 + 20.0 * measured,
        memory=whole.memory
        + 4 * (sizes.blocks + 1) * batch_tokens * sizes.hidden
        + 8 * sizes.blocks * sizes.hidden**2
        + 6 * 4 * 2**22,
    )


class Row(NamedTuple):
    """A stage of one model on one corpus."""

    model: str
    corpus: str
    stage: str
    jobs: int
    gpu: bool
    cost: Cost
    """Of all its jobs, but the memory: of the largest."""
    seconds: float
    """Of all its jobs, one after another."""


def uses_gpu(stage: str, options: Mapping[str, Any] | None = None) -> bool:
    """What runs the model or its whole vocabulary asks for a GPU, and gradient fits; nothing else does."""
    return stage in GPU_STAGES or (
        stage == "shortcuts" and options is not None and options.get("solver") == "gradient"
    )


def plan(
    study: Study,
    sizes: Mapping[str, Sizes],
    *,
    device: Device,
    host: Device,
    tokens_per_sentence: float = TOKENS_PER_SENTENCE,
) -> Iterator[Row]:
    """Costs of every stage that grows with the study.

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
            for stage, jobs in _stages(study, size, source.training, source.validation, tokens_per_sentence):
                gpu = uses_gpu(
                    stage.split()[0],
                    study.shortcuts.options(stage.split()[1]) if "shortcuts" in stage else None,
                )
                where = device if gpu else host
                total = Cost(*(sum(values) for values in zip(*jobs, strict=True)))
                total = total._replace(memory=max(job.memory for job in jobs))
                seconds = sum(job.seconds(where, size.dtype) for job in jobs)
                yield Row(model, corpus, stage, len(jobs), gpu, total, seconds)


def _stages(
    study: Study, sizes: Sizes, training: int, validation: int, tokens_per_sentence: float
) -> Iterator[tuple[str, list[Cost]]]:
    options, store = study.activations, study.activations.store
    shards = []
    for sentences in (training, validation):
        count = math.ceil(sentences / options.shard_sentences)
        shards += [
            activations_cost(
                sizes,
                options,
                math.ceil((sentences - shard) / count),
                batch_tokens=study.compute.batch_tokens,
                tokens_per_sentence=tokens_per_sentence,
            )
            for shard in range(count)
        ]
    yield "activations", shards
    samples, held_out = training * options.positions, validation * options.positions
    shard = min(samples, options.shard_sentences * options.positions)
    for method in study.shortcuts.methods():
        if method != "identity":
            fitted = study.shortcuts.options(method)
            stage = "distillation" if method in DISTILLED_METHODS else "shortcuts"
            yield (
                f"{stage} {method}",
                [fit_cost(sizes, method, fitted, store, samples=samples, shard=shard)],
            )
    chosen = study.shortcuts.options(study.selection.method)
    yield "scores", [scores_cost(sizes, chosen, store, samples=samples)]
    if study.shortcuts.distilled is not None:
        distilled = study.shortcuts.options("distilled")
        yield "distilled-scores", [scores_cost(sizes, distilled, store, samples=samples)]
    if study.figures.spaces is not None or study.figures.ranks is not None:
        ranks = [study.shortcuts.options(method)["rank"] for method in study.analysed()]
        yield "analysis", [analysis_cost(sizes, ranks, samples=samples, top_k=options.top_k)]
    for method in study.evaluated():
        rank = study.shortcuts.options(study.fitted_as(method)).get("rank")
        cost = evaluation_cost(sizes, method, study.evaluation, store, samples=held_out, rank=rank)
        yield f"evaluate {method}", [cost]
    yield from _experiments(study, sizes, training, validation, tokens_per_sentence)


def _experiments(
    study: Study, sizes: Sizes, training: int, validation: int, tokens_per_sentence: float
) -> Iterator[tuple[str, list[Cost]]]:
    options, store, experiments = study.activations, study.activations.store, study.experiments
    samples, held_out = training * options.positions, validation * options.positions
    shard = min(samples, options.shard_sentences * options.positions)

    def fit(method: str, **changed: Any) -> Cost:
        fitted = study.shortcuts.options(method) | changed
        return fit_cost(sizes, method, fitted, store, samples=samples, shard=shard)

    def evaluate(method: str, of: int, rank: float | None = None) -> Cost:
        known = study.shortcuts.options(study.fitted_as(method)).get("rank")
        return evaluation_cost(sizes, method, study.evaluation, store, samples=of, rank=rank or known)

    if pairs := experiments.level_pairs:
        yield "level-pairs", [level_pairs_cost(sizes, pairs, store, samples=samples, held_out=held_out)]
    if replaced := experiments.sub_modules:
        run: dict[str, Any] = {
            "batch_tokens": study.compute.batch_tokens,
            "tokens_per_sentence": tokens_per_sentence,
        }
        count = math.ceil(training / options.shard_sentences)
        for part in replaced.parts:
            one = submodule_activations_cost(sizes, part, options, math.ceil(training / count), **run)
            yield f"submodules {part}", [one] * count
            yield f"submodule-maps {part}", [submodule_maps_cost(sizes, part, store, samples, shard)]
        sentences = min(replaced.samples, validation)
        yield "submodules", [submodules_cost(sizes, options, replaced, sentences=sentences, **run)]
    if experiments.early_exit:
        exact = {study.fitted_as(method) for method in study.exiting()} - {"identity", *DISTILLED_METHODS}
        for method in sorted(exact):
            yield f"shortcuts {method} (held out)", [fit(method)]
        unseen = math.ceil(study.held_out.thresholds * samples)
        for method in study.exiting():
            yield f"confidences {method}", [evaluate(method, held_out), evaluate(method, unseen)]
    if experiments.criteria:
        chosen = study.shortcuts.options(study.selection.method)
        yield "criteria", [criteria_cost(sizes, chosen, store, samples=held_out)]
    if sweep := experiments.rank_sweep:

        def ranks_besides(method: str) -> list[float]:
            return [rank for rank in sweep.ranks if not study.is_fitted_at(method, rank)]

        for method in dict.fromkeys(study.fitted_as(method) for method in study.swept()):
            stage = "distillation" if method in DISTILLED_METHODS else "shortcuts"
            yield f"{stage} {method} (ranks)", [fit(method, rank=rank) for rank in ranks_besides(method)]
        for method in study.swept():
            yield (
                f"evaluate {method} (ranks)",
                [evaluate(method, held_out, rank) for rank in ranks_besides(method)],
            )
    if experiments.transfer:
        others = [corpus.validation * options.positions for corpus in study.corpora.values()]
        others.remove(held_out)
        for method in study.transferred():
            yield f"evaluate {method} (transfer)", [evaluate(method, of) for of in others]


def look_up_sizes(study: Study, results: Path, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Sizes]:
    """Sizes of the study's models: as given, of an earlier run, or from the model's own configuration.

    Raises
    ------
    OneJumpError
        If a model's sizes are to be found nowhere.
    """
    unknown = set(given) - set(study.models)
    if unknown:
        raise OneJumpError(
            f"--sizes: {', '.join(sorted(unknown))} given, accepted is a model of the study: "
            f"{', '.join(study.models)}"
        )
    found = {}
    for name, model in study.models.items():
        description = results / study.study / name / "model.json"
        if name in given:
            found[name] = Sizes(**given[name], dtype=model.dtype)
        elif description.is_file():
            found[name] = Sizes.of(read_json(description))
        else:
            found[name] = Sizes(**_read_sizes(model), dtype=model.dtype)
    return found


def _read_sizes(model: Model) -> dict[str, Any]:
    # Torch is loaded here, so that a workflow that only counts does not wait for it.
    from onejump.models.loading import sizes_from_configuration, sizes_from_gguf

    source = model.hub or model.folder
    if source:
        return sizes_from_configuration(
            source,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            modules=None if model.modules is None else model.modules.model_dump(),
        )
    path = Path(model.gguf or Path("resources", model.wheel or "", model.file or ""))
    if not path.is_file():
        raise OneJumpError(f"{path}: not there yet; fetch it (snakemake --cores 1 {path}), or give --sizes")
    return sizes_from_gguf(path)


# Bytes of a sentence in a corpus' table, and of a figure as SVG and PNG.
_SENTENCE, _FIGURE = 100, 230_000


def other_files(study: Study, sizes: Mapping[str, Sizes]) -> dict[str, float]:
    """Bytes of what stages with hardly any work leave, by what it is.

    Parameters
    ----------
    study : Study
    sizes : mapping of model name -> Sizes
    """
    # Studies of one GGUF file share what is unpacked from it, in float32.
    unpacked = {
        (model.wheel, model.file, model.gguf): 4.0 * sizes[name].parameters
        for name, model in study.models.items()
        if model.wheel or model.gguf
    }
    figures = len(study.figures.names()) + len(study.experiments.names())
    return {
        "weights unpacked": sum(unpacked.values()),
        "heads": sum(4.0 * size.vocabulary * size.hidden for size in sizes.values()),
        "text": float(sum(c.training + c.validation for c in study.corpora.values()) * _SENTENCE),
        "figures": float(len(study.models) * len(study.corpora) * figures * _FIGURE),
    }


def show_plan(
    rows: Sequence[Row],
    *,
    device: Device,
    host: Device,
    nodes: int,
    besides: Mapping[str, float] | None = None,
) -> str:
    """A table by stage for each model and corpus, what it adds up to, and what binds first.

    Parameters
    ----------
    rows : sequence of Row
    device, host : Device
    nodes : int
        Jobs at a time.
    besides : mapping of what -> bytes, optional
        Of `other_files`.
    """
    lines = []
    besides = {what: size for what, size in (besides or {}).items() if size}
    for pair in dict.fromkeys((row.model, row.corpus) for row in rows):
        lines += [
            f"{pair[0]} on {pair[1]}",
            f"{'stage':<30}{'jobs':>5}  {'on':<5}{'tokens':>9}{'FLOPs':>9}"
            f"{'disk':>10}{'memory':>10}{'time':>10}",
        ]
        for row in rows:
            if (row.model, row.corpus) == pair:
                lines.append(
                    f"{row.stage:<30}{row.jobs:>5}  {'gpu' if row.gpu else 'cpu':<5}"
                    f"{_short(row.cost.tokens):>9}{_short(row.cost.flops):>9}{_short(row.cost.disk, 'B'):>10}"
                    f"{_short(row.cost.memory, 'B'):>10}{_time(row.seconds):>10}"
                )
        lines.append("")
    kinds = dict.fromkeys(row.stage.split()[0] for row in rows)
    stages = {kind: [row for row in rows if row.stage.split()[0] == kind] for kind in kinds}
    walls = {kind: _wall(found, nodes) for kind, found in stages.items()}
    longest = max(walls, key=lambda kind: walls[kind])
    jobs, disk = sum(row.jobs for row in rows), sum(row.cost.disk for row in rows)
    if besides:
        lines.append("besides: " + ", ".join(f"{what} {_short(size, 'B')}" for what, size in besides.items()))
    disk += sum(besides.values())
    lines += [
        f"total: {jobs} jobs, {_short(disk, 'B')} on disk, {_time(sum(walls.values()))} with {nodes} "
        f"job{'s' if nodes > 1 else ''} at a time (gpu: {device.name}, cpu: {host.name})",
        f"binds first: {longest}, {_time(walls[longest])} of that",
    ]
    for row in rows:
        where = device if row.gpu else host
        if row.cost.memory > where.memory:
            lines.append(
                f"{row.stage} of {row.model} needs {_short(row.cost.memory, 'B')}, {where.name} has "
                f"{_short(where.memory, 'B')}: "
                + (
                    f"{math.ceil(row.cost.memory / where.memory)} GPUs a job (device_map: auto)"
                    if row.stage == "activations"
                    else "more memory, or fewer levels or samples"
                )
            )
    return "\n".join(lines)


def _wall(rows: Sequence[Row], nodes: int) -> float:
    """Seconds until the jobs of one kind are done, as many at a time as there are nodes."""
    jobs = sum(row.jobs for row in rows)
    longest = max(row.seconds / row.jobs for row in rows)
    return max(longest, sum(row.seconds for row in rows) / min(nodes, jobs))


def _time(seconds: float) -> str:
    """In the unit that fits: seconds, minutes, hours."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.3g} h" if seconds < 999 * 3600 else f"{seconds / 3600:,.0f} h"


def _short(number: float, unit: str = "") -> str:
    if number == 0:
        return "-"
    scale = max(0, min(6, int(math.log10(number) // 3)))
    return f"{number / 1000**scale:.3g} {'kMGTPE'[scale - 1] if scale else ''}{unit}".strip()
