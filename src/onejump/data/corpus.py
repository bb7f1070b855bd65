"""Stage "corpus": documents -> sentences -> training and validation, split by document."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from onejump.base.errors import CorpusError
from onejump.base.files import write_json, write_table
from onejump.base.format import Format
from onejump.base.language import EXPECTED, is_language, primary_language
from onejump.data.documents import Document, read_dataset, read_documents, read_standard_library
from onejump.data.sentences import UNITS
from onejump.data.sides import draw

SUMMARY = Format("corpus-summary", 1)

FEW_DOCUMENTS = 30
"""A split of fewer documents gets a warning: standard errors and thresholds need many documents."""
_LARGE_SHARE = 0.2

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextSource:
    """Where the documents of a corpus are. One of path, dataset and standard_library is given."""

    path: str | None = None
    """A file or a folder, for `read_documents`."""
    dataset: str | None = None
    """A Hugging Face data set, for `read_dataset`."""
    subset: str | None = None
    """Configuration of the data set."""
    split: str = "train"
    """Split of the data set."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    text: str = "text"
    """Key or column that holds a document's text."""
    standard_library: bool | None = None
    """Python's own source code, for `read_standard_library`."""

    def documents(self) -> Iterator[Document]:
        """Read the documents, one after another."""
        if self.path is not None:
            return read_documents(self.path, self.text)
        if self.dataset is not None:
            return read_dataset(self.dataset, self.subset, self.split, self.text, self.revision)
        if self.standard_library:
            return read_standard_library()
        raise CorpusError("source: nothing given, path, dataset or standard_library was expected")


@dataclass(frozen=True)
class SentenceOptions:
    """How `split_sentences` cuts sentences, and how many it draws."""

    training: int
    validation: int
    language: str = "en"
    unit: str = "sentence"
    min_characters: int = 20
    max_characters: int = 1000
    max_documents: int = 100_000


def split_sentences(
    documents: Iterable[Document],
    *,
    training: int,
    validation: int,
    language: str = "en",
    unit: str = "sentence",
    seed: int = 0,
    min_characters: int = 20,
    max_characters: int = 1000,
    max_documents: int = 100_000,
) -> pd.DataFrame:
    """Draw training and validation sentences from different documents.

    A hash of a document's text decides whether the document is for training (three out of four) or for
    validation: see `onejump.data.sides`. Each side takes one sentence from every document of its own before
    it takes a second one from any. No sentence is drawn twice. Two things are left out: what ends without an
    end mark (headings, list items, lines cut short before a formula), and what holds control characters.

    Parameters
    ----------
    documents : iterable of Document
        Where the sentences come from; their ids must differ.
    training, validation : int
        Number of sentences on each side.
    language : str, default "en"
        ISO 639 code, with two letters if the language has such a code. If sentencex does not know the
        language, it uses the rules of a related one, or else those of English.
    unit : {"sentence", "paragraph"}
        What documents are cut into. A paragraph is all that stands between two empty lines, with its line
        breaks and indents. It needs no end mark, so that it suits source code.
    seed : int, default 0
        Decides sides and order. In all corpora of one seed, the same document is on the same side.
    min_characters, max_characters : int
        Shorter and longer sentences are left out.
    max_documents : int
        The most documents to read.

    Returns
    -------
    DataFrame
        Columns ``sentence_id`` (0, 1, ...; training first), ``document``, ``sentence``, ``split``.

    Raises
    ------
    CorpusError
        If there are too few sentences, if two documents have one id, or if the language is not a code.
    """
    if not is_language(language):
        raise CorpusError(f"language: {language!r} given, {EXPECTED} was expected")
    if unit not in UNITS:
        raise CorpusError(f"unit: {unit!r} given, accepted is one of {', '.join(UNITS)}")
    primary = primary_language(language)
    read = 0

    def counted() -> Iterator[Document]:
        nonlocal read
        for document in tqdm(islice(documents, max_documents), unit="document", disable=None):
            read += 1
            yield document

    def cut(text: str) -> Iterator[str]:
        for sentence in UNITS[unit](text, primary):
            if min_characters <= len(sentence) <= max_characters:
                yield sentence

    wanted = {"training": training, "validation": validation}
    drawn = draw(counted(), wanted, cut=cut, seed=seed)
    if any(len(drawn[side]) < count for side, count in wanted.items()):
        capped = f" (max_documents: {max_documents})" if read == max_documents else ""
        ending = " that has an end mark" if unit == "sentence" else ""
        filled = " and ".join(
            f"{len(drawn[side])} of the {count} {unit}s asked for {side}, in "
            f"{len({row.document for row in drawn[side]})} documents"
            for side, count in wanted.items()
        )
        raise CorpusError(
            f"too little text: {filled}, found in {read} documents{capped}. Each different {unit} of "
            f"{min_characters} to {max_characters} characters{ending} counts once. A hash of its text puts a "
            "document into training (three of four) or into validation: give more text or more documents, or "
            "ask for less"
        )
    rows = [(row.document, row.sentence, side) for side in wanted for row in drawn[side]]
    return numbered(rows, ["document", "sentence", "split"])


