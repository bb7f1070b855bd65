# What jobs ask of the machine or the cluster: threads, memory, run time and GPUs, counted from the study and the
# model's sizes. None of it changes a result.

from onejump.planning.devices import DEVICES
from onejump.planning.experiment_costs import (
    criteria_cost,
    level_pairs_cost,
    sub_module_activations_cost,
    sub_module_maps_cost,
    sub_modules_cost,
)
from onejump.planning.plan import uses_gpu
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import (
    activations_cost,
    analysis_cost,
    evaluation_cost,
    fit_cost,
    scores_cost,
)

# More threads than these help no stage; --cores and a profile's max-threads lower them.
MOST_THREADS = 16
# Seconds of work on a CPU below which a job gets one thread: jobs that are short then run side by side, as what
# they mostly do is start an interpreter and import torch.
SHORT = 5


def threads_of(cost):
    """Threads of a stage, from its costs: one for a short job.

    Before the model stage has run the costs are not known; Snakemake asks again when the job is ready. Where
    results go to a storage of their own, a node asks before the model's file is on it, and has to come to the
    threads that the job was submitted with.
    """

    def threads(wildcards, input):
        in_storage = workflow.storage_settings.default_storage_provider is not None
        if in_storage or not Path(input.description).is_file():
            return MOST_THREADS
        sizes = Sizes.of(read_description(input.description))
        return MOST_THREADS if cost(wildcards, sizes).work(DEVICES["cpu"], sizes.dtype) > SHORT else 1

    return threads


def asked_of_the_site(cost, stage, kind=None):
    """Resources of a stage: a GPU where it uses one, memory and run time from its costs.

    `cost` gives the costs of one job from its wildcards and its model's sizes. These are known once the model
    stage has run: until then Snakemake holds the function's missing file for "to be determined".
    """

    def costs(wildcards, input):
        return cost(wildcards, Sizes.of(read_description(input.description)))

    def on_gpu(wildcards):
        return STUDY.compute.device != "cpu" and uses_gpu(stage, kind(wildcards) if kind else None)

    def gpus(wildcards, input):
        if not on_gpu(wildcards):
            return 0
        if STUDY.compute.device_map is None or stage != "activations":
            return 1
        return math.ceil(costs(wildcards, input).memory / DEVICES["h100"].memory)

    def mem_mb(wildcards, input, attempt):
        # A third more than was counted, Snakemake's own processes, and again as much after each failure.
        return int((costs(wildcards, input).memory * 1.33 / 1e6 + 500) * attempt)

    def runtime(wildcards, input, attempt):
        # Minutes, on a machine a few times slower than the one to expect.
        sizes = Sizes.of(read_description(input.description))
        device = DEVICES["h100" if on_gpu(wildcards) else "cpu"]
        return int((15 + 5 * cost(wildcards, sizes).seconds(device, sizes.dtype) / 60) * attempt)

    asked = {"mem_mb": mem_mb, "runtime": runtime}
    if GPU_REQUEST == "gpus":
        return asked | {"gpu": gpus}

    def gres(wildcards, input):
        count = gpus(wildcards, input)
        return f"{GPU_REQUEST.removeprefix('gres:')}:{count}" if count else ""

    return asked | {"gres": gres}


def fit_cost_of(wildcards, sizes):
    """Of one method's shortcuts, by whichever solver."""
    return fit_cost(
        sizes,
        kind_of(wildcards),
        STUDY.activations.store,
        samples=samples(wildcards.corpus, "training"),
        shard=STUDY.activations.shard_sentences * STUDY.activations.positions,
        stopping=STUDY.held_out.stopping,
    )


def batches_of(corpus):
    """What passes over the model are made of, if sentences are as long as they may be."""
    return {
        "batch_tokens": STUDY.compute.batch_tokens,
        "tokens_per_sentence": STUDY.corpora[corpus].max_characters / 4,
    }


def activations_cost_of(corpus, split, sizes):
    """Of one shard."""
    return activations_cost(
        sizes,
        STUDY.activations,
        min(STUDY.activations.shard_sentences, getattr(STUDY.corpora[corpus], split)),
        **batches_of(corpus),
    )


def evaluation_cost_of(wildcards, sizes):
    """Of one method on validation samples."""
    return evaluation_cost(
        sizes,
        wildcards.method,
        kind_of(wildcards),
        STUDY.evaluation,
        STUDY.activations.store,
        samples=samples(sampled_corpus(wildcards), "validation"),
    )


def sub_module_activations_cost_of(wildcards, sizes):
    """Of one shard of one part."""
    return sub_module_activations_cost(
        sizes,
        wildcards.part,
        STUDY.activations,
        min(STUDY.activations.shard_sentences, STUDY.corpora[wildcards.corpus].training),
        **batches_of(wildcards.corpus),
    )


def sub_module_maps_cost_of(wildcards, sizes):
    """Of one part."""
    return sub_module_maps_cost(
        sizes,
        wildcards.part,
        STUDY.activations.store,
        samples=samples(wildcards.corpus, "training"),
        shard=STUDY.activations.shard_sentences * STUDY.activations.positions,
    )


def sub_modules_cost_of(wildcards, sizes):
    """Half a pass over the model for each part and level."""
    options = STUDY.experiments.sub_modules
    return sub_modules_cost(
        sizes,
        STUDY.activations,
        options,
        sentences=min(options.samples, STUDY.corpora[wildcards.corpus].validation),
        **batches_of(wildcards.corpus),
    )


def shard_cost_of(wildcards, sizes):
    """Of one shard of activations."""
    return activations_cost_of(wildcards.corpus, wildcards.split, sizes)


def scores_cost_of(wildcards, sizes):
    """Of all jumps of a method on all levels."""
    return scores_cost(
        sizes,
        kind_of(wildcards).rank,
        STUDY.activations.store,
        samples=samples(sampled_corpus(wildcards), "training"),
    )


def analysis_cost_of(wildcards, sizes):
    """Of the jumps of all methods that are analysed."""
    return analysis_cost(
        sizes,
        [STUDY.shortcuts.kind(method).rank for method in ANALYSED],
        samples=samples(wildcards.corpus, "training"),
        top_k=STUDY.activations.top_k,
    )


def criteria_cost_of(wildcards, sizes):
    """Of all jumps on validation samples."""
    return criteria_cost(
        sizes,
        kind_of(wildcards).rank,
        STUDY.activations.store,
        samples=samples(wildcards.corpus, "validation"),
    )


def level_pairs_cost_of(wildcards, sizes):
    """Of all pairs of levels."""
    return level_pairs_cost(
        sizes,
        STUDY.experiments.level_pairs,
        STUDY.activations.store,
        samples=samples(wildcards.corpus, "training"),
        held_out=samples(wildcards.corpus, "validation"),
    )
