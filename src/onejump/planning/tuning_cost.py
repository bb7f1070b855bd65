"""What the stage "tuning" costs, counted as in `onejump.planning.stage_costs`."""

from __future__ import annotations

from onejump.base.amounts.tuning import LOGITS_TOGETHER
from onejump.planning.cost import LIBRARIES, Cost
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import LOGIT_MATRICES, TRANSFORMERS
from onejump.study.tuned import Tuned

# Copies of a weight that is trained, in single precision: itself, its gradient, and Adam's two averages.
_TRAINED = 4
# How often a step of Adam reads or writes a weight, its gradient or an average.
_ADAM = 12
# Numbers that each block keeps of a token for its gradient, in units of H.
_KEPT = 40


def tuning_cost(sizes: Sizes, options: Tuned) -> Cost:
    """Tune a model, if all batches are full."""
    width, vocabulary = sizes.hidden, sizes.vocabulary
    tokens = float(options.steps * options.batch_tokens)
    head = vocabulary * width
    blocks = max(0, sizes.parameters - head)
    teacher = options.loss == "distilled"
    whole = options.adapters is None
    levels = 1 + (options.levels if options.weights != "final" else 0)
    # A product, and its gradients by the input and, if it is trained, by the weight. The curriculum needs
    # fewer heads.
    products = 3 if whole else 2
    trained = sizes.parameters if whole else _adapted(sizes, options)
    return Cost(
        tokens=tokens,
        single_flops=2 * tokens * (products * (blocks + levels * head) + teacher * sizes.parameters),
        moved=4.0 * options.steps * trained * _ADAM + tokens * levels * vocabulary * 24.0,
        loaded=4.0 * sizes.parameters * (1 + teacher),
        disk=sizes.weights,
        memory=LIBRARIES
        + TRANSFORMERS
        + 4.0 * sizes.parameters * (1 + teacher)
        + 4.0 * trained * (_TRAINED - whole)
        + 4.0 * options.batch_tokens * width * sizes.blocks * _KEPT
        + LOGIT_MATRICES * LOGITS_TOGETHER["cpu"],
    )


def _adapted(sizes: Sizes, options: Tuned) -> float:
    """Count the numbers of adapters: for about seven maps in each block, some of them wider than H."""
    rank = 0 if options.adapters is None else options.adapters.rank
    return 7.0 * sizes.blocks * rank * 3 * sizes.hidden
