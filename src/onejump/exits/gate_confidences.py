"""The confidences of every kind of gate, from tables of confidences: numbers from 0 to 1.

Rules (`onejump.exits.rules`) and calibration were made for probabilities. They take any of these confidences
in the place of the probability. Patience, the number c of levels in a row that predict the same token,
becomes c / (c + 1): thresholds on both choose the same exits, and the log odds, which calibration takes, are
ln c.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onejump.base.errors import OneJumpError
from onejump.base.files import read_table
from onejump.exits.confidences import Confidences, Floats, by_sample
from onejump.exits.gate_training import learned_agreement
from onejump.exits.learned_gate import Learned

# Columns of a table of confidences, by the kind of gate. Patience is counted from the tokens, and the learned
# gate is fitted.
_COLUMNS = {"top-probability": "probability", "margin": "margin", "entropy": "entropy"}
GATE_KINDS = (*_COLUMNS, "patience", Learned.kind)


def confidences_of_gate(table: pd.DataFrame, kind: str, from_level: int = 0) -> Confidences:
    """The confidences of one kind of gate, in the place of the probabilities.

    Parameters
    ----------
    table : DataFrame
        Of `onejump.exits.measuring.confidences`: rows of one method.
    kind : {"top-probability", "margin", "entropy", "patience"}
    from_level : int
        The first level that is checked. Patience counts from it.

    Raises
    ------
    OneJumpError
        If there is no such kind, or a sample lacks a level.
    """
    found = Confidences.of(table)
    if kind in _COLUMNS:
        # Rounding can put an entropy of zero beyond one.
        return found._replace(probabilities=by_sample(table)(_COLUMNS[kind]).astype(np.float64).clip(0, 1))
    if kind != "patience":
        raise OneJumpError(f"gate: {kind!r} given, accepted is {', '.join((*_COLUMNS, 'patience'))}")
    counts = levels_in_a_row(by_sample(table)("token"), from_level)
    return found._replace(probabilities=counts / (counts + 1))


def confidences_of_learned(
    seen: pd.DataFrame, unseen: pd.DataFrame, part: NDArray[np.bool_] | None = None
) -> tuple[Confidences, Confidences] | None:
    """The confidences of a learned gate that is fitted to held-out samples; None without coordinates.

    Parameters
    ----------
    seen, unseen : DataFrame
        Of `onejump.exits.measuring.confidences`: rows of one method in held-out and in other samples.
    part : ndarray of shape (n,), bool, optional
        The held-out samples to fit to, if not all of them (`onejump.exits.gate_training.learned_agreement`).
    """
    both = coordinates_in(seen), coordinates_in(unseen)
    if both[0] is None or both[1] is None:
        return None
    held_out, others = Confidences.of(seen), Confidences.of(unseen)
    found = learned_agreement(
        (held_out.probabilities, others.probabilities),
        (both[0], both[1]),
        held_out.hits,
        held_out.documents,
        part,
    )
    return held_out._replace(probabilities=found.seen), others._replace(probabilities=found.unseen)


def coordinates_in(table: pd.DataFrame) -> NDArray[np.float32] | None:
    """The coordinates z (n, L, r) in a table of confidences; None if it has none.

    Parameters
    ----------
    table : DataFrame
        Rows of one method.
    """
    rank = 0
    while f"z{rank}" in table.columns and table[f"z{rank}"].notna().all():
        rank += 1
    matrix = by_sample(table)
    return np.stack([matrix(f"z{at}") for at in range(rank)], -1) if rank else None


def levels_in_a_row(tokens: NDArray[Any], from_level: int = 0) -> Floats:
    """How many levels in a row, up to each one, predict the same token.

    Parameters
    ----------
    tokens : ndarray of shape (n, L)
    from_level : int
        The first level that is checked; levels before it count 1.

    Returns
    -------
    ndarray of shape (n, L)
    """
    counts = np.ones(tokens.shape)
    for level in range(from_level + 1, tokens.shape[1]):
        same = tokens[:, level] == tokens[:, level - 1]
        counts[:, level] = np.where(same, counts[:, level - 1] + 1, 1)
    return counts


def tables_of_methods(
    held_out: Sequence[Path], validation: Sequence[Path]
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Go through methods, each with its confidences in held-out and in validation samples.

    Parameters
    ----------
    held_out, validation : sequence of Path
        Tables of `onejump.exits.measuring.measure_confidences`, of the same methods in the same order.

    Yields
    ------
    method : str
    held_out, validation : DataFrame
        Its rows.

    Raises
    ------
    OneJumpError
        If a held-out and a validation table have different methods.
    """
    for paths in zip(held_out, validation, strict=True):
        seen, unseen = (read_table(path) for path in paths)
        methods, others = (list(table["method"].unique()) for table in (seen, unseen))
        if methods != others:
            raise OneJumpError(
                f"{paths[0]} holds {', '.join(methods)}, but {paths[1]} holds {', '.join(others)}: tables of "
                "the same methods were expected"
            )
        for method in methods:
            yield method, *(table[table["method"] == method] for table in (seen, unseen))
