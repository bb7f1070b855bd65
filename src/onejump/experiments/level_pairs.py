"""The stage "level-pairs": how well each method predicts every later level from every level, by r2.

As N-NJTC (arXiv 2409.14091, Fig. 2) and JTC (arXiv 2303.09435, Fig. 2) measure it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.amounts.level_pairs import MOMENTS_TOGETHER
from onejump.base.device import pick_device
from onejump.base.errors import StudyError
from onejump.base.files import write_table
from onejump.base.identity import one_model
from onejump.base.rank import rank_for
from onejump.data.held_out import documents_of_samples
from onejump.data.store import ActivationStore
from onejump.fitting.kinds.n_njtc import with_constant
from onejump.fitting.moments import Moments, standardise
from onejump.fitting.regression import Factorised, leading_directions
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.kinds.njtc import NJTC
from onejump.shortcuts.shortcut import Shortcut


class SourceMoments:
    """Second moments of a source level's states X (n, H) with those of every later level, in float64.

    Parameters
    ----------
    targets : int
        T, the number of later levels.
    hidden : int
        H.
    device : torch.device
    """

    def __init__(self, targets: int, hidden: int, device: torch.device | str = "cpu") -> None:
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        self.count = 0
        self.sums = zeros(1 + targets, hidden)
        """Sums of the source's states, and of each target's."""
        self.gram = zeros(hidden, hidden)
        """G = X'X."""
        self.cross = zeros(targets, hidden, hidden)
        """C = X'Y of each target."""

    def add(self, states: Sequence[Tensor]) -> None:
        """Add samples: states (n, H) of the source and of each target, in float64."""
        inputs, *later = states
        self.count += len(inputs)
        self.gram.addmm_(inputs.T, inputs)
        for total, of_level in zip(self.sums, states, strict=True):
            total += of_level.sum(0)
        for cross, targets in zip(self.cross, later, strict=True):
            cross.addmm_(inputs.T, targets)

    @cached_property
    def factorised(self) -> Factorised:
        """G, once all samples are added."""
        return Factorised(self.gram)

    def pairs(self) -> Iterator[Moments]:
        """Moments with each target."""
        for cross, total in zip(self.cross, self.sums[1:], strict=True):
            yield Moments(self.count, self.sums[0], total, self.gram, cross)


def _fit_identity(source: SourceMoments, rank: int) -> Iterator[Identity]:
    for _ in source.cross:
        yield Identity()


def _fit_jtc(source: SourceMoments, rank: int) -> Iterator[JTC]:
    for cross in source.cross:
        yield JTC(source.factorised.solve(cross))


def _fit_njtc(source: SourceMoments, rank: int) -> Iterator[NJTC]:
    for cross in source.cross:
        directions, down = _reduced_rank(source.factorised, cross, rank)
        yield NJTC(down, directions.T)


def _fit_n_njtc(source: SourceMoments, rank: int) -> Iterator[NNJTC]:
    gram = None
    for moments in source.pairs():
        standardised = standardise(moments)
        # The Gram matrix of the inputs is the same for every target.
        gram = gram or Factorised(standardised.gram)
        mean = moments.count**0.5 * standardised.target_mean
        directions, down = _reduced_rank(gram, standardised.cross, rank, mean)
        yield with_constant(standardised, down, directions)


