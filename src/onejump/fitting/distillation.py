"""Distillation: jumps trained on the teacher's distribution, through the exit head.

The mean squared error spends the few ranks of a jump on the coordinates of largest variance, not on those
that decide the next token. Here the loss is the cross-entropy to the teacher's most likely tokens, which the
store keeps: no state of the last level is needed but for the start, and behind a jump of rank r a step costs
V H r + n V r instead of n V H.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from onejump.base.amounts.distillation import CHECKS, LOGITS_TOGETHER, held_out_of_a_level
from onejump.base.amounts.head_metric import SAMPLES_TOGETHER
from onejump.base.device import pick_device
from onejump.base.errors import OneJumpError
from onejump.base.identity import one_model
from onejump.base.rank import rank_for
from onejump.data.document_roles import FIT, STOPPING
from onejump.data.held_out import samples_with_role, some_of
from onejump.data.store import ActivationStore
from onejump.fitting.exact import Metric, Moments, Standardised, reduced_rank, solve_symmetric, standardise
from onejump.models.head import Head, NormKind, normalised
from onejump.shortcuts.exit_head import ExitHead, by_vocabulary
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.kinds.affine import Affine
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.shortcut import Shortcut

# At least this many samples for each coordinate share one reading of the unembedding, which takes longest
# behind a full rank.
_SAMPLES_A_RANK = 0.5
_BETAS = (0.9, 0.99)
_LOG = logging.getLogger(__name__)


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of weighted tokens, logits = cap(coordinates @ projection + offset).

    Goes through the samples in parts whose logits stay in the cache, and makes the gradients on the way: of
    each part while its softmax is there, so that every exponential is taken once and no logit is kept. (Parts
    of the vocabulary would need the normaliser first, and every exponential twice.)
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        coordinates, projection, offset, softcap, tokens, weights = inputs
        moving, made = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        samples, vocabulary = len(coordinates), projection.shape[1]
        by_coordinates = torch.empty_like(coordinates)
        by_projection = torch.zeros_like(projection) if made else None
        total = coordinates.new_zeros((), dtype=torch.float64)
        few = LOGITS_TOGETHER[coordinates.device.type] // vocabulary
        rows = max(1, few, int(_SAMPLES_A_RANK * len(projection)))
        # One buffer for all parts: fresh memory would cost as much as the product that fills it.
        buffer = coordinates.new_empty(min(rows, samples), vocabulary)
        for start in range(0, samples, rows):
            part = slice(start, start + rows)
            logits = buffer[: len(coordinates[part])]
            torch.mm(coordinates[part], projection, out=logits)
            if offset is not None:
                logits += offset
            slope = None
            if softcap is not None:
                logits = logits.div_(softcap).tanh_()
                slope = 1 - logits.square()
                logits *= softcap
            weight, chosen = weights[part], logits.gather(1, tokens[part])
            mass = weight.sum(1, keepdim=True)
            if moving or made:
                peak = logits.amax(1, keepdim=True)
                probabilities = torch.softmax(logits, 1, out=logits)
                # The largest probability is never so small that its logarithm is lost.
                normaliser = peak - probabilities.amax(1, keepdim=True).log()
            else:
                normaliser = logits.logsumexp(1, keepdim=True)
            total += (mass * normaliser).sum(dtype=torch.float64)
            total -= (weight * chosen).sum(dtype=torch.float64)
            if not moving and not made:
                continue
            gradient = probabilities.mul_(mass / samples).scatter_add_(1, tokens[part], -weight / samples)
            if slope is not None:
                gradient *= slope
            by_coordinates[part] = torch.bmm(by_vocabulary(gradient), by_vocabulary(projection).mT).sum(0)
            if by_projection is not None:
                by_projection.addmm_(coordinates[part].T, gradient)
        ctx.save_for_backward(by_coordinates, by_projection)
        loss: Tensor = (total / samples).to(coordinates.dtype)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (factor,) = upstream
        moved = [None if gradient is None else factor * gradient for gradient in ctx.saved_tensors]
        return *moved, None, None, None, None


def cross_entropy(
    coordinates: Tensor,
    projection: Tensor,
    tokens: Tensor,
    weights: Tensor,
    *,
    offset: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Mean over samples of -sum_k w_k ln q(t_k), q = softmax(cap(coordinates @ projection + offset)).

    With a low-rank shortcut, coordinates and projection are those of its `ExitHead`; with any other,
    normalised states and the unembedding. Differentiable in both.

    Parameters
    ----------
    coordinates : Tensor of shape (n, q)
    projection : Tensor of shape (q, V)
    tokens : Tensor of shape (n, k), int64
        Without repetition in a row.
    weights : Tensor of shape (n, k)
    offset : Tensor of shape (V,), optional
    softcap : float, optional

    Returns
    -------
    Tensor of shape ()
    """
    loss: Tensor = _CrossEntropy.apply(coordinates, projection, offset, softcap, tokens, weights)  # type: ignore[no-untyped-call]
    return loss


