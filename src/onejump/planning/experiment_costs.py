"""What the stages of the experiments cost, counted as in `onejump.planning.stage_costs`."""

from __future__ import annotations

from dataclasses import replace

from onejump.base.amounts.level_pairs import MOMENTS_TOGETHER
from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.base.rank import rank_for
from onejump.planning.cost import FACTORISATION, LIBRARIES, Cost
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import LOGIT_MATRICES, activations_cost, fit_cost
from onejump.study.activations import Activations, Store
from onejump.study.experiments import LevelPairs, SubModules
from onejump.study.kinds import FACTS, Jtc


def criteria_cost(sizes: Sizes, rank: float, store: Store, *, samples: int) -> Cost:
    """Predict with every jump at every level, on validation samples."""
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    inner = rank_for(width, rank)
    predictions = samples * levels**2
    return Cost(
        single_flops=2 * predictions * inner * (vocabulary + width) + 2 * levels * vocabulary * width * inner,
        moved=predictions * (vocabulary * 12.0 + width * 4),
        loaded=4.0 * vocabulary * width,
        disk=20_000,
        memory=LIBRARIES
        + 4 * vocabulary * (width + levels * inner)
        + 8 * min(store.chunk_samples, samples) * width
        + 48 * samples * levels
        + 16 * 64 * vocabulary,
    )


def level_pairs_cost(sizes: Sizes, options: LevelPairs, store: Store, *, samples: int, held_out: int) -> Cost:
    """Fit every pair of levels, and measure it on validation samples."""
    levels, width = sizes.blocks, sizes.hidden
    pairs = levels * (levels + 1) / 2
    fitted = [method for method in options.methods if FACTS[method].fitted_by is not None]
    full_rank = sum(not FACTS[method].exit_head for method in fitted)
    predicted = held_out * width * (2 * width * full_rank + 6 * len(fitted))
    chunk = min(store.chunk_samples, max(samples, held_out))
    return Cost(
        double_flops=pairs * (2 * samples * width**2 + 2 * len(fitted) * width**3 + predicted)
        + levels * FACTORISATION * width**3,
        moved=(samples + held_out) * pairs * width * 24.0,
        disk=9000 + 2.0 * pairs * len(options.methods),
        memory=LIBRARIES
        + max(MOMENTS_TOGETHER, 8 * (levels + 1) * width**2)
        + 8 * width**2 * (levels * full_rank + 12)
        + 12 * (levels + 1) * chunk * width,
    )


def sub_module_activations_cost(
    sizes: Sizes,
    part: str,
    options: Activations,
    sentences: int,
    *,
    batch_tokens: int,
    tokens_per_sentence: float,
) -> Cost:
    """Extract inputs and outputs of one module in each block, or of two norms: a pass like any extraction."""

    def extraction(of: Sizes) -> Cost:
        return activations_cost(
            of, options, sentences, batch_tokens=batch_tokens, tokens_per_sentence=tokens_per_sentence
        )

    larger = extraction(replace(sizes, blocks=2 * _modules(sizes, part)))
    return extraction(sizes)._replace(disk=larger.disk, memory=larger.memory)


def sub_module_maps_cost(sizes: Sizes, part: str, store: Store, *, samples: int, shard: int) -> Cost:
    """Fit the linear maps of one part: like jtc at as many levels as there are modules."""
    levels = replace(sizes, blocks=_modules(sizes, part))
    return fit_cost(levels, Jtc(), store, samples=samples, shard=shard)


def _modules(sizes: Sizes, part: str) -> int:
    return sizes.blocks * (2 if part == "norms" else 1)


def sub_modules_cost(
    sizes: Sizes,
    activations: Activations,
    options: SubModules,
    *,
    sentences: int,
    batch_tokens: int,
    tokens_per_sentence: float,
) -> Cost:
    """Run the model with each part replaced above each level, from the states of one plain run on."""
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
        + LOGIT_MATRICES * LOGITS_TOGETHER["cpu"],
    )
