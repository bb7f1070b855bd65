# What one job costs, from its wildcards and the sizes of its model. Threads and resources are counted from it.

from onejump.planning.experiment_costs import (
    criteria_cost,
    level_pairs_cost,
    sub_module_activations_cost,
    sub_module_maps_cost,
    sub_modules_cost,
)
from onejump.planning.stage_costs import (
    activations_cost,
    analysis_cost,
    evaluation_cost,
    fit_cost,
    scores_cost,
)


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


def shard_cost_of(wildcards, sizes):
    """Of one shard of activations."""
    sentences = getattr(STUDY.corpora[wildcards.corpus], wildcards.split)
    return activations_cost(
        sizes,
        STUDY.activations,
        min(STUDY.activations.shard_sentences, sentences),
        **batches_of(wildcards.corpus),
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
