"""The papers' solver: minibatch Adam, the shortcuts of all levels trained side by side in one process."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.by_name import module_named
from onejump.base.errors import StudyError
from onejump.data.shard_layout import Array
from onejump.data.store import ActivationStore
from onejump.fitting.options import FitOptions
from onejump.shortcuts.shortcut import BATCH_NORM_EPS, DistilledKind, LowRank

_MOMENTUM = 0.1  # of the running statistics, as in torch.nn.BatchNorm1d


def fit(
    store: ActivationStore,
    method: str,
    rank: int,
    options: FitOptions,
    *,
    seed: int,
    held_out: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> list[LowRank]:
    """Fit low-rank shortcuts of all levels by Adam with a cosine-decayed step.

    Every step takes one minibatch of samples at all levels, so that an epoch reads the store once, one shard
    at a time. The objective is the mean squared error to the last level. Adam moves every number by about its
    step size, however large the number is. So B, and A of njtc, are trained in units of the root mean squares
    of the coordinates that they write and read; the units are multiplied back in at the end. The functions
    and the optimum are the same. The statistics of a batch normalisation are those of the minibatch in
    training; running ones are kept.

    Parameters
    ----------
    store : ActivationStore
        Training samples.
    method : str
        njtc, n-njtc, or joint: one n-njtc for the states of all levels together.
    rank : int
        r.
    options : FitOptions
    seed : int
        Decides where training starts, and the minibatches.
    held_out : Tensor, optional
        Accepted by the exact solver only.
    device : torch.device

    Returns
    -------
    list of LowRank
        One for each level, from level 0 on, or a single one for all levels.

    Raises
    ------
    StudyError
        If the method is none of these, or samples are to be left out.
    """
    module = module_named("fitting.kinds", method, what="method")
    kind: type[LowRank] = module.KIND
    if not issubclass(kind, LowRank) or issubclass(kind, DistilledKind) or options.gradient is None:
        raise StudyError(f"{method}: solver gradient given, it is accepted for njtc, n-njtc and joint only")
    if held_out is not None:
        raise StudyError(
            f"{method}: the gradient solver given, which fits to all documents: to hold some out, solver "
            "exact is accepted"
        )
    normalised, joint = kind.norm == "batch", bool(module.ONE_FOR_ALL_LEVELS)
    epochs, batch, learning_rate = (
        options.gradient.epochs,
        options.gradient.batch,
        options.gradient.learning_rate,
    )
    sources, hidden = store.levels - 1, store.hidden
    count = 1 if joint else sources
    generator = torch.Generator().manual_seed(seed)
    roots = _root_mean_squares(store)
    input_scale = torch.ones_like(roots[:-1]) if normalised else roots[:-1]
    target_scale = float(roots[-1].square().mean().sqrt())
    written = (roots[-1] / target_scale).to(device)

    def start(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator).div_(math.sqrt(shape[-2]))
        return drawn.to(device).requires_grad_()

    down, up = start(count, hidden, rank), start(count, rank, hidden)
    gamma = torch.ones(count, 1, hidden, device=device, requires_grad=normalised)
    beta = torch.zeros(count, 1, hidden, device=device, requires_grad=normalised)
    mean = torch.zeros(count, 1, hidden, device=device)
    variance = torch.ones(count, 1, hidden, device=device)
    trained = [down, up, gamma, beta] if normalised else [down, up]
    steps = epochs * sum(-(-samples // batch) for samples in store.shard_samples)
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    scale = input_scale[:, None, :].to(device)
    with tqdm(total=steps, unit="step", disable=None) as progress:
        for states in _minibatches(store, epochs, batch, seed):
            inputs, targets = states[:-1].to(device) / scale, states[-1].to(device) / target_scale
            if joint:
                inputs = inputs.flatten(0, 1)[None]
            if normalised:
                centre = inputs.mean(1, keepdim=True)
                inputs -= centre
                spread = inputs.square().mean(1, keepdim=True)
                inputs *= torch.rsqrt(spread + BATCH_NORM_EPS)
                samples = inputs.shape[1]
                mean.lerp_(centre, _MOMENTUM)
                variance.lerp_(spread * samples / max(1, samples - 1), _MOMENTUM)
            # |z B - y|^2 = z (B B') z' - 2 z (B y) + |y|^2: the predictions z B need not be made.
            basis = up * written
            reduced = inputs @ (gamma.mT * down) + beta @ down
            lifted = targets @ basis.mT
            if joint:
                lifted = lifted.repeat(1, sources, 1)
            errors = (reduced @ (basis @ basis.mT) * reduced - 2 * reduced * lifted).sum(-1)
            # The mean over samples and coordinates, but the sum over levels: the gradient of a level is then
            # the same however many levels there are.
            loss = errors.mean(1).sum() / hidden
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            progress.update()
    shortcuts: list[LowRank] = []
    for i in range(count):
        a, b = down[i].detach().cpu(), up[i].detach().cpu() * roots[-1]
        if normalised:
            shortcuts.append(kind(a, b, *(t[i, 0].detach().cpu() for t in (gamma, beta, mean, variance))))
        else:
            shortcuts.append(kind(a / input_scale[i, :, None], b))
    return shortcuts


def _root_mean_squares(store: ActivationStore) -> Tensor:
    """Measure the root mean square of each coordinate at each level (L + 1, H)."""
    squares = np.zeros((store.levels, store.hidden))
    for states in store.blocks(range(store.levels)):
        squares += np.stack([np.square(s, dtype=np.float64).sum(0) for s in states])
    return torch.from_numpy(np.sqrt(squares / store.samples)).float().clamp_min(1e-12)


def _minibatches(store: ActivationStore, epochs: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Draw minibatches (L + 1, n, H). Shards are shuffled, and the samples in each; one is in memory."""
    generator = np.random.default_rng(seed)
    nothing: Array = np.empty((0, 0, 0), np.float32)
    loaded, states = -1, nothing
    for _ in range(epochs):
        for shard in generator.permutation(len(store.shard_samples)).tolist():
            if shard != loaded:
                states = nothing  # frees the last shard before the next one is read
                loaded, states = shard, store.shard(shard)
            order = generator.permutation(states.shape[1])
            # Parts of equal size, so that no batch statistics come from a remainder of one sample.
            for part in np.array_split(order, -(-len(order) // batch)):
                yield torch.from_numpy(states[:, np.sort(part)])