class Teacher(NamedTuple):
    """What samples are trained on: the teacher's most likely tokens."""

    tokens: Tensor
    """(n, k), int64."""
    weights: Tensor
    """(n, k), their probabilities among themselves."""

    @classmethod
    def of(cls, store: ActivationStore, sharpness: float = 1.0) -> Teacher:
        """All samples of a store, their logits times `sharpness`."""
        logits = torch.from_numpy(store.of_samples("top_logits"))
        tokens = torch.from_numpy(store.of_samples("top_tokens").astype(np.int64))
        return cls(tokens, (sharpness * logits).softmax(1))

    def rows(self, rows: Tensor, device: torch.device) -> Teacher:
        """Some samples, on a device."""
        return Teacher(self.tokens[rows].to(device), self.weights[rows].to(device))


def exit_loss(exit_head: ExitHead, reduced: Tensor, teacher: Teacher) -> Tensor:
    """`cross_entropy` of reduced states z (n, r) behind an exit head, to what the teacher says of them."""
    return cross_entropy(
        exit_head.coordinates(reduced),
        exit_head.projection,
        *teacher,
        offset=exit_head.offset,
        softcap=exit_head.head.config.softcap,
    )


class Start(NamedTuple):
    """The closed form: where training starts."""

    mean: Tensor
    """Of each level's inputs, (L, H)."""
    scale: Tensor
    """Inverse standard deviations, (L, H)."""
    down: Tensor
    """A, of standardised inputs, (H, r)."""
    up: Tensor
    """B, (r, H)."""
    bias: Tensor
    """b, (H,)."""


def head_metric(head: Head, teacher: Teacher, rows: Tensor) -> Tensor:
    """How much an error in the last level's state (`Head.essence`) matters to the head, on average.

    The Fisher information F = E[W' (diag(p) - p p') W] of the final distribution, W = scale W_U diag(gain)
    (`Head.linear`): for small errors e, the divergence of the distributions is e' F e / 2.

    Returns
    -------
    Tensor of shape (H, H), float64
    """
    device = head.gain.device
    matrix = head.linear().double()
    frequency = torch.zeros(head.vocabulary, dtype=torch.float64, device=device)
    metric = torch.zeros(head.hidden, head.hidden, dtype=torch.float64, device=device)
    for part in torch.split(rows, SAMPLES_TOGETHER):
        tokens, weights = teacher.rows(part, device)
        probabilities = weights.double() / len(rows)
        frequency.index_add_(0, tokens.flatten(), probabilities.flatten())
        means = torch.einsum("nk,nkh->nh", probabilities, matrix[tokens]) * math.sqrt(len(rows))
        metric.addmm_(means.T, means, alpha=-1)
    return metric.addmm_(matrix.T, frequency[:, None] * matrix)


def _prepared(states: Tensor, norm: NormKind | None, head: Head) -> Tensor:
    return states if norm is None else normalised(states, norm, head.config.eps)


