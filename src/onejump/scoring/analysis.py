"""The stage "analysis": what the jumps of different levels share, and what their few ranks are spent on."""

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
from onejump.base.errors import OneJumpError
from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.data.held_out import some_of
from onejump.data.store import ActivationStore
from onejump.fitting.teacher import Teacher, exit_loss, head_metric
from onejump.models.head import Head
from onejump.shortcuts.exit_head import ExitHead
from onejump.shortcuts.files import ShortcutFolder
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.shortcut import LowRank


def orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal basis (H, r) of the space that columns (H, r) span."""
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


def spaces_of(jump: LowRank) -> tuple[Tensor, Tensor]:
    """Bases (H, r) of what a jump reads of the states, A's columns, and of what it writes, B's rows.

    A distilled jump's bias, which it writes besides at all times, is no part of either.
    """
    down = jump.down.double() if isinstance(jump, Distilled) else jump.folded()[0]
    return orthonormal(down), orthonormal(jump.up.double().T)


def shared(bases: Sequence[Tensor]) -> Tensor:
    """How much of one another's space each pair shares.

    The mean of the squared cosines of the principal angles: 1 for the same space, r / H expected of random
    ones, 0 for orthogonal ones.

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
    # A row of pairs at a time. The squared cosines add up to the squared norm of Q' Q.
    rows = [(basis.T @ side_by_side).square().sum(0).reshape(-1, rank).sum(1) for basis in bases]
    return torch.stack(rows) / rank


def share(directions: Tensor, metric: Tensor) -> Tensor:
    """Part of a metric's trace that lies in each direction: v' M v / tr M, 1 / H expected of a random one.

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
    """On how many coordinates a direction lies, 1 / sum v^4: from 1 for a single one to H for all alike.

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
    """A jump's predictions along orthonormal directions, those in which they vary most first.

    They depend on what is predicted only, and not on how A and B are written.
    """

    mean: Tensor
    """Of the predictions, (H,)."""
    directions: Tensor
    """(H, r)."""
    coordinates: Tensor
    """Of the predictions less their mean, (n, r)."""

    @classmethod
    def of(cls, jump: LowRank, states: Tensor) -> Ranks:
        """Of the predictions from states (n, H), in float64."""
        reduced, up = jump.reduce(states).double(), jump.up.double()
        centre = reduced.mean(0)
        mean = centre @ up if jump.bias is None else centre @ up + jump.bias
        basis, triangle = torch.linalg.qr(up.T)
        along = (reduced - centre) @ triangle.T
        axes = torch.linalg.eigh(along.T @ along).eigenvectors.flip(1)
        return cls(mean, basis @ axes, along @ axes)

    def losses(self, head: Head, teacher: Teacher) -> Iterator[float]:
        """Cross-entropy to the teacher with no rank but the mean, with the first one, ..., with all r."""
        exit_head = ExitHead(head, self.directions.T.float(), self.mean.float())
        for kept in range(self.directions.shape[1] + 1):
            coordinates = self.coordinates.float()
            coordinates[:, kept:] = 0
            yield float(exit_loss(exit_head, coordinates, teacher))


def last_covariance(store: ActivationStore, device: torch.device | str = "cpu") -> Tensor:
    """Covariance (H, H) of the last level's states, in float64: what a squared error is of."""
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
    """What there is to say of one method's jumps, of levels 0, 1, ...

    Parameters
    ----------
    jumps : sequence of LowRank
    store : ActivationStore
    head : Head
    teacher : Teacher
        Of all samples.
    metrics : mapping of quantity -> Tensor of shape (H, H)
        What to give the directions' shares of.
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
    output: Path,
    shards: Sequence[Path],
    head: Path,
    folders: Mapping[str, Path],
    *,
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage.

    Parameters
    ----------
    output : Path
        Table with columns model, corpus, method, quantity, level, other, index, value, empty where a
        quantity has no such number:

        - shared-down, shared-up: of the spaces that the jumps of level and other read and write (`shared`);
        - by-chance: r / H, which random spaces share;
        - error-share: part of the last level's variance that lies in a direction of the level's predictions
          (`Ranks`), counted by index;
        - head-share: the same part of `head_metric`, which says what the head makes of small errors;
        - coordinates: on how many of them that direction lies (`participation`);
        - cross-entropy: to the teacher, in nats, of predictions with the first index directions only, from 0
          (their mean) to r.
    shards : sequence of Path
        Training shards.
    head : Path
        Of the model stage.
    folders : mapping of method -> folder
        Of low-rank methods with a jump per level.
    device : str

    Raises
    ------
    OneJumpError
        If a method has other shortcuts than that.
    """
    model_digest = one_model(shards[0], head, *folders.values())
    on = pick_device(device)
    store, behind = ActivationStore(shards), Head.load(head).to(on)
    teacher = Teacher.of(store)
    metrics = {
        "error-share": last_covariance(store, on),
        "head-share": head_metric(behind, teacher, torch.arange(store.samples)),
    }
    rows: list[tuple[Any, ...]] = []
    for method, path in folders.items():
        jumps = ShortcutFolder(path, on).low_rank()
        if len(jumps) != store.levels - 1:
            raise OneJumpError(
                f"{path}: a low-rank shortcut for each of {store.levels - 1} levels was expected, "
                f"{len(jumps)} were found"
            )
        rows += [
            (model, corpus, method, *row) for row in analyse_jumps(jumps, store, behind, teacher, metrics)
        ]
    columns = ["model", "corpus", "method", "quantity", "level", "other", "index", "value"]
    numbers = dict.fromkeys(["level", "other", "index"], "Int64")  # which may be missing
    write_table(output, pd.DataFrame(rows, columns=columns).astype(numbers), model_digest=model_digest)
