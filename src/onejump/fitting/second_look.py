"""The second look of a shortlist: what weighs candidates, and the correction of the state that judges them.

The loss of the correction needs k rows of the unembedding for each sample, k H multiplications in place of
the V H that training a correction through the whole head would need.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from onejump.base.amounts.distillation import LOGITS_TOGETHER
from onejump.fitting.candidate_loss import candidate_loss
from onejump.fitting.distiller import Distiller
from onejump.fitting.teacher import Teacher
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.shortlist import Shortlist, centred_and_length
from onejump.shortcuts.shortlist_head import ShortlistHead

_LOG = logging.getLogger(__name__)

# Weights before they are fitted: of the first jump's log-probabilities, and of the state's own logits.
_FIRST_WEIGHTS = (1.0, 0.05)
# Newton's steps for the two weights of a level; the loss is convex, and a dozen steps are enough.
_STEPS = 50
# What keeps the weights finite where every sample is right: a Gaussian prior of this precision, in samples.
_PRIOR = 1e-3
# Factor of the learning rate of the correction's two matrices.
_RATE_OF_MATRICES = 0.3


def weighted(
    distiller: Distiller,
    first: OneJump,
    second: OneJump | None,
    levels: Sequence[int],
    candidates: Sequence[int],
) -> Shortlist:
    """Make a shortlist whose weights, two for each level, are fitted to the samples for stopping.

    Of the candidates, the model's own token is the right one. The loss is the cross-entropy over the
    candidates, in the samples whose own token is among them. It is convex in the two weights.

    The number of candidates is chosen on the same samples (`_enough`): more of them find more tokens, and
    cost more.

    Parameters
    ----------
    distiller : Distiller
    first, second : OneJump
        The jump that finds the candidates, and the correction of the state that judges them.
    levels : sequence of int
        Levels to fit weights for. Both jumps number them from 0 on.
    candidates : sequence of int
        What k is chosen from, rising.
    """
    most = candidates[-1]
    weights = {k: torch.tensor(_FIRST_WEIGHTS).repeat(len(levels), 1) for k in candidates}
    shortlist = copy.deepcopy(Shortlist(first, weights[most], most, second)).to(distiller.device)
    head = ShortlistHead(distiller.head, shortlist)
    own = distiller.teacher.tokens[distiller.stopping, 0]
    together = max(1, LOGITS_TOGETHER[distiller.device.type] // distiller.head.vocabulary)
    hits: dict[int, list[Tensor]] = {k: [] for k in candidates}
    for number, level in enumerate(levels):
        at = shortlist.at(number)
        looks, right = [], []
        with torch.inference_mode():
            for part, states in distiller.store.parts(level, together, distiller.stopping.numpy()):
                _, found = head.look(at, torch.from_numpy(states).to(distiller.device))
                place = found.tokens == own[part].to(distiller.device)[:, None]
                looks.append(torch.stack([found.first, found.own], -1))
                # Behind all candidates, if it is none of them.
                right.append(torch.where(place.any(1), place.int().argmax(1), most))
        seen, places = torch.cat(looks), torch.cat(right)
        for k in candidates:
            # The most likely candidates come first: those of a smaller k are the first ones of a larger k.
            inside = places < k
            fitted = fitted_weights(seen[inside, :k], places[inside])
            weights[k][number] = fitted.cpu()
            hits[k].append((seen[:, :k] @ fitted).argmax(1) == places)
    sentences = torch.from_numpy(distiller.store.of_samples("sentence"))[distiller.stopping]
    chosen = _enough({k: torch.stack(of).double().mean(0).cpu() for k, of in hits.items()}, sentences)
    return Shortlist(first, weights[chosen], chosen, second)


def _enough(precision: Mapping[int, Tensor], sentences: Tensor) -> int:
    """Choose the smallest k whose mean precision is within a standard error of the best one's.

    The error is that of the difference, where samples of one sentence are not independent.

    Parameters
    ----------
    precision : mapping of k -> Tensor of shape (n,)
        Of each sample, mean over levels.
    sentences : Tensor of shape (n,)
        The sentence of each sample.
    """
    best = max(precision.values(), key=lambda of: float(of.mean()))
    sentence = torch.from_numpy(np.unique(sentences.numpy(), return_inverse=True)[1])
    for k in sorted(precision):
        lost = best - precision[k]
        of_sentences = torch.zeros(len(lost), dtype=lost.dtype).index_add_(0, sentence, lost - lost.mean())
        if float(lost.mean()) <= float(of_sentences.norm()) / len(lost):
            break
    if len(precision) > 1:
        found = ", ".join(f"{float(of.mean()):.4f} with {k}" for k, of in sorted(precision.items()))
        _LOG.info("precision on the documents for stopping: %s candidates; %d are kept", found, k)
    return k


def fitted_weights(looks: Tensor, right: Tensor) -> Tensor:
    """Fit the weights of a conditional logit model (McFadden 1974) by Newton's method, in float64.

    Parameters
    ----------
    looks : Tensor of shape (n, k, 2)
        The two scores of each candidate.
    right : Tensor of shape (n,), int64
        Which candidate is the right one.

    Returns
    -------
    Tensor of shape (2,), float32
        The first guess, if there is no sample.
    """
    start = looks.new_tensor(_FIRST_WEIGHTS, dtype=torch.float64)
    if not len(looks):
        return start.float()
    looks = looks.double()
    # Scores relative to those of the right candidate.
    looks = looks - looks.take_along_dim(right[:, None, None], 1)
    spread = looks.flatten(0, 1).std(0).clamp_min(1e-12)
    looks, weights = looks / spread, start * spread

    def loss_at(weights: Tensor) -> Tensor:
        prior = 0.5 * _PRIOR * (weights - start * spread).square().sum()
        return (looks @ weights).logsumexp(1).sum() + prior

    for _ in range(_STEPS):
        shares = (looks @ weights).softmax(1)
        mean = torch.einsum("nk,nki->ni", shares, looks)
        gradient = mean.sum(0) + _PRIOR * (weights - start * spread)
        curvature = torch.einsum("nk,nki,nkj->ij", shares, looks, looks) - mean.T @ mean
        curvature = curvature + _PRIOR * torch.eye(2, dtype=weights.dtype, device=weights.device)
        step = torch.linalg.solve(curvature, gradient)
        here, length = loss_at(weights), 1.0
        while length > 1e-6 and not bool(loss_at(weights - length * step) <= here):
            length /= 2
        weights = weights - length * step
        if float(step.abs().max()) < 1e-9:
            break
    return (weights / spread).float()


def trained_correction(
    distiller: Distiller, first: OneJump, levels: Sequence[int], rank: int, candidates: int, steps: int
) -> OneJump:
    """Train one low-rank correction of the state for several levels, through the candidates of a jump.

    Parameters
    ----------
    distiller : Distiller
    first : OneJump
        Finds the candidates; it stays as it is.
    levels : sequence of int
        Both jumps number them from 0 on.
    rank : int
    candidates : int
        k.
    steps : int
    """
    model = _Correction(distiller, len(levels), rank).to(distiller.device)
    first = copy.deepcopy(first).to(distiller.device)
    exit_head = ExitHead(distiller.head, first.up, first.bias)

    def loss(states: Tensor, level: Tensor, teacher: Teacher) -> Tensor:
        centred, length = centred_and_length(states, distiller.norm, distiller.head.config.eps)
        inputs = centred / length
        corrected = states + length * model.correction(inputs, level)
        reduced = _reduced(first, inputs, level)
        return candidate_loss(exit_head, reduced, corrected, model.weights[level], candidates, teacher)

    of_matrices = _RATE_OF_MATRICES / math.sqrt(distiller.store.hidden)
    rates = {"down": 12 * of_matrices, "up": _RATE_OF_MATRICES, "bias": _RATE_OF_MATRICES}
    named = {name: rates.get(name, 1.0) for name, _ in model.named_parameters()}
    distiller.train(model, named, loss, levels, prepare=lambda states: states, steps=steps)
    return model.trained()


class _Correction(nn.Module):
    """A correction in training: A, B and b for all levels, with c, a mixing and two weights of each level."""

    def __init__(self, distiller: Distiller, levels: int, rank: int) -> None:
        super().__init__()
        hidden = distiller.store.hidden
        generator = torch.Generator().manual_seed(0)
        self.norm, self.eps = distiller.norm, distiller.head.config.eps
        self.down = nn.Parameter(torch.randn(hidden, rank, generator=generator) / math.sqrt(hidden))
        # No correction to begin with.
        self.up = nn.Parameter(torch.zeros(rank, hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.offset = nn.Parameter(torch.zeros(levels, rank))
        self.mix = nn.Parameter(torch.eye(rank).repeat(levels, 1, 1))
        self.weights = nn.Parameter(torch.tensor(_FIRST_WEIGHTS).repeat(levels, 1))

    def correction(self, inputs: Tensor, level: Tensor) -> Tensor:
        """Give the correction (n, H) of normalised states (n, H), as `ShortlistAt` does."""
        reduced = torch.einsum("nr,nrs->ns", inputs @ self.down, self.mix[level]) + self.offset[level]
        return reduced @ self.up + self.bias

    def trained(self) -> OneJump:
        """Give the correction as it is kept."""
        down, offset, up, bias, mix = (
            of.detach().cpu() for of in (self.down, self.offset, self.up, self.bias, self.mix)
        )
        if len(mix) == 1:  # one level has no mixing of its own
            down, mixing = down @ mix[0], None
        else:
            mixing = mix
        return OneJump(down, offset, up, bias, self.norm, self.eps, mix=mixing)


def _reduced(jump: OneJump, inputs: Tensor, level: Tensor) -> Tensor:
    """Give z (n, r) of prepared states (n, H) and the number of each one's level (n,)."""
    if jump.scale is not None:
        inputs = inputs * jump.scale[level]
    reduced = inputs @ jump.down
    if jump.mix is not None:
        reduced = torch.einsum("nr,nrs->ns", reduced, jump.mix[level])
    return reduced + jump.offset[level]