def numbered(rows: Sequence[tuple[object, ...]], columns: list[str]) -> pd.DataFrame:
    """Give a table of drawn rows; its first column, ``sentence_id``, numbers them from 0 on."""
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "sentence_id", np.arange(len(table), dtype=np.int64))
    return table


def describe_splits(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Count the sentences and documents of each split.

    Parameters
    ----------
    table : DataFrame
        As `split_sentences` gives.

    Returns
    -------
    dict of split -> dict
        ``sentences``, ``documents``, and ``largest_share``: the share of the sentences that come from the
        document with the most of them.
    """
    described = {}
    for split, rows in table.groupby("split"):
        counts = rows["document"].value_counts()
        described[str(split)] = {
            "sentences": len(rows),
            "documents": len(counts),
            "largest_share": round(float(counts.iloc[0] / len(rows)), 6),
        }
    return described


def warnings_of_splits(described: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line for each split with few documents. Takes what `describe_splits` gives."""
    lines = []
    for split, found in described.items():
        of_documents = f"{split}: {found['sentences']} sentences of {found['documents']} documents"
        if found["documents"] < FEW_DOCUMENTS:
            lines.append(
                f"{of_documents}: under {FEW_DOCUMENTS} documents, standard errors and thresholds say "
                "little; give more documents"
            )
        elif found["largest_share"] > _LARGE_SHARE:
            lines.append(
                f"{of_documents}, {found['largest_share']:.0%} from a single one, which decides what is "
                "fitted and measured; give more documents or ask for fewer sentences"
            )
    return lines


def build_corpus(
    table: Path,
    summary: Path | None = None,
    *,
    source: TextSource,
    options: SentenceOptions,
    file: Path | None = None,
    seed: int = 0,
) -> None:
    """The stage "corpus": write the sentences that `split_sentences` draws from the documents of a source.

    The log warns of a split with few documents.

    Parameters
    ----------
    table : Path
        The parquet file to write.
    summary : Path, optional
        A JSON file to write: what `describe_splits` gives.
    source : TextSource
    options : SentenceOptions
    file : Path, optional
        A file to read instead of the source's path: the workflow took it out of a wheel.
    seed : int

    Raises
    ------
    CorpusError
        If the source cannot be read or is too small.
    """
    if file is not None:
        source = replace(source, path=str(file))
    drawn = split_sentences(source.documents(), seed=seed, **asdict(options))
    described = describe_splits(drawn)
    for split, found in described.items():
        _LOG.info(
            "%s: %d sentences of %d documents, at most %.2g%% of one",
            split,
            found["sentences"],
            found["documents"],
            100 * found["largest_share"],
        )
    write_splits(table, summary, drawn, described)


def write_splits(
    table: Path,
    summary: Path | None,
    drawn: pd.DataFrame,
    described: dict[str, dict[str, float]],
    model_digest: str | None = None,
) -> None:
    """Write what was drawn, and how it is described. The log warns of a split with few documents.

    Parameters
    ----------
    table, summary : Path
        The parquet file and the JSON file to write.
    drawn : DataFrame
        The sentences or pairs of both splits.
    described : dict
        What `describe_splits` gives.
    model_digest : str, optional
        The identity of the model that wrote some of the text.
    """
    for line in warnings_of_splits(described):
        _LOG.warning("%s", line)
    write_table(table, drawn, model_digest=model_digest)
    if summary is not None:
        write_json(summary, described, SUMMARY)
