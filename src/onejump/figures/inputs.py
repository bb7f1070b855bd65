"""What a figure is drawn from: its input tables, the selection, and the metrics and methods they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from onejump.base.errors import OneJumpError
from onejump.base.files import read_json, read_table
from onejump.base.format import SELECTION
from onejump.figures.looks import method_label, methods_of


@dataclass(frozen=True)
class Inputs:
    """The files that a figure may read, by name."""

    figure: str
    """The figure's name, for messages."""
    paths: Mapping[str, Path]
    predicts: str = "token"
    """What the models predict: token, or label of a text."""

    @property
    def samples(self) -> str:
        """What the samples are, in words."""
        return "texts" if self.predicts == "label" else "tokens"

    def has(self, name: str) -> bool:
        """Say whether the input was given."""
        return name in self.paths

    def table(self, name: str) -> pd.DataFrame:
        """Read an input that is a table.

        Raises
        ------
        OneJumpError
            If it was not given.
        """
        return read_table(self._path(name))

    def selection(self) -> dict[str, Any]:
        """Read the selection.

        Raises
        ------
        OneJumpError
            If it was not given.
        """
        content: dict[str, Any] = read_json(self._path("selection"), SELECTION)
        return content

    def selected(self) -> int | None:
        """Give the level of the selected jump, or None if the selection was not given."""
        return int(self.selection()["jump"]) if self.has("selection") else None

    def _path(self, name: str) -> Path:
        if name not in self.paths:
            raise OneJumpError(f"figure {self.figure}: the input {name!r} is needed and was not given")
        return self.paths[name]


def labels_of(inputs: Inputs, table: pd.DataFrame) -> dict[str, str]:
    """Give the label of each method of a table; that of the selected jump names its level.

    Parameters
    ----------
    inputs : Inputs
        The level is known if the selection was given.
    table : DataFrame
        With a column "method".
    """
    labels = {method: method_label(method) for method in methods_of(table)}
    if "ojfa" in labels and inputs.has("selection"):
        labels["ojfa"] += f", level {inputs.selected()}"
    return labels


def measured(inputs: Inputs, table: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Give the metrics to draw, each once.

    Raises
    ------
    OneJumpError
        If the table does not hold one of them.
    """
    known = list(dict.fromkeys(table["metric"]))
    for metric in metrics:
        if metric not in known:
            raise OneJumpError(
                f"figures.{inputs.figure}.metrics: {metric!r} given, but the evaluation holds "
                f"{', '.join(known)} (evaluation.precision_at says which precisions are measured)"
            )
    return list(dict.fromkeys(metrics))
