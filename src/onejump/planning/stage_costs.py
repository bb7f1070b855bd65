"""What each stage of the pipeline costs.

Counted from shapes: n samples, L blocks, width H, vocabulary V, rank r. The few constants that no shape gives
(bytes moved for each logit, the cost of a factorisation) were measured on the default study.
"""

from __future__ import annotations

from collections.abc import Sequence

from onejump.base.amounts import analysis, distillation, head_metric
from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.base.rank import rank_for
from onejump.base.selected import SELECTED
from onejump.planning.cost import FACTORISATION, LIBRARIES, Cost
from onejump.planning.sizes import BYTES, Sizes
from onejump.study.activations import Activations, Store
from onejump.study.evaluation import Evaluation
from onejump.study.kinds import (
    Affine,
    Distillation,
    EitherSolver,
    Gradient,
    Jtc,
    Kind,
    OfRank,
    OneResidual,
    Shortlist,
)
from onejump.study.sources import Generated

# Prompts of about the same length share a batch; this much of a batch is padding.
_PADDING = 1.05
TRANSFORMERS = 0.25e9
"""Bytes of memory that transformers takes."""
# Tokens that a chat template adds to a prompt.
_TEMPLATE = 32
# Bytes that are moved for each logit of a token that is drawn at random: most of it for the noise.
_DRAWN = 150
# Weights are read in one go, at some times the rate of small operations.
_IN_ONE_GO = 4
# Matrices of logits that are alive at a time, in single precision.
LOGIT_MATRICES = 6 * 4


def stored_bits(store: Store) -> float:
    """Bits of a stored activation: the mantissa hardly shrinks, sign and exponent shrink to about 7 bits."""
    whole, mantissa = (32, 23) if store.dtype == "float32" else (16, 10)
    if store.compressor == "none":
        return whole
    return min(whole, (mantissa if store.keepbits is None else store.keepbits) + 7)


def tokens_of_text(generated: Generated) -> float:
    """Tokens of a generated text, at most: of its prompt, of the chat template, and those generated."""
    return generated.prompt_tokens + generated.chat_template * _TEMPLATE + generated.new_tokens