class _OneJumpInTraining(nn.Module):
    """A, B and b for all levels, with what each level has of its own."""

    scale: Tensor

    def __init__(self, start: Start, *, shared_scale: bool) -> None:
        super().__init__()
        levels, rank = len(start.mean), start.down.shape[1]
        # One scale for all levels lies in A; what levels differ by is then up to their mixing of z.
        scale = start.scale.log().mean(0).exp().expand_as(start.scale) if shared_scale else start.scale
        self.register_buffer("scale", scale.clone())
        self.down = nn.Parameter(start.down.clone())
        self.up = nn.Parameter(start.up.clone())
        self.bias = nn.Parameter(start.bias.clone())
        self.offset = nn.Parameter(-(start.mean * scale) @ start.down)
        self.mix = self.log_gain = None
        if levels > 1 and shared_scale:
            self.mix = nn.Parameter(torch.eye(rank).repeat(levels, 1, 1).to(scale))
        elif levels > 1:
            self.log_gain = nn.Parameter(torch.zeros_like(scale))

    def reduce(self, inputs: Tensor, level: Tensor) -> Tensor:
        """z (n, r) of prepared states (n, H), each of a level (n,)."""
        scale = self.scale[0] if self.log_gain is None else (self.scale * self.log_gain.exp())[level]
        reduced = (inputs * scale) @ self.down
        if self.mix is not None:
            reduced = torch.einsum("nr,nrs->ns", reduced, self.mix[level])
        return reduced + self.offset[level]

    def folded(self, norm: NormKind | None, eps: float) -> OneJump:
        """As it is kept."""
        down, offset, up, bias = (t.detach().cpu() for t in (self.down, self.offset, self.up, self.bias))
        scale = self.scale.cpu()
        if self.log_gain is not None:
            scale = scale * self.log_gain.detach().cpu().exp()
            return OneJump(down, offset, up, bias, norm, eps, scale=scale)
        mix = None if self.mix is None else self.mix.detach().cpu()
        return OneJump(scale[0][:, None] * down, offset, up, bias, norm, eps, mix=mix)


