"""What a study says of a corpus of records: where they are, and how many are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RecordSource:
    """Where the records of a corpus are. One of path and dataset is given."""

    text: str
    """Key or column that holds the text, or the source of a pair."""
    path: str | None = None
    """A file, or a folder of files."""
    dataset: str | None = None
    """A Hugging Face data set."""
    subset: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split of the data set."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""


@dataclass(frozen=True)
class DrawOptions:
    """How many texts or pairs are drawn, and which."""

    training: int
    validation: int
    min_characters: int = 20
    max_characters: int = 1000
    max_documents: int = 100_000