def generation_cost(sizes: Sizes, generated: Generated, texts: int, *, batch_tokens: int) -> Cost:
    """Generate the texts of one shard, each of them as long as it may get."""
    width = sizes.hidden
    length = tokens_of_text(generated)
    head = sizes.vocabulary * width
    rows = min(texts, max(1, batch_tokens // length))
    steps = generated.new_tokens * -(-texts // rows)
    return Cost(
        tokens=texts * length,
        model_flops=2 * ((sizes.parameters - head) * texts * length + head * texts * generated.new_tokens),
        moved=steps * sizes.weights / _IN_ONE_GO
        + (1 - generated.greedy) * texts * generated.new_tokens * sizes.vocabulary * _DRAWN,
        loaded=sizes.weights,
        disk=5 * texts * length,
        block_calls=steps * sizes.blocks,
        # Keys and values are at most as wide as the states.
        memory=LIBRARIES
        + TRANSFORMERS
        + sizes.weights
        + 4 * head
        + rows * length * width * BYTES[sizes.dtype] * (2 * sizes.blocks + 12)
        + rows * sizes.vocabulary * 16,
    )


def activations_cost(
    sizes: Sizes,
    options: Activations,
    sentences: int,
    *,
    batch_tokens: int,
    tokens_per_sentence: float,
    previous: bool = False,
) -> Cost:
    """Extract one shard, with the last level's states of the positions before (`previous`) or without."""
    samples = sentences * options.positions
    if sizes.task not in ("masked", "classification"):
        # The furthest of p positions drawn evenly from n tokens is the (n + 1) p / (p + 1)-th.
        prefix = (tokens_per_sentence + 1) * options.positions / (options.positions + 1)
        tokens = sentences * min(prefix, options.max_tokens)
    else:
        # Each position is masked in a sentence of its own; a classifier reads one position of a whole text.
        tokens = samples * min(tokens_per_sentence, options.max_tokens)
    levels, width, chunk = sizes.blocks + 1 + previous, sizes.hidden, options.store.chunk_samples
    head = sizes.vocabulary * width
    # A batch has the samples of an eighth of its tokens, and at most one sample for each token.
    in_a_batch = min(min(batch_tokens / 8, sentences) * options.positions, batch_tokens, samples)
    logits = min(in_a_batch * sizes.vocabulary, max(LOGITS_TOGETHER["cpu"], sizes.vocabulary))
    return Cost(
        tokens=tokens,
        model_flops=2 * (sizes.parameters - head) * tokens * _PADDING,
        single_flops=2 * head * samples,
        moved=samples * (sizes.vocabulary * 16 + levels * width * 24),
        loaded=sizes.weights,
        disk=samples * (levels * width * stored_bits(options.store) / 8 + options.top_k * 6 + 16),
        memory=LIBRARIES
        + TRANSFORMERS
        + sizes.weights
        + 4 * head
        + 8 * levels * min(chunk, samples) * width
        + in_a_batch * levels * width * 8
        + 8 * logits
        + batch_tokens * width * 12 * BYTES[sizes.dtype],
    )


def fit_cost(
    sizes: Sizes, kind: Kind, store: Store, *, samples: int, shard: int, stopping: float = 0.0
) -> Cost:
    """Fit one kind.

    Parameters
    ----------
    sizes : Sizes
    kind : Kind
        Its options.
    store : Store
        How activations are stored.
    samples : int
        Training samples.
    shard : int
        Samples in a shard.
    stopping : float
        Part of the samples on which a distilled kind decides when to stop.
    """
    levels, width = sizes.blocks, sizes.hidden
    chunk = min(store.chunk_samples, samples)
    disk = 4.0 * kind.numbers(width, levels)
    if isinstance(kind, Distillation):
        return _distillation_cost(sizes, kind, samples, shard, chunk, stopping, disk)
    if isinstance(kind, EitherSolver) and kind.solver == "gradient":
        return _gradient_cost(sizes, kind, samples, shard, disk)
    solves = 1 if kind.facts.one_for_all else levels
    return Cost(
        double_flops=4 * samples * levels * width**2 + FACTORISATION * solves * width**3,
        moved=samples * levels * width * 24.0,
        disk=disk,
        memory=LIBRARIES + 10 * 8 * width**2 + 6 * 8 * chunk * width,
    )


def _gradient_cost(sizes: Sizes, kind: EitherSolver, samples: int, shard: int, disk: float) -> Cost:
    levels, width = sizes.blocks, sizes.hidden
    options = kind.gradient or Gradient()
    read = options.epochs * samples * levels * width
    batch = (levels + 1) * options.batch * width * 4
    return Cost(
        single_flops=8 * read * rank_for(width, kind.rank),
        moved=40.0 * read,
        disk=disk,
        memory=LIBRARIES + 4 * (levels + 1) * shard * width + 5 * batch,
    )


def _distillation_cost(
    sizes: Sizes, kind: Distillation, samples: int, shard: int, chunk: int, stopping: float, disk: float
) -> Cost:
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    # Numbers of an input, in units of H.
    read = 2 if kind.facts.reads_previous else 1
    rank = rank_for(width, kind.rank) if isinstance(kind, OfRank) else None
    inner = width if rank is None else 1 + rank
    fits, of_a_fit = (1, levels) if kind.facts.one_for_all else (levels, 1)
    held_out = of_a_fit * min(distillation.held_out_of_a_level(of_a_fit), stopping * samples)
    passed = kind.steps * (3 * kind.batch * vocabulary * inner)
    # Behind a low rank, the exit head is made and its gradient is brought back at each step.
    made = 0 if rank is None else 2 * kind.steps * vocabulary * width * inner
    looked = (distillation.CHECKS + 1) * held_out * vocabulary
    states = shard * (levels + 1) if kind.facts.one_for_all else samples
    second = 0.0
    if isinstance(kind, Shortlist):
        # The weights look once at all samples for stopping, the correction at the samples of each step.
        second = stopping * samples * levels * (vocabulary * inner + kind.most_candidates * width)
    if isinstance(kind, OneResidual):
        seen = kind.correction_steps * kind.batch + (distillation.CHECKS + 1) * held_out
        second += seen * (vocabulary * inner + 3 * kind.most_candidates * width)
    return Cost(
        single_flops=2.0 * (fits * (passed + made + looked * inner) + second),
        double_flops=2 * (read**2 + read) * samples * levels * width**2
        + 2 * FACTORISATION * fits * (read * width) ** 3,
        moved=fits * (8.0 * kind.steps * kind.batch * vocabulary + 4.0 * looked)
        + read * samples * levels * width * 24.0,
        disk=disk,
        memory=LIBRARIES
        + 12 * 8 * (read * width) ** 2
        + 6 * 8 * chunk * read * width
        + 12 * vocabulary * width
        + LOGIT_MATRICES * distillation.LOGITS_TOGETHER["cpu"]
        + 16 * vocabulary * inner
        + 4 * read * width * (states + held_out),
    )


def scores_cost(sizes: Sizes, rank: float, store: Store, *, samples: int) -> Cost:
    """Score all jumps of a low-rank kind on all levels."""
    levels, width = sizes.blocks, sizes.hidden
    columns = levels * rank_for(width, rank)
    chunk = min(store.chunk_samples, samples)
    return Cost(
        single_flops=2 * samples * levels * width * columns,
        moved=samples * levels * (columns * 12.0 + width * 8),
        disk=7000 + 9.0 * 3 * levels**2,
        memory=LIBRARIES + 8 * (levels + 1) * chunk * width + 8 * width * columns + 12 * chunk * columns,
    )


def analysis_cost(sizes: Sizes, ranks: Sequence[float], *, samples: int, top_k: int) -> Cost:
    """Make the head's metric once, and each jump's predictions of some samples with each number of ranks."""
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    predicted = min(analysis.PREDICTED, samples)
    known = [rank_for(width, rank) for rank in ranks]
    rows = [rank + 1 for rank in known for _ in range(levels)]
    return Cost(
        single_flops=2 * vocabulary * sum(row * width + row**2 * predicted for row in rows),
        double_flops=2 * width**2 * (vocabulary + 2 * samples),
        moved=16.0 * vocabulary * predicted * sum(rows) + 8.0 * samples * width * len(rows),
        loaded=4.0 * vocabulary * width,
        disk=20.0 * len(rows) * (levels + 2 * max(known, default=0)),
        memory=LIBRARIES
        + 24 * vocabulary * width
        + 6 * 8 * width**2
        + 8 * head_metric.SAMPLES_TOGETHER * top_k * width
        + 20 * samples * top_k
        + 8 * width * sum(3 * row for row in rows),
    )


def evaluation_cost(
    sizes: Sizes, method: str, kind: Kind, evaluation: Evaluation, store: Store, *, samples: int
) -> Cost:
    """Evaluate one method at all levels.

    Parameters
    ----------
    sizes : Sizes
    method : str
        As it is evaluated, such as ojfa.
    kind : Kind
        Options of the kind whose shortcuts it uses.
    evaluation : Evaluation
    store : Store
    samples : int
        Samples to evaluate on.
    """
    levels, width, vocabulary = sizes.blocks, sizes.hidden, sizes.vocabulary
    selected = SELECTED.get(method)
    several = selected is not None and selected.several
    jumps = len(evaluation.arbitrary) + evaluation.random if several else 1
    at_levels = samples * levels * jumps
    low_rank = isinstance(kind, OfRank) and kind.facts.exit_head
    inner = rank_for(width, kind.rank) if isinstance(kind, OfRank) and low_rank else width
    chunk = min(store.chunk_samples, samples)
    heads = jumps if selected is not None or kind.facts.one_for_all else levels
    return Cost(
        single_flops=2 * vocabulary * (at_levels * inner + samples * width)
        + (2 * at_levels * width**2 if isinstance(kind, Jtc | Affine) else 0),
        moved=at_levels * (vocabulary * (16.0 if low_rank else 37.0) + width * 40),
        loaded=4.0 * vocabulary * width,
        disk=6500 + 13.0 * levels * jumps * (len(evaluation.precision_at) + 3),
        memory=LIBRARIES
        + 8 * vocabulary * width
        + LOGIT_MATRICES * LOGITS_TOGETHER["cpu"]
        + 4 * 8 * width**2
        + 6 * (levels + 1) * chunk * width * (2 if kind.facts.reads_previous else 1)
        + (4 * vocabulary * inner * heads if low_rank else 0),
    )
