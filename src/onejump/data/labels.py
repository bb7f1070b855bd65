"""The labels of texts: a column of a corpus' table, as numbers or as names that a classifier knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onejump.base.errors import CorpusError

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"
"""The column of a corpus' table that holds the labels of its texts."""
TEXT_PAIR = "text_pair"
"""The column that holds the second part of each text, such as the hypothesis behind a premise."""


def has_labels(texts: pd.DataFrame) -> bool:
    """Whether a corpus' table holds the labels of its texts."""
    return LABEL in texts.columns


def names_of(texts: pd.DataFrame) -> list[str]:
    """Give names for the labels of a corpus, by their numbers: its own, sorted, or LABEL_0, LABEL_1, ...

    At least two, as a classifier has.
    """
    known = texts[LABEL].drop_duplicates()
    if known.map(lambda label: isinstance(label, str)).all():
        return sorted(known) if len(known) > 1 else [*known, f"not {known.iloc[0]}"]
    return [f"LABEL_{number}" for number in range(max(2, int(known.max()) + 1))]


def checked_label(value: Any, where: str) -> int | str:
    """Give a label as it was read, if it is one.

    Parameters
    ----------
    value : object
    where : str
        The record and the key, for the message.

    Raises
    ------
    CorpusError
        If it is neither a whole number from 0 nor a name.
    """
    if (isinstance(value, int) and not isinstance(value, bool) and value >= 0) or (
        isinstance(value, str) and value
    ):
        return value
    raise CorpusError(
        f"{where} holds {value!r}, the number of a label, from 0, or its name was expected (-1 stands for an "
        "unknown label in many test splits: take another split)"
        if value == -1
        else f"{where} holds {value!r}, the number of a label, from 0, or its name was expected"
    )


def label_numbers(texts: pd.DataFrame, names: Sequence[str]) -> list[int] | None:
    """Give the number of each text's label; None if the corpus has no labels.

    Parameters
    ----------
    texts : DataFrame
        With columns document and label.
    names : sequence of str
        The names of the labels that a classifier knows, by their numbers.

    Raises
    ------
    CorpusError
        If the classifier does not know a label; the message names the record.
    """
    if not has_labels(texts):
        return None
    numbers: dict[Any, int] = {name: number for number, name in enumerate(names)}
    numbers |= {number: number for number in range(len(names))}
    found = []
    for document, label in zip(texts["document"], texts[LABEL].tolist(), strict=True):
        if label not in numbers:
            known = ", ".join(names)[:200]
            raise CorpusError(
                f"{document}: the label {label!r} given, the model knows 0 to {len(names) - 1}, or {known}"
            )
        found.append(numbers[label])
    return found
