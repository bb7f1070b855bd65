"""The stage "analysis": what the jumps of different levels share, and what their ranks are used for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.amounts.analysis import PREDICTED
from onejump.base.device import pick_device
from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.data.held_out import some_of
from onejump.data.store import ActivationStore
from onejump.fitting.teacher import Teacher, exit_loss, head_metric
from onejump.models.head import Head
from onejump.scoring.jumps import jumps_of_levels
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.shortcut import LowRank


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal basis (H, r) of the space that columns (H, r) span."""
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


def spaces_of(jump: LowRank) -> tuple[Tensor, Tensor]:
    """Orthonormal bases (H, r) of the space that a jump reads, A's columns, and writes, B's rows.

    A bias belongs to neither.
    """
    return orthonormal(jump.input_directions()), orthonormal(jump.up.double().T)


def shared(bases: Sequence[Tensor]) -> Tensor:
    """How much of its space each of several spaces shares with each other one.

    This is the mean of the squared cosines of the principal angles: 1 for the same space, 0 for orthogonal
    spaces, and r / H on average for random ones.

    Parameters
    ----------
    bases : sequence of L tensors of shape (H, r)
        Orthonormal columns.

    Returns
    -------
    Tensor of shape (L, L)
    """
    side_by_side = torch.cat(list(bases), 1)
    rank = bases[0].shape[1]
    # One space at a time. The squared cosines of a pair add up to the squared norm of Q' Q.
    rows = [(basis.T @ side_by_side).square().sum(0).reshape(-1, rank).sum(1) for basis in bases]
    return torch.stack(rows) / rank


def share(directions: Tensor, metric: Tensor) -> Tensor:
    """Part of a metric's trace that lies in each direction: v' M v / tr M, on average 1 / H for a random one.

    Parameters
    ----------
    directions : Tensor of shape (H, r)
        Columns of length 1.
    metric : Tensor of shape (H, H)

    Returns
    -------
    Tensor of shape (r,)
    """
    return ((metric @ directions) * directions).sum(0) / metric.trace()


def participation(directions: Tensor) -> Tensor:
    """How many coordinates a direction uses, 1 / sum v^4: from 1, a single one, to H, all of them equally.

    Parameters
    ----------
    directions : Tensor of shape (H, r)
        Columns of length 1.

    Returns
    -------
    Tensor of shape (r,)
    """
    return directions.pow(4).sum(0).reciprocal()


class Ranks(NamedTuple):
    """A jump's predictions along orthonormal directions, the direction in which they vary most first.

    The directions depend on the predictions only, not on how these are written as a product of A and B.
    """

    mean: Tensor
    """Mean of the predictions, (H,)."""
    directions: Tensor
    """Orthonormal columns, (H, r)."""
    coordinates: Tensor
    """Coordinates of the predictions, without their mean, along the directions, (n, r)."""

    @classmethod
    def of(cls, jump: LowRank, states: Tensor) -> Ranks:
        """From the predictions that a jump makes of states (n, H); in float64."""
        reduced, up = jump.reduce(states).double(), jump.up.double()
        centre = reduced.mean(0)
        mean = centre @ up if jump.bias is None else centre @ up + jump.bias
        basis, triangle = torch.linalg.qr(up.T)
        along = (reduced - centre) @ triangle.T
        axes = torch.linalg.eigh(along.T @ along).eigenvectors.flip(1)
        return cls(mean, basis @ axes, along @ axes)

    def losses(self, head: Head, teacher: Teacher) -> Iterator[float]:
        """Cross-entropy to the teacher of the mean alone, then with the first 1, ..., r directions."""
        exit_head = ExitHead(head, self.directions.T.float(), self.mean.float())
        for kept in range(self.directions.shape[1] + 1):
            coordinates = self.coordinates.float()
            coordinates[:, kept:] = 0
            yield float(exit_loss(exit_head, coordinates, teacher))


def last_covariance(store: ActivationStore, device: torch.device | str = "cpu") -> Tensor:
    """Covariance (H, H) of the last level's states, in float64.

    The squared error of a prediction is a part of its trace.
    """
    total = torch.zeros(store.hidden, dtype=torch.float64, device=device)
    gram = torch.zeros(store.hidden, store.hidden, dtype=torch.float64, device=device)
    for (states,) in store.blocks([store.levels - 1]):
        last = torch.from_numpy(states).to(device).double()
        total += last.sum(0)
        gram.addmm_(last.T, last)
    mean = total / store.samples
    return gram / store.samples - torch.outer(mean, mean)


