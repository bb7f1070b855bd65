"""The fit of affine: a full-rank map for each level, trained on the model's distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from onejump.fitting.cross_entropy import cross_entropy
from onejump.fitting.distiller import Distiller
from onejump.fitting.regression import solve_symmetric
from onejump.fitting.teacher import Teacher
from onejump.shortcuts.kinds.affine import Affine

KIND = Affine
ONE_FOR_ALL_LEVELS = False


def by_distillation(distiller: Distiller, levels: Sequence[int], rank: int | None = None) -> Affine:
    """Distil the map from a single level, starting at least squares to the last level. No rank is used."""
    (level,) = levels
    start = distiller.standardised(level)
    mean, scale = start.mean.float(), start.scale.float()
    model = nn.ParameterDict(
        {
            "matrix": nn.Parameter(solve_symmetric(start.gram, start.cross).float()),
            "offset": nn.Parameter(start.target_mean.float()),
        }
    )
    head, projection = distiller.head, distiller.head.config.scale * distiller.head.unembedding.T
    shift = None if head.logit_bias is None else head.config.scale * head.logit_bias

    def loss(inputs: Tensor, _: Tensor, teacher: Teacher) -> Tensor:
        predicted = ((inputs - mean) * scale) @ model["matrix"] + model["offset"]
        return cross_entropy(
            head.features(predicted), projection, *teacher, offset=shift, softcap=head.config.softcap
        )

    rates = {"matrix": 1 / math.sqrt(distiller.store.hidden), "offset": 1.0}
    distiller.train(model, rates, loss, levels)
    matrix = (scale[:, None] * model["matrix"]).detach()
    bias = model["offset"].detach() - mean @ matrix
    return Affine(matrix.cpu(), bias.cpu(), distiller.norm, head.config.eps)
