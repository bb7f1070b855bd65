"""What the stages of the experiments cost, counted as in `onejump.planning.stage_costs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onejump.base.amounts.level_pairs import MOMENTS_TOGETHER
from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.base.rank import rank_for
from onejump.planning.cost import FACTORISATION, LIBRARIES, Cost
from onejump.planning.sizes import BYTES, Sizes
from onejump.planning.stage_costs import LOGIT_MATRICES, TRANSFORMERS, activations_cost, fit_cost
from onejump.study.activations import Activations, Store
from onejump.study.experiments import CopiedStates, ExitCosts, LevelPairs, SubLayers, SubModules
from onejump.study.figures import Lens
from onejump.study.kinds import FACTS, Jtc, Kind, OfRank
from onejump.study.shapes import Shapes


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


def level_predictions_cost(
    sizes: Sizes, store: Store, *, samples: int, sentences: int, batch_tokens: int, tokens_per_sentence: float
) -> Cost:
    """Predict at all levels of some samples, and the next token of all tokens of some sentences."""
    levels, width, vocabulary = sizes.blocks + 1, sizes.hidden, sizes.vocabulary
    tokens = sentences * tokens_per_sentence if sizes.task == "causal" else 0.0
    head = vocabulary * width
    predictions = samples * levels + tokens
    return Cost(
        tokens=tokens,
        model_flops=2.0 * (sizes.parameters - head) * tokens,
        single_flops=2.0 * head * predictions,
        # Exponentials and logarithms of a pair of levels.
        moved=samples * levels * vocabulary * 60.0 + tokens * vocabulary * 16.0,
        loaded=sizes.weights + 4.0 * head,
        disk=20_000,
        memory=LIBRARIES
        + TRANSFORMERS
        + sizes.weights
        + 4 * head
        + 6 * levels * min(store.chunk_samples, samples) * width
        + batch_tokens * levels * width * BYTES[sizes.dtype] * 2
        + LOGIT_MATRICES * LOGITS_TOGETHER["cpu"],
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


# Bytes that are moved for each logit of which the most likely ones are looked for.
_TOP_OF_LOGITS = 24.0


def sub_layers_cost(
    sizes: Sizes,
    activations: Activations,
    options: SubLayers,
    *,
    samples: int,
    sentences: int,
    batch_tokens: int,
    tokens_per_sentence: float,
) -> Cost:
    """Run some sentences once, and read four states of each block by the head.

    Parameters
    ----------
    sizes : Sizes
    activations : Activations
    options : SubLayers
    samples, sentences : int
        Of both splits together.
    batch_tokens, tokens_per_sentence
        As in `onejump.planning.stage_costs.activations_cost`.
    """
    whole = activations_cost(
        sizes, activations, sentences, batch_tokens=batch_tokens, tokens_per_sentence=tokens_per_sentence
    )
    read = samples * (4 * sizes.blocks + 1)
    return whole._replace(
        single_flops=2.0 * read * sizes.vocabulary * sizes.hidden,
        moved=read * sizes.vocabulary * _TOP_OF_LOGITS,
        disk=30_000 + 150.0 * sizes.blocks,
        memory=whole.memory + read * (4.0 * options.top + 8),
    )


def lens_cost(sizes: Sizes, options: Lens, methods: int) -> Cost:
    """Run each prompt once, and read each of its tokens at every level by each method."""
    # A token is four characters, about.
    tokens = sum(-(-len(text) // 4) for text in (*options.prompts, *(options.targets or ())))
    read = tokens * methods * (sizes.blocks + 1)
    return Cost(
        tokens=tokens,
        model_flops=2.0 * sizes.parameters * tokens,
        single_flops=2.0 * read * sizes.vocabulary * sizes.hidden,
        moved=read * sizes.vocabulary * _TOP_OF_LOGITS,
        loaded=sizes.weights,
        # The page holds the script of plotly.
        disk=5e6 + 600.0 * read,
        memory=LIBRARIES
        + TRANSFORMERS
        + sizes.weights
        + 4 * sizes.vocabulary * sizes.hidden
        + LOGIT_MATRICES * LOGITS_TOGETHER["cpu"],
    )


# Tokens that a chat template adds to a prompt.
_TEMPLATE = 32


def copied_texts_cost(sizes: Sizes, options: CopiedStates, kinds: Sequence[Kind], *, prompts: int) -> Cost:
    """Continue all prompts in one batch: without exits, and in two modes for each method and its exits.

    Parameters
    ----------
    sizes : Sizes
    options : CopiedStates
    kinds : sequence of Kind
        Of the shortcuts of each method.
    prompts : int
    """
    gates = len(options.thresholds) + len(options.targets)
    conditions = len(options.levels) + gates
    checks = len(options.levels) + gates * _levels_checked(sizes, options)
    tokens = 2.0 * prompts * options.new_tokens * checks
    whole = _decoding_cost(sizes, options, prompts, runs=1 + 2 * conditions * len(kinds))
    inner, exit_heads = 0, 0.0
    for kind in kinds:
        low_rank = isinstance(kind, OfRank) and kind.facts.exit_head
        width = rank_for(sizes.hidden, kind.rank) if isinstance(kind, OfRank) and low_rank else sizes.hidden
        inner += width
        # A level whose map is its own has an exit head of its own.
        heads = 1 if kind.facts.one_for_all else _levels_checked(sizes, options) + len(options.levels)
        exit_heads += 4.0 * sizes.vocabulary * width * heads if low_rank else 0.0
    # Modes check the same levels; each logit is read some times for the probability of the best one.
    return whole._replace(
        single_flops=2 * tokens * sizes.vocabulary * inner,
        moved=whole.moved + 12.0 * tokens * sizes.vocabulary * len(kinds),
        disk=20_000,
        memory=whole.memory + exit_heads,
    )


def copied_states_cost(sizes: Sizes, options: CopiedStates, *, methods: int, prompts: int) -> Cost:
    """Read each copied text again token by token, and every text in long passes."""
    conditions = methods * (len(options.levels) + len(options.thresholds) + len(options.targets))
    whole = _decoding_cost(sizes, options, prompts, runs=conditions)
    exact = 2.0 * sizes.parameters * (1 + 2 * conditions) * prompts * _longest(options)
    return whole._replace(model_flops=whole.model_flops + exact, disk=20_000)


def _longest(options: CopiedStates) -> int:
    return options.prompt_tokens + options.chat_template * _TEMPLATE + options.new_tokens


def _levels_checked(sizes: Sizes, options: CopiedStates) -> int:
    return len(range(round(options.checked_from * sizes.blocks), sizes.blocks, options.step))


def _decoding_cost(sizes: Sizes, options: CopiedStates, prompts: int, *, runs: int) -> Cost:
    """Decode with a cache, all texts together and each as long as it may get."""
    tokens = runs * prompts * _longest(options)
    steps = runs * options.new_tokens
    return Cost(
        tokens=tokens,
        model_flops=2.0 * sizes.parameters * tokens,
        # All weights are read for a few tokens.
        moved=steps * _READING * sizes.weights,
        loaded=sizes.weights,
        block_calls=steps * sizes.blocks,
        # Weights are packed for the CPU besides. Keys and values are at most as wide as the states.
        memory=LIBRARIES
        + TRANSFORMERS
        + 2 * sizes.weights
        + 4 * sizes.vocabulary * (sizes.hidden + 4 * prompts)
        + prompts * _longest(options) * sizes.hidden * BYTES[sizes.dtype] * (2 * sizes.blocks + 12),
    )


# Turns that warm up, besides those that count.
_WARM_UP = 2
# A small product with all weights reads them at three times the rate of many small operations.
_READING = 1 / 3


def exit_costs_cost(sizes: Sizes, options: ExitCosts, kinds: Sequence[Kind]) -> Cost:
    """Measure one step of decoding of the model, and of each of the shapes; one after the other.

    Parameters
    ----------
    sizes : Sizes
    options : ExitCosts
    kinds : sequence of Kind
        Of the shortcuts of each method.
    """
    costs = [_measuring_cost(sizes, sizes.blocks, options, kinds)]
    costs += [_measuring_cost(_one_block(shapes), 1, options, kinds) for shapes in options.shapes.values()]
    return Cost(*(sum(values) for values in zip(*costs, strict=True)))._replace(
        loaded=sizes.weights, disk=20_000, memory=max(cost.memory for cost in costs)
    )


def _one_block(shapes: Shapes) -> Sizes:
    keys = (shapes.key_heads or shapes.heads) / shapes.heads
    of_block = shapes.hidden * (2 * shapes.hidden * (1 + keys) + 3 * shapes.feed_forward)
    embedding = shapes.vocabulary * shapes.hidden
    return Sizes(1, shapes.hidden, shapes.vocabulary, int(of_block + embedding), shapes.dtype)


def _measuring_cost(sizes: Sizes, levels: int, options: ExitCosts, kinds: Sequence[Kind]) -> Cost:
    """Let the parts of all exits take turns. One exit of each method is measured at each of these levels."""
    vocabulary, width = sizes.vocabulary, sizes.hidden
    turns = len(options.batches) * (options.rounds + _WARM_UP)
    states = sum(options.batches) * (options.rounds + _WARM_UP)
    head = vocabulary * width
    low_rank = [kind for kind in kinds if isinstance(kind, OfRank) and kind.facts.exit_head]
    projections = vocabulary * levels * sum(1 + rank_for(width, kind.rank) for kind in low_rank)
    numbers = sum(kind.numbers(width, levels) for kind in kinds)
    tokens = (options.context + states) if sizes.task == "causal" else options.context * states
    return Cost(
        tokens=tokens,
        model_flops=2.0 * (sizes.parameters - head) * tokens,
        single_flops=2.0 * states * (head + projections + numbers),
        moved=turns * _READING * (sizes.weights + 4 * head + 4 * projections + 4 * numbers)
        + 12.0 * states * vocabulary * (1 + levels * len(low_rank)),
        block_calls=turns * levels,
        memory=LIBRARIES
        + TRANSFORMERS
        + sizes.weights
        + 4 * (head + projections + 2 * numbers)
        + 12 * max(options.batches) * vocabulary
        + 4 * max(options.batches) * (levels + 1) * width * (2 * options.context + 1),
    )


def translation_cost(
    sizes: Sizes, texts: int, new_tokens: int, *, exits: int, batch_tokens: int, tokens_per_sentence: float
) -> Cost:
    """Write targets with a key/value cache, once for each exit.

    Parameters
    ----------
    sizes : Sizes
    texts : int
        Targets that each exit writes.
    new_tokens : int
        Of a target, at most.
    exits : int
        Methods times levels, and the full model.
    batch_tokens : int
        The most tokens that are written together.
    tokens_per_sentence : float
        Of a source.
    """
    head = sizes.vocabulary * sizes.hidden
    together = max(1, batch_tokens // new_tokens)
    steps = exits * -(-texts // together) * new_tokens
    tokens = exits * texts * (new_tokens + tokens_per_sentence)
    return Cost(
        tokens=tokens,
        model_flops=2.0 * sizes.parameters * tokens,
        moved=steps * (sizes.weights + 4.0 * head),
        loaded=sizes.weights,
        disk=20_000,
        block_calls=steps * sizes.blocks,
        memory=LIBRARIES
        + TRANSFORMERS
        + sizes.weights
        + 4 * head
        + together * new_tokens * sizes.hidden * sizes.blocks * 4 * BYTES[sizes.dtype]
        + together * sizes.vocabulary * 16,
    )
