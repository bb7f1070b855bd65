"""Stage "pairs": pairs of source and target texts -> training and validation, split by document."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from onejump.base.errors import CorpusError
from onejump.data.corpus import describe_splits, numbered, write_splits
from onejump.data.documents import Document
from onejump.data.pair_files import PairedDocument, read_dataset_pairs, read_pairs
from onejump.data.records_asked import DrawOptions, RecordSource
from onejump.data.sentences import is_damaged, without_invisible
from onejump.data.sides import draw

# It stands between the sources of a document. No source holds it, as control characters are damage.
_BETWEEN = "\x1e"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PairSource(RecordSource):
    """Where the pairs of a corpus are: files for `read_pairs`, or a data set for `read_dataset_pairs`."""

    target: str
    """Key or column that holds the target of a pair."""

    def documents(self) -> Iterator[PairedDocument]:
        """Read the documents, one after another."""
        if self.path is not None:
            return read_pairs(self.path, self.text, self.target)
        if self.dataset is not None:
            return read_dataset_pairs(
                self.dataset, self.subset, self.split, self.text, self.target, self.revision
            )
        raise CorpusError("source: nothing given, path or dataset was expected")


def split_pairs(
    documents: Iterable[PairedDocument],
    *,
    training: int,
    validation: int,
    seed: int = 0,
    min_characters: int = 20,
    max_characters: int = 1000,
    max_documents: int = 100_000,
) -> pd.DataFrame:
    """Draw training and validation pairs from different documents.

    Documents and sources are drawn as `onejump.data.corpus.split_sentences` draws documents and sentences: a
    hash of its sources puts a document into training (three out of four) or into validation, and no source is
    drawn twice. In a source and a target, white space is replaced by single spaces.

    Parameters
    ----------
    documents : iterable of PairedDocument
        Their ids must differ.
    training, validation : int
        Number of pairs on each side.
    seed : int, default 0
        Decides sides and order.
    min_characters, max_characters : int
        A pair is left out if its source or its target is shorter or longer.
    max_documents : int
        The most documents to read.

    Returns
    -------
    DataFrame
        Columns ``sentence_id`` (0, 1, ...; training first), ``document``, ``sentence`` (the source),
        ``target``, ``split``.

    Raises
    ------
    CorpusError
        If there are too few pairs, or if two documents have one id.
    """
    targets: dict[tuple[str, str], str] = {}
    read = 0

    def sources() -> Iterator[Document]:
        nonlocal read
        for document in tqdm(islice(documents, max_documents), unit="document", disable=None):
            read += 1
            kept: dict[str, str] = {}
            for pair in document.pairs:
                source, target = (" ".join(without_invisible(text).split()) for text in pair)
                if all(
                    min_characters <= len(text) <= max_characters and not is_damaged(text)
                    for text in (source, target)
                ):
                    kept.setdefault(source, target)
            if kept:
                targets.update({(document.id, source): target for source, target in kept.items()})
                yield Document(document.id, _BETWEEN.join(kept))

    wanted = {"training": training, "validation": validation}
    drawn = draw(sources(), wanted, cut=lambda text: text.split(_BETWEEN), seed=seed)
    if any(len(drawn[side]) < count for side, count in wanted.items()):
        filled = " and ".join(
            f"{len(drawn[side])} of the {count} pairs asked for {side}, in "
            f"{len({row.document for row in drawn[side]})} documents"
            for side, count in wanted.items()
        )
        raise CorpusError(
            f"too few pairs: {filled}, found in {read} documents. Each different source of {min_characters} "
            f"to {max_characters} characters, with a target of that length, counts once. A hash of "
            "its sources puts a document into training (three of four) or into validation: give more pairs "
            "or more documents, or ask for less"
        )
    rows = [
        (row.document, row.sentence, targets[row.document, row.sentence], side)
        for side in wanted
        for row in drawn[side]
    ]
    return numbered(rows, ["document", "sentence", "target", "split"])


def build_pairs(
    table: Path,
    summary: Path | None = None,
    *,
    source: PairSource,
    options: DrawOptions,
    file: Path | None = None,
    seed: int = 0,
) -> None:
    """The stage "pairs": write the pairs that `split_pairs` draws from the documents of a source.

    The log warns of a split with few documents.

    Parameters
    ----------
    table : Path
        The parquet file to write.
    summary : Path, optional
        A JSON file to write: what `onejump.data.corpus.describe_splits` gives.
    source : PairSource
    options : DrawOptions
    file : Path, optional
        A file or folder to read instead of the source's path: the workflow took it out of a wheel.
    seed : int

    Raises
    ------
    CorpusError
        If the source cannot be read or is too small.
    """
    if file is not None:
        source = replace(source, path=str(file))
    drawn = split_pairs(source.documents(), seed=seed, **asdict(options))
    described = describe_splits(drawn)
    for split, found in described.items():
        _LOG.info("%s: %d pairs of %d documents", split, found["sentences"], found["documents"])
    write_splits(table, summary, drawn, described)
