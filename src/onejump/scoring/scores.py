"""The stage "scores": how good every jump is at every level, on training samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.device import pick_device
from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.base.scores import MSE, OF_STATES, SURPRISAL
from onejump.data.document_roles import STOPPING
from onejump.data.held_out import samples_with_role, some_of
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.scoring.jumps import jumps_of_levels
from onejump.scoring.top_tokens import top_tokens_of
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.shortcut import LowRank

# Held-out samples that surprisals are averaged over: enough to tell jumps apart, as all get the same samples.
_SURPRISAL_SAMPLES = 256
# Samples whose logits are made at a time: few enough that the logits stay in a CPU's caches.
_TOGETHER = 64


class JumpScorer:
    """Scores M low-rank jumps on states without making their predictions.

    The prediction of jump m is z Q, with z = h M_m + c_m (its normalisation folded in) and orthonormal rows
    Q. For a target y, <z Q, y> = z (Q y) and |z Q| = |z|. All z come from a single product, of the states
    with the M folded matrices side by side.

    Parameters
    ----------
    jumps : sequence of LowRank
        Of one kind and rank.
    device : torch.device
    """

    def __init__(self, jumps: Sequence[LowRank], device: torch.device | str = "cpu") -> None:
        folded = [jump.folded() for jump in jumps]
        self.jumps, self.rank = len(jumps), len(folded[0][1])
        self._prepare = jumps[0].prepare
        # In this order (rank, jump, sample), a sum over the rank adds up whole planes.
        self._down = _planes([matrix.T for matrix, _, _ in folded]).float().to(device)
        self._offset = _planes([offset[:, None] for _, offset, _ in folded]).float().to(device)
        self._up = _planes([rows for _, _, rows in folded]).float().to(device)

    def targets(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Q y of each jump, and |y|^2, for last-level states y (n, H). They serve all levels."""
        return (self._up @ last.T).view(self.rank, self.jumps, -1), last.square().sum(-1)

    def scores(self, states: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        """Scores, summed over samples.

        Parameters
        ----------
        states : Tensor of shape (n, H)
            Of one level.
        targets : tuple
            Of `targets`, for the same samples.

        Returns
        -------
        Tensor of shape (len(OF_STATES), M), float64
            sgn(C) C^2, C, and |z Q - y|^2 / H. A prediction of length zero has cosine zero.
        """
        lifted, squared_length = targets
        reduced = torch.addmm(self._offset, self._down, self._prepare(states).T).view_as(lifted)
        products = (reduced * lifted).sum(0)
        squares = reduced.square_().sum(0)
        cosine = products * (squares * squared_length).clamp_min_(torch.finfo(squares.dtype).tiny).rsqrt_()
        errors = (squares - 2 * products + squared_length) / states.shape[1]
        return torch.stack([t.sum(-1, dtype=torch.float64) for t in (cosine * cosine.abs(), cosine, errors)])


def _planes(of_jumps: Sequence[Tensor]) -> Tensor:
    """Stack tensors (r, width) of M jumps to (r M, width); the jump is the faster index."""
    return torch.stack(list(of_jumps), 1).flatten(0, 1)


@torch.inference_mode()
def score_matrix(
    store: ActivationStore, jumps: Sequence[LowRank], device: torch.device | str = "cpu"
) -> Tensor:
    """Scores of every jump on every level, summed over samples. Each activation is read once.

    Parameters
    ----------
    store : ActivationStore
    jumps : sequence of M LowRank
    device : torch.device

    Returns
    -------
    Tensor of shape (len(OF_STATES), M, L), float64
        The first matrix, summed over levels, is D_m of OJFA.
    """
    scorer = JumpScorer(jumps, device)
    sources = store.levels - 1
    totals = torch.zeros(len(OF_STATES), len(jumps), sources, dtype=torch.float64)
    with tqdm(total=store.samples, unit="sample", disable=None) as progress:
        for *states, last in store.blocks(range(store.levels)):
            targets = scorer.targets(torch.from_numpy(last).to(device))
            for level in range(sources):
                at_level = torch.from_numpy(states[level]).to(device)
                totals[:, :, level] += scorer.scores(at_level, targets).cpu()
            progress.update(len(last))
    return totals


@torch.inference_mode()
def logits_of_jumps(
    store: ActivationStore, head: Head, jumps: Sequence[LowRank], rows: Tensor
) -> Iterator[tuple[int, int, slice, Tensor]]:
    """Logits behind every jump at every level, for some samples.

    Parameters
    ----------
    store : ActivationStore
    head : Head
        Its device is used.
    jumps : sequence of LowRank
    rows : Tensor of shape (n,), int64
        Numbers of samples, rising.

    Yields
    ------
    jump, level, a part of the rows, logits (samples of the part, V)
    """
    device = head.gain.device
    exit_heads = [ExitHead.of(head, jump.to(device)) for jump in jumps]
    kept = np.zeros(store.samples, dtype=bool)
    kept[rows.numpy()] = True
    for level in tqdm(range(store.levels - 1), unit="level", disable=None):
        for part, states in store.parts(level, _TOGETHER, kept):
            of_part = torch.from_numpy(states).to(device)
            for number, (jump, exit_head) in enumerate(zip(jumps, exit_heads, strict=True)):
                yield number, level, part, exit_head.logits(jump.reduce(of_part))


def surprisal_matrix(store: ActivationStore, head: Head, jumps: Sequence[LowRank], rows: Tensor) -> Tensor:
    """Surprisal behind every jump at every level, summed over some samples.

    It is that of the most likely token of the true final distribution.

    Parameters
    ----------
    store : ActivationStore
    head : Head
        Its device is used.
    jumps : sequence of LowRank
    rows : Tensor of shape (n,), int64
        Samples.

    Returns
    -------
    Tensor of shape (M, L), float64
    """
    first = top_tokens_of(store)[rows].to(head.gain.device)
    totals = torch.zeros(len(jumps), store.levels - 1, dtype=torch.float64)
    for jump, level, part, logits in logits_of_jumps(store, head, jumps, rows):
        surprisal = logits.logsumexp(-1) - logits.gather(1, first[part])[:, 0]
        totals[jump, level] += float(surprisal.sum(dtype=torch.float64))
    return totals


def score_jumps(
    table: Path,
    shards: Sequence[Path],
    shortcuts: Path,
    head: Path | None = None,
    documents: Path | None = None,
    *,
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage: score every jump of a kind on every level.

    Jumps that predict no state (`Shortcut.predicts_state`) have no mse.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, metric, jump, level, score (mean over samples), n (number of
        samples).
    shards : sequence of Path
        Training shards.
    shortcuts : Path
        Folder of a kind with a low-rank jump for each level.
    head : Path, optional
        Of the model stage.
    documents : Path, optional
        Table of the stage "document roles". If head and documents are given, the surprisal on the documents
        for stopping is a score too: distilled jumps were not trained on these documents.
    model, corpus : str
        Names, for the table.
    device : str

    Raises
    ------
    OneJumpError
        If the folder does not hold a low-rank jump for each level.
    """
    model_digest = one_model(shards[0], head, shortcuts)
    store = ActivationStore(shards)
    jumps = jumps_of_levels(shortcuts, store.levels - 1)
    on = pick_device(device)
    scores = {
        metric: (of_metric, store.samples)
        for metric, of_metric in zip(OF_STATES, score_matrix(store, jumps, on), strict=True)
        if metric != MSE or jumps[0].predicts_state
    }
    if head is not None and documents is not None:
        unseen = some_of(samples_with_role(store, documents, STOPPING).nonzero()[:, 0], _SURPRISAL_SAMPLES)
        scores[SURPRISAL] = surprisal_matrix(store, Head.load(head).to(on), jumps, unseen), len(unseen)
    rows = [
        (model, corpus, metric, jump, level, float(of_metric[jump, level]) / samples, samples)
        for metric, (of_metric, samples) in scores.items()
        for jump in range(of_metric.shape[0])
        for level in range(of_metric.shape[1])
    ]
    columns = ["model", "corpus", "metric", "jump", "level", "score", "n"]
    write_table(table, pd.DataFrame(rows, columns=columns), model_digest=model_digest)