def _reduced_rank(
    gram: Factorised, cross: Tensor, rank: int, mean: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """V_r, the top eigenvectors of C' G^-1 C, with m m' added for a constant, and G^-1 C V_r."""

    def explained(directions: Tensor) -> Tensor:
        product = cross.T @ gram.solve(cross @ directions)
        return product if mean is None else product.addr_(mean, mean @ directions)

    directions = leading_directions(explained, len(cross), rank, cross.device)
    return directions, gram.solve(cross @ directions)


FITS: dict[str, Callable[[SourceMoments, int], Iterator[Shortcut]]] = {
    "identity": _fit_identity,
    "jtc": _fit_jtc,
    "njtc": _fit_njtc,
    "n-njtc": _fit_n_njtc,
}
"""The fit of each method that can be fitted to every pair of levels."""


def fit_to_later_levels(method: str, source: SourceMoments, rank: int) -> Iterator[Shortcut]:
    """Fit a method from a source to every later level, each at its global optimum.

    One factorisation of G serves all targets.

    Parameters
    ----------
    method : {"identity", "jtc", "njtc", "n-njtc"}
    source : SourceMoments
    rank : int
        r of the low-rank methods.
    """
    return FITS[method](source, rank)


def source_groups(levels: int, hidden: int) -> Iterator[range]:
    """Sources 0 to L - 1, in groups whose moments fit into memory together.

    Parameters
    ----------
    levels : int
        L + 1.
    hidden : int
        H.
    """
    start = size = 0
    for source in range(levels - 1):
        of_source = (levels - source) * hidden**2 * 8
        if source > start and size + of_source > MOMENTS_TOGETHER:
            yield range(start, source)
            start, size = source, 0
        size += of_source
    yield range(start, levels - 1)


def _states(store: ActivationStore, levels: range, device: torch.device) -> Iterator[list[Tensor]]:
    for block in store.blocks(levels):
        yield [torch.from_numpy(states).to(device) for states in block]


def gather_sources(store: ActivationStore, sources: range, device: torch.device) -> list[SourceMoments]:
    """Moments of some sources with all their later levels, in one pass over these levels."""
    gathered = [SourceMoments(store.levels - 1 - source, store.hidden, device) for source in sources]
    with tqdm(total=store.samples, unit="sample", disable=None) as progress:
        for block in _states(store, range(sources.start, store.levels), device):
            states = [of_level.double() for of_level in block]
            for number, source in enumerate(gathered):
                source.add(states[number:])
            progress.update(len(states[0]))
    return gathered


def fit_sources(
    store: ActivationStore, sources: range, methods: Sequence[str], rank: int, device: torch.device
) -> dict[tuple[str, int], list[Shortcut]]:
    """Methods fitted from some sources: for each method and source, a shortcut to each later level."""
    gathered = gather_sources(store, sources, device)
    jumps = {}
    for source in sources:
        # Taken off the list, so that its memory is free for the next source's shortcuts.
        moments = gathered.pop(0)
        for method in methods:
            jumps[method, source] = list(fit_to_later_levels(method, moments, rank))
    return jumps


def variation(store: ActivationStore, device: torch.device) -> Tensor:
    """Squared deviations of each level's coordinates from their mean, summed: (L + 1, H), in float64."""
    count = 0
    mean = torch.zeros(store.levels, store.hidden, dtype=torch.float64, device=device)
    total = torch.zeros_like(mean)
    for block in _states(store, range(store.levels), device):
        added = len(block[0])
        # Block by block: no large mean is squared, and a constant coordinate gives exactly 0.
        for level, states in enumerate(block):
            deviations = states.double()
            of_block = deviations.mean(0)
            apart = of_block - mean[level]
            total[level] += deviations.sub_(of_block).square_().sum(0)
            total[level] += apart.square() * (count * added / (count + added))
            mean[level] += apart * (added / (count + added))
        count += added
    return total


def squared_errors(
    store: ActivationStore, jumps: Mapping[tuple[str, int], Sequence[Shortcut]], device: torch.device
) -> dict[tuple[str, int], Tensor]:
    """Squared errors of predictions, summed over samples: (T, H) for each method and source, in float64.

    The predictions are made in float32, as in use. Moments of the validation samples would give the errors
    too, but in twice the time: as small differences of large numbers they would need float64.

    Parameters
    ----------
    store : ActivationStore
        Validation samples.
    jumps : mapping of (method, source) -> sequence of Shortcut
        One for each later level.
    device : torch.device
    """
    errors = {
        key: torch.zeros(len(to_later), store.hidden, dtype=torch.float64, device=device)
        for key, to_later in jumps.items()
    }
    first = min(source for _, source in jumps)
    for states in _states(store, range(first, store.levels), device):
        for (method, source), to_later in jumps.items():
            inputs, *later = states[source - first :]
            for jump, targets, total in zip(to_later, later, errors[method, source], strict=True):
                total += (targets - jump(inputs)).square_().sum(0, dtype=torch.float64)
    return errors


def average_r2(errors: Tensor, total: Tensor) -> Tensor:
    """r2 averaged over coordinates, as scikit-learn's `r2_score(..., multioutput="uniform_average")`.

    Parameters
    ----------
    errors, total : Tensor of shape (T, H)
        Squared errors, and squared deviations from the mean. The r2 of a constant coordinate is 1 if it is
        predicted exactly, else 0.

    Returns
    -------
    Tensor of shape (T,)
    """
    return 1 - torch.where(total > 0, errors / total, (errors > 0).double()).mean(1)


@torch.inference_mode()
def level_pairs(
    training: ActivationStore,
    validation: ActivationStore,
    methods: Sequence[str],
    rank: int,
    device: torch.device,
) -> pd.DataFrame:
    """Fit methods from every level to every later level, and measure them on other samples.

    Sources are taken in groups whose moments, (L - source + 1) H^2 numbers for a source, fit into 256 MiB
    together; a group has at least one source. For each group, the levels from its first source on are read
    once from the training samples and once from the validation samples. All levels of the validation samples
    are read once more.

    Parameters
    ----------
    training, validation : ActivationStore
    methods : sequence of {"identity", "jtc", "njtc", "n-njtc"}
    rank : int
        r of the low-rank methods.
    device : torch.device

    Returns
    -------
    DataFrame
        Columns method, source, target, r2, n (number of validation samples). There are no standard errors:
        they would need sums over each document at every pair of levels.

    Raises
    ------
    StudyError
        If a method cannot be fitted to pairs of levels.
    """
    for method in methods:
        if method not in FITS:
            raise StudyError(f"level pairs: method {method!r} given, accepted is any of {', '.join(FITS)}")
    total = variation(validation, device)
    rows: list[tuple[str, int, int, float, int]] = []
    for sources in source_groups(training.levels, training.hidden):
        jumps = fit_sources(training, sources, methods, rank, device)
        for (method, source), errors in squared_errors(validation, jumps, device).items():
            r2 = average_r2(errors, total[source + 1 :]).tolist()
            rows += [
                (method, source, target, value, validation.samples)
                for target, value in enumerate(r2, start=source + 1)
            ]
        del jumps  # before the next group's moments are gathered
    columns = ["method", "source", "target", "r2", "n"]
    return pd.DataFrame(rows, columns=columns).sort_values(["method", "source", "target"], ignore_index=True)


def measure_level_pairs(
    table: Path,
    training: Sequence[Path],
    validation: Sequence[Path],
    *,
    documents: Path | None = None,
    methods: Sequence[str],
    rank: int | float,
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage: fit and measure every pair of levels.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, method, source, target, r2, n (number of validation samples),
        documents (number of documents that they come from).
    training, validation : sequence of Path
        Shards.
    documents : Path, optional
        Table of the stage "document roles"; without it each sentence counts as a document.
    methods : sequence of {"identity", "jtc", "njtc", "n-njtc"}
    rank : int or float
        As in `onejump.base.rank.rank_for`.
    model, corpus : str
        Names, for the table.
    device : str

    Raises
    ------
    StudyError
        If a method cannot be fitted to pairs of levels, or the rank is over H.
    """
    model_digest = one_model(training[0], validation[0])
    fitted_to, measured_on = ActivationStore(training), ActivationStore(validation)
    measured = level_pairs(
        fitted_to,
        measured_on,
        methods,
        rank_for(fitted_to.hidden, rank),
        pick_device(device),
    )
    measured["documents"] = len(np.unique(documents_of_samples(measured_on, documents)))
    write_table(table, measured, model_digest=model_digest, model=model, corpus=corpus)
