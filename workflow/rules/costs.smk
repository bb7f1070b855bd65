# What one job costs, from its wildcards and the sizes of its model. Threads and resources are counted from it.
from onejump.planning.jobs import JobCosts
from onejump.planning.tuning_cost import tuning_cost


def costs_of(wildcards, sizes):
    """Costs of the jobs that read this corpus, if its sentences are as long as they may be."""
    corpus = sampled_corpus(wildcards)
    return JobCosts(STUDY, sizes, corpus, tokens_per_sentence=STUDY.corpora[corpus].max_characters / 4)


def generation_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).generation(wildcards.split, int(wildcards.shard))


def tuning_cost_of(wildcards, sizes):
    return tuning_cost(sizes, STUDY.models[wildcards.model].tuned)


def shard_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).activations(wildcards.split, int(wildcards.shard))


def fit_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).fit(wildcards.method, rank_of(wildcards))


def scores_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).scores(kind_named_by(wildcards), rank_of(wildcards))


def evaluation_cost_of(wildcards, sizes):
    costs = costs_of(wildcards, sizes)
    return costs.evaluate(wildcards.method, costs.samples("validation"), rank_of(wildcards))


def analysis_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).analysis()


def lens_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).lens(STUDY.figures.lens, len(STUDY.looked_through()))


def level_predictions_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).level_predictions(STUDY.experiments.joint_optimisation)


def criteria_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).criteria()


def translation_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).translation(STUDY.experiments.translation)


def translation_by_gates_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).translation_by_gates(STUDY.experiments.translation)


def exit_costs_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).exit_costs(STUDY.experiments.exit_costs)


def level_pairs_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).level_pairs(STUDY.experiments.level_pairs)


def sub_module_activations_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).sub_module_activations(wildcards.part, int(wildcards.shard))


def sub_module_maps_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).sub_module_maps(wildcards.part)


def sub_modules_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).sub_modules(STUDY.experiments.sub_modules)


def copied_texts_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).copied_texts(STUDY.experiments.copied_states)


def copied_states_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).copied_states(STUDY.experiments.copied_states)


def sub_layers_cost_of(wildcards, sizes):
    return costs_of(wildcards, sizes).sub_layers(STUDY.experiments.sub_layers)
