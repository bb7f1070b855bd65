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

# Columns of a table of confidences, by the kind of gate. Patience is counted from the tokens.
_COLUMNS = {"top-probability": "probability", "margin": "margin", "entropy": "entropy"}
GATE_KINDS = (*_COLUMNS, "patience")


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
        raise OneJumpError(f"gate: {kind!r} given, accepted is {', '.join(GATE_KINDS)}")
    counts = levels_in_a_row(by_sample(table)("token"), from_level)
    return found._replace(probabilities=counts / (counts + 1))


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