Row = tuple[str, int | None, int | None, int | None, float]
"""quantity, level, other, index, value."""


def analyse_jumps(
    jumps: Sequence[LowRank],
    store: ActivationStore,
    head: Head,
    teacher: Teacher,
    metrics: Mapping[str, Tensor],
) -> Iterator[Row]:
    """The quantities of `analyse` for the jumps of one method.

    Parameters
    ----------
    jumps : sequence of LowRank
        One for each level.
    store : ActivationStore
    head : Head
    teacher : Teacher
        Of all samples.
    metrics : mapping of quantity -> Tensor of shape (H, H)
        The metrics of which each direction has a `share`.
    """
    downs, ups = zip(*map(spaces_of, jumps), strict=True)
    hidden, rank = ups[0].shape
    yield "by-chance", None, None, None, rank / hidden
    for quantity, bases in (("shared-down", downs), ("shared-up", ups)):
        for level, row in enumerate(shared(bases).tolist()):
            for other, value in enumerate(row):
                yield quantity, level, other, None, value
    device = head.gain.device
    rows = some_of(torch.arange(store.samples), PREDICTED)
    taught = teacher.rows(rows, device)
    for level, jump in enumerate(tqdm(jumps, unit="level", disable=None)):
        (states,) = store.rows(rows.numpy(), [level])
        ranks = Ranks.of(jump, torch.from_numpy(states).to(device))
        measured = {name: share(ranks.directions, metric).tolist() for name, metric in metrics.items()}
        measured["coordinates"] = participation(ranks.directions).tolist()
        measured["cross-entropy"] = list(ranks.losses(head, taught))
        for quantity, values in measured.items():
            for index, value in enumerate(values):
                yield quantity, level, None, index, value


@torch.inference_mode()
def analyse(
    table: Path,
    shards: Sequence[Path],
    head: Path,
    shortcuts: Sequence[Path],
    *,
    methods: Sequence[str],
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage: analyse the jumps of low-rank methods.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, quantity, level, other, index, value. Columns that do
        not apply to a quantity are empty. The quantities are

        - shared-down, shared-up: how much the spaces that the jumps of level and other read, or write, share
          (`shared`);
        - by-chance: r / H, which random spaces share;
        - error-share: part of the last level's variance that lies in a direction of the level's predictions
          (`Ranks`); index is the number of the direction;
        - head-share: the same part of `head_metric`, which measures how much small errors change the
          distribution behind the head;
        - coordinates: how many coordinates that direction uses (`participation`);
        - cross-entropy: to the teacher, in nats, of predictions with only the first index directions; 0 is
          their mean alone.
    shards : sequence of Path
        Training shards.
    head : Path
        Of the model stage.
    shortcuts : sequence of Path
        Folders of low-rank methods with a jump for each level.
    methods : sequence of str
        Their names.
    model, corpus : str
        Names, for the table.
    device : str

    Raises
    ------
    OneJumpError
        If a folder does not hold a low-rank jump for each level.
    """
    model_digest = one_model(shards[0], head, *shortcuts)
    on = pick_device(device)
    store, behind = ActivationStore(shards), Head.load(head).to(on)
    teacher = Teacher.of(store)
    metrics = {
        "error-share": last_covariance(store, on),
        "head-share": head_metric(behind, teacher, torch.arange(store.samples)),
    }
    rows: list[tuple[Any, ...]] = []
    for method, path in zip(methods, shortcuts, strict=True):
        jumps = jumps_of_levels(path, store.levels - 1, on)
        rows += [
            (model, corpus, method, *row) for row in analyse_jumps(jumps, store, behind, teacher, metrics)
        ]
    columns = ["model", "corpus", "method", "quantity", "level", "other", "index", "value"]
    numbers = dict.fromkeys(["level", "other", "index"], "Int64")  # the integer type that can be empty
    write_table(table, pd.DataFrame(rows, columns=columns).astype(numbers), model_digest=model_digest)
