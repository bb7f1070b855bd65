"""One method's confidences as arrays: what thresholds are chosen and judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from onejump.base.errors import OneJumpError

Floats = NDArray[np.float64]


class Confidences(NamedTuple):
    """One method's confidences in n samples at L levels."""

    probabilities: Floats
    """Probability of the predicted token at each level, (n, L)."""
    hits: NDArray[np.bool_]
    """Whether the predicted token is the full model's own token, (n, L)."""
    positions: NDArray[np.int32]
    """Position of the token in its sentence, (n,)."""
    documents: NDArray[np.int64]
    """Document of the sample, (n,)."""
    right: NDArray[np.bool_] | None = None
    """Whether the label predicted at each level, and by the full model, is the text's own, (n, L + 1); None
    if texts have no labels."""

    @classmethod
    def of(cls, table: pd.DataFrame) -> Confidences:
        """From a table of `onejump.exits.measuring.confidences`.

        Parameters
        ----------
        table : DataFrame
            Rows of one method.

        Raises
        ------
        OneJumpError
            If a sample lacks a level.
        """
        matrix = by_sample(table)
        right = None
        if "label" in table:
            right = np.column_stack([matrix("token"), matrix("final")[:, 0]]) == matrix("label")[:, :1]
        return cls(
            matrix("probability").astype(np.float64),
            matrix("hit"),
            matrix("position")[:, 0],
            matrix("document")[:, 0],
            right,
        )

    def accuracy_of(self, level: NDArray[np.int64]) -> dict[str, Floats]:
        """Whether each sample that exits at a level (n,), L for none, gets its own label; nothing if unknown.

        Returns
        -------
        dict of measure -> ndarray of shape (n,)
            accuracy, and accuracy_change: that minus the accuracy of the full model.
        """
        if self.right is None:
            return {}
        right = self.right.astype(np.float64)
        accuracy = right[np.arange(len(right)), level]
        return {"accuracy": accuracy, "accuracy_change": accuracy - right[:, -1]}


def by_sample(table: pd.DataFrame) -> Callable[[str], NDArray[Any]]:
    """Make a function of a column that gives it as a matrix: a row for each sample, a column for each level.

    Parameters
    ----------
    table : DataFrame
        Of `onejump.exits.measuring.confidences`: rows of one method.

    Raises
    ------
    OneJumpError
        If a sample lacks a level.
    """
    levels, samples = table["level"].nunique(), table["sample"].nunique()
    if levels * samples != len(table):
        raise OneJumpError(
            f"confidences: {len(table)} rows given, {levels * samples} expected (one for each of "
            f"{samples} samples at each of {levels} levels): delete the table and run snakemake again"
        )
    table = table.sort_values(["level", "sample"])

    def matrix(column: str) -> NDArray[Any]:
        return table[column].to_numpy().reshape(levels, samples).T

    return matrix
