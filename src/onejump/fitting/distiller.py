"""Distillation: shortcuts are trained on the model's distribution, through its head.

The mean squared error spends the few ranks of a jump on the coordinates of largest variance, not on those
that decide the next token. Here the loss is the cross-entropy to the model's most likely tokens, which the
activation store keeps. The last level's states are needed for the start only, and behind a jump of rank r a
step costs V H r + n V r multiplications instead of n V H.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from onejump.base.amounts.distillation import CHECKS
from onejump.base.errors import OneJumpError
from onejump.base.rank import PAPERS_RANK
from onejump.data.store import ActivationStore
from onejump.fitting.batches import Batches
from onejump.fitting.moments import Moments, Standardised, standardise
from onejump.fitting.regression import Metric
from onejump.fitting.teacher import Teacher, head_metric
from onejump.models.head import Head, normalised
from onejump.shortcuts.kinds.one_forward import halves_normalised

_BETAS = (0.9, 0.99)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillationOptions:
    """How a kind is distilled."""

    normalise: bool
    """Whether shortcuts first apply the model's own kind of norm."""
    sharpness: float
    """The teacher's logits are multiplied by it."""
    steps: int
    """Steps of one fit; 0 gives the closed form that training starts from."""
    batch: int
    """Samples of a step, of all levels together."""
    learning_rate: float
    """Adam's step size at the start."""
    patience: int
    """Stop after this many checks (20 per fit) without a new lowest loss on the samples for stopping."""
    rank: float = PAPERS_RANK
    """r, or, below 1, the part of H that r is. A full-rank kind does not use it."""
    statistics: str = "shared"
    """For one-jump: "shared", each level mixes its z, or "level", each level scales its input."""
    candidates: int | Sequence[int] = 64
    """For a shortlist: how many of the most likely tokens are judged again, or what to choose it from."""
    correction: float = PAPERS_RANK
    """For one-residual: rank of the correction of the state, or, below 1, the part of H that it is."""
    correction_steps: int = 0
    """For one-residual: steps that train the correction."""

    @property
    def possible_candidates(self) -> list[int]:
        """What the number of candidates is chosen from, rising."""
        given = self.candidates
        return [given] if isinstance(given, int) else sorted(set(given))


class Distiller:
    """Fits by distillation: from a closed form, by Adam with a cosine-decayed step.

    Every step draws samples at random levels. The fit keeps the state with the lowest loss on the samples for
    stopping. Fits run on the head's device, with one shard of the store in memory, at the levels of the fit.

    Parameters
    ----------
    store : ActivationStore
        Training samples.
    head : Head
    options : DistillationOptions
    trained, stopping : Tensor of shape (samples,), bool
        Samples to train on, and samples that decide when to stop.
    seed : int
        Decides the samples that are drawn.
    previous : bool
        Whether shortcuts read the last level's state of the position before, too.
    """

    def __init__(
        self,
        store: ActivationStore,
        head: Head,
        options: DistillationOptions,
        *,
        trained: Tensor,
        stopping: Tensor,
        seed: int,
        previous: bool = False,
    ) -> None:
        self.store = store.with_previous() if previous else store
        self.head, self.options = head, options
        self.trained, self.stopping = trained, stopping
        self.norm = head.config.norm if options.normalise else None
        self.device = head.gain.device
        self._previous = previous
        self.teacher = Teacher.of(store, options.sharpness)
        self._seed = seed

    @cached_property
    def metric(self) -> Metric:
        """The head's metric (`head_metric`), on the samples to train on."""
        return Metric.of(head_metric(self.head, self.teacher, self.trained.nonzero()[:, 0]))

    def prepare(self, states: Tensor) -> Tensor:
        """Apply the norm that shortcuts begin with to states (..., H), or to each half of (..., 2H)."""
        if self._previous:
            return halves_normalised(states, self.norm, self.head.config.eps)
        return states if self.norm is None else normalised(states, self.norm, self.head.config.eps)

    def standardised(self, level: int) -> Standardised:
        """Gather moments of a level's prepared states, with the last level's `Head.essence` as targets."""
        moments = Moments.empty(self.store.hidden, self.device, width=self.store.width)
        for block in self.store.blocks([level, self.store.levels - 1], self.trained.numpy()):
            inputs, targets = (torch.from_numpy(states).to(self.device) for states in block)
            moments.add(self.prepare(inputs), self.head.essence(targets))
        return standardise(moments)

    def train(
        self,
        model: nn.Module,
        rates: Mapping[str, float],
        loss: Callable[[Tensor, Tensor, Teacher], Tensor],
        levels: Sequence[int],
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
        steps: int | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Train the parameters of a model, and leave it in the state of the lowest loss for stopping.

        Parameters
        ----------
        model : torch.nn.Module
        rates : mapping of parameter name -> factor of the learning rate
        loss : function of prepared states (n, H), the number of each one's level (n,), and the teacher
        levels : sequence of int
            Levels of the states, numbered from 0 on.
        prepare : callable, optional
            What is done to states first, if not what `prepare` does.
        steps : int, optional
            If not those of the options.
        weights : sequence of float, optional
            How much each of the levels counts; unless given, all count alike.

        Raises
        ------
        OneJumpError
            If the loss is no longer finite.
        """
        options = self.options
        steps = options.steps if steps is None else steps
        if not steps:
            return
        batches = Batches(
            self.store,
            self.teacher,
            prepare or self.prepare,
            trained=self.trained,
            stopping=self.stopping,
            levels=levels,
            seed=self._seed + levels[0],
            device=self.device,
            weights=weights,
        )

        def stopping_loss() -> float:
            with torch.no_grad():
                of_levels = [float(loss(*of_level)) for of_level in batches.stopping()]
                return float(np.average(of_levels, weights=weights))

        optimiser = torch.optim.Adam(
            [
                {"params": [parameter], "lr": rates[name] * options.learning_rate}
                for name, parameter in model.named_parameters()
            ],
            betas=_BETAS,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        at_start = lowest = stopping_loss()
        waited = 0
        best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        every = max(1, steps // CHECKS)
        with tqdm(total=steps, unit="step", disable=None) as progress:
            for step, drawn in enumerate(batches.steps(steps, options.batch), start=1):
                optimiser.zero_grad(set_to_none=True)
                loss(*drawn).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                progress.update()
                if step % every and step != steps:
                    continue
                found = stopping_loss()
                progress.set_postfix({"loss for stopping": f"{found:.4f}"})
                if not math.isfinite(found):
                    raise OneJumpError(
                        f"distillation diverged: the loss on the samples for stopping is {found} after "
                        f"{step} steps; learning_rate: {options.learning_rate} given, try a smaller one"
                    )
                if found < lowest:
                    lowest, waited = found, 0
                    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                else:
                    waited += 1
                    if waited == options.patience:
                        break
        if lowest == at_start:
            _LOG.warning(
                "from level %s: no step was better than the closed form; try a smaller learning_rate than %s",
                levels[0] if len(levels) == 1 else "0 on",
                options.learning_rate,
            )
        model.load_state_dict(best)