class Distiller:
    """Fits by distillation: each from a closed form on, by Adam with a cosine-decayed step.

    Every step draws samples at random levels; what is kept is the state with the least loss on held-out ones.

    Parameters
    ----------
    store : ActivationStore
        Training samples; one shard is in memory at a time, at the levels that a fit is of.
    head : Head
        Where it lies, fits are done.
    trained, stopping : Tensor of shape (samples,), bool
        Samples that are trained on, and others that say when to stop.
    norm : {"rms", "layer"} or None
        What is done to states first.
    sharpness : float
        The teacher's logits are multiplied by it.
    steps : int
        Of a fit; 0 gives the closed form itself.
    batch : int
        Samples of a step, of all levels together.
    learning_rate : float
        Adam's step size at the start.
    patience : int
        Looks at the held-out samples (there are 20 a fit) without a lesser loss until a fit stops.
    seed : int
    """

    def __init__(
        self,
        store: ActivationStore,
        head: Head,
        *,
        trained: Tensor,
        stopping: Tensor,
        norm: NormKind | None,
        sharpness: float = 1.0,
        steps: int,
        batch: int,
        learning_rate: float,
        patience: int,
        seed: int,
    ) -> None:
        self.store, self.head, self.norm = store, head, norm
        self.trained, self.stopping = trained, stopping
        self.teacher = Teacher.of(store, sharpness)
        self._steps, self._batch, self._learning_rate = steps, batch, learning_rate
        self._patience, self._seed = patience, seed

    @cached_property
    def metric(self) -> Metric:
        """The head's own, on the samples that are trained on."""
        return Metric.of(head_metric(self.head, self.teacher, self.trained.nonzero()[:, 0]))

    def closed_form(self, levels: Sequence[int], rank: int) -> Start:
        """Reduced-rank regression of the last level's state (`Head.essence`), in the head's own metric.

        Levels are fitted together, each level's inputs standardised by its own statistics.
        """
        gram = torch.zeros(
            self.store.hidden, self.store.hidden, dtype=torch.float64, device=self.head.gain.device
        )
        cross, target_mean = torch.zeros_like(gram), torch.zeros_like(gram[0])
        means, scales = [], []
        for level in levels:
            of_level = self._standardised(level)
            gram += of_level.gram
            cross += of_level.cross
            target_mean = of_level.target_mean
            means.append(of_level.mean)
            scales.append(of_level.scale)
        down, up = reduced_rank(gram, cross, rank, self.metric)
        # Coordinates z of unit variance, so that a step of the optimiser means the same for all.
        variance = (down.T @ gram @ down).diagonal() / (len(levels) * int(self.trained.sum()))
        spread = variance.clamp_min(1e-12).sqrt()
        return Start(
            torch.stack(means).float(),
            torch.stack(scales).float(),
            (down / spread).float(),
            (up * spread[:, None]).float(),
            target_mean.float(),
        )

    def one_jump(self, levels: Sequence[int], rank: int, statistics: str = "shared") -> OneJump:
        """A one-jump for some levels, which are numbered as in `levels`.

        Parameters
        ----------
        levels : sequence of int
        rank : int
            r.
        statistics : {"shared", "level"}
            What a level has of its own besides an offset of z: an r x r mixing of z, or a scale of each
            coordinate.
        """
        alone = len(levels) == 1
        jump = _OneJumpInTraining(
            self.closed_form(levels, rank), shared_scale=alone or statistics == "shared"
        )

        def loss(inputs: Tensor, level: Tensor, samples: Teacher) -> Tensor:
            exit_head = ExitHead(self.head, jump.up, jump.bias)
            return exit_loss(exit_head, jump.reduce(inputs, level), samples)

        # A step in A moves z by a sum over H coordinates, one in the others by itself. Of 6, 12 and 24, 12
        # was best at H = 576.
        wide = 12 / math.sqrt(self.store.hidden)
        rates = {name: wide if name == "down" else 1.0 for name, _ in jump.named_parameters()}
        self._train(jump, rates, loss, levels)
        return jump.folded(self.norm, self.head.config.eps)

    def affine(self, level: int) -> Affine:
        """The limit that low rank is compared with, from least squares to the last state on."""
        start = self._standardised(level)
        mean, scale = start.mean.float(), start.scale.float()
        model = nn.ParameterDict(
            {
                "matrix": nn.Parameter(solve_symmetric(start.gram, start.cross).float()),
                "offset": nn.Parameter(start.target_mean.float()),
            }
        )
        head, projection = self.head, self.head.config.scale * self.head.unembedding.T
        shift = None if head.logit_bias is None else head.config.scale * head.logit_bias

        def loss(inputs: Tensor, _: Tensor, samples: Teacher) -> Tensor:
            predicted = ((inputs - mean) * scale) @ model["matrix"] + model["offset"]
            return cross_entropy(
                head.features(predicted), projection, *samples, offset=shift, softcap=head.config.softcap
            )

        self._train(model, {"matrix": 1 / math.sqrt(self.store.hidden), "offset": 1.0}, loss, [level])
        matrix = (scale[:, None] * model["matrix"]).detach()
        bias = model["offset"].detach() - mean @ matrix
        return Affine(matrix.cpu(), bias.cpu(), self.norm, head.config.eps)

    def _standardised(self, level: int) -> Standardised:
        """Moments of a level's prepared states, and of what the head goes by of the last level's."""
        device = self.head.gain.device
        moments = Moments.empty(self.store.hidden, device)
        for block in self.store.blocks([level, self.store.levels - 1], self.trained.numpy()):
            inputs, targets = (torch.from_numpy(states).to(device) for states in block)
            moments.add(_prepared(inputs, self.norm, self.head), self.head.essence(targets))
        return standardise(moments)

    def _train(
        self,
        model: nn.Module,
        rates: Mapping[str, float],
        loss: Callable[[Tensor, Tensor, Teacher], Tensor],
        levels: Sequence[int],
    ) -> None:
        if not self._steps:
            return
        batches = _Batches(self, levels, self._seed + levels[0])

        def held_out_loss() -> float:
            with torch.no_grad():
                return float(np.mean([float(loss(*of_level)) for of_level in batches.held_out()]))

        optimiser = torch.optim.Adam(
            [
                {"params": [parameter], "lr": rates[name] * self._learning_rate}
                for name, parameter in model.named_parameters()
            ],
            betas=_BETAS,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self._steps)
        at_start = least = held_out_loss()
        waited = 0
        best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        every = max(1, self._steps // CHECKS)
        with tqdm(total=self._steps, unit="step", disable=None) as progress:
            for step, drawn in enumerate(batches.steps(self._steps, self._batch), start=1):
                optimiser.zero_grad(set_to_none=True)
                loss(*drawn).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                progress.update()
                if step % every and step != self._steps:
                    continue
                found = held_out_loss()
                progress.set_postfix({"held-out loss": f"{found:.4f}"})
                if not math.isfinite(found):
                    raise OneJumpError(
                        f"distillation diverged: the held-out loss is {found} after {step} steps; "
                        f"learning_rate: {self._learning_rate} given, try a smaller one"
                    )
                if found < least:
                    least, waited = found, 0
                    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                else:
                    waited += 1
                    if waited == self._patience:
                        break
        if least == at_start:
            _LOG.warning(
                "from level %s: no step was better than the closed form; try a smaller learning_rate than %s",
                levels[0] if len(levels) == 1 else "0 on",
                self._learning_rate,
            )
        model.load_state_dict(best)


class _Batches:
    """Samples at random levels, a shard at a time."""

    def __init__(self, fit: Distiller, levels: Sequence[int], seed: int) -> None:
        store = fit.store
        self._store, self._head, self._teacher, self._norm = store, fit.head, fit.teacher, fit.norm
        self._levels, self._device = levels, fit.head.gain.device
        self._generator = torch.Generator().manual_seed(seed)
        self._begin = [0, *np.cumsum(store.shard_samples).tolist()[:-1]]
        self._kept = [
            fit.trained[begin : begin + samples].nonzero()[:, 0] + begin
            for begin, samples in zip(self._begin, store.shard_samples, strict=True)
        ]
        self._held_out = self._gather_held_out(fit.stopping)

    def steps(self, count: int, batch: int) -> Iterator[tuple[Tensor, Tensor, Teacher]]:
        """Prepared states (n, H), their levels' numbers (n,), and what the teacher says of them."""
        parts = [part for part, kept in enumerate(self._kept) if len(kept)]
        epochs = max(1, round(count * batch / (sum(map(len, self._kept)) * len(self._levels))))
        visits = [
            parts[i] for _ in range(epochs) for i in torch.randperm(len(parts), generator=self._generator)
        ]
        loaded, states = -1, torch.empty(0)
        for number, part in enumerate(visits):
            if part != loaded:
                states = torch.empty(0)  # lets the last part go before the next one comes
                loaded, states = part, torch.from_numpy(self._store.shard(part, self._levels))
            for _ in range(count * number // len(visits), count * (number + 1) // len(visits)):
                yield self._draw(states, part, batch)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Teacher]]:
        """The same of the held-out samples, a level at a time."""
        rows, states = self._held_out
        for number, of_level in enumerate(states):
            inputs = _prepared(of_level.to(self._device), self._norm, self._head)
            level = torch.full((len(rows),), number, device=self._device)
            yield inputs, level, self._teacher.rows(rows, self._device)

    def _draw(self, states: Tensor, part: int, batch: int) -> tuple[Tensor, Tensor, Teacher]:
        kept = self._kept[part]
        rows = kept[torch.randint(len(kept), (batch,), generator=self._generator)]
        level = torch.randint(len(self._levels), (batch,), generator=self._generator)
        drawn = states[level, rows - self._begin[part]].to(self._device)
        inputs = _prepared(drawn, self._norm, self._head)
        return inputs, level.to(self._device), self._teacher.rows(rows, self._device)

    def _gather_held_out(self, stopping: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows = some_of(stopping.nonzero()[:, 0], held_out_of_a_level(len(self._levels)))
        states = self._store.rows(rows.numpy(), self._levels)
        return rows, [torch.from_numpy(of_level) for of_level in states]


def distil(
    output: Path,
    shards: Sequence[Path],
    head: Path,
    documents: Path,
    *,
    method: str,
    options: dict[str, Any],
    seed: int,
    device: str = "auto",
) -> None:
    """The stage: distil a method's shortcuts from the training shards and write its folder.

    Parameters
    ----------
    output : Path
        The method's folder.
    shards : sequence of Path
        Training shards.
    head, documents : Path
        Of the model stage, and table of the stage "document roles": documents for stopping and for
        thresholds are not trained on.
    method : {"distilled", "one-jump", "affine"}
    options : dict
        The study's options of the method.
    seed : int
        Of the samples drawn.
    device : str

    Raises
    ------
    StudyError
        If the rank is over H, or no document is for fitting or for stopping.
    """
    model_digest = one_model(shards[0], head)
    store = ActivationStore(shards)
    loaded = Head.load(head).to(pick_device(device))
    rank, levels = rank_for(store.hidden, options.get("rank")), range(store.levels - 1)
    trained = samples_with_role(store, documents, FIT)
    distiller = Distiller(
        store,
        loaded,
        trained=trained,
        stopping=samples_with_role(store, documents, STOPPING),
        norm=loaded.config.norm if options["normalise"] else None,
        seed=seed,
        **{name: options[name] for name in ("sharpness", "steps", "batch", "learning_rate", "patience")},
    )

    def fitted() -> Iterator[Shortcut]:
        if method == "one-jump":
            yield distiller.one_jump(levels, rank, options["statistics"])
            return
        for level in tqdm(levels, unit="level", disable=None):
            yield distiller.affine(level) if method == "affine" else distiller.one_jump([level], rank).at(0)

    about = {"method": method, "solver": "distillation", "samples": int(trained.sum())}
    save_shortcuts(
        output, fitted(), about, levels=len(levels), one=method == "one-jump", model_digest=model_digest
    )
