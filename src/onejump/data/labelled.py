"""Stage "labelled texts": texts with their labels -> training and validation, split by document."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from onejump.base.errors import CorpusError
from onejump.data.corpus import describe_splits, numbered, write_splits
from onejump.data.documents import Document, open_dataset, read_records
from onejump.data.labels import LABEL, TEXT_PAIR, checked_label
from onejump.data.pair_files import value_at
from onejump.data.records_asked import DrawOptions, RecordSource
from onejump.data.sentences import is_damaged, without_invisible
from onejump.data.sides import draw
from onejump.data.text_files import LABEL_SUFFIXES, named, regular_files

_LOG = logging.getLogger(__name__)


# What stands between the texts of a pair, and between the pairs of one first text. No text holds them, as
# control characters are damage.
_WITHIN, _BETWEEN = "\x1f", "\x1e"


class LabelledText(NamedTuple):
    """A text with its label, and a name that no other text of the corpus has."""

    id: str
    text: str
    label: int | str
    text_pair: str | None = None
    """The second text of a pair."""


@dataclass(frozen=True, kw_only=True)
class LabelledSource(RecordSource):
    """Where the texts of a corpus are: .jsonl, .json or .parquet files, or a data set."""

    label: str
    """Key or column that holds the label of a text."""
    text_pair: str | None = None
    """Key or column that holds the second text of a pair; None if each text is one."""

    def texts(self) -> Iterator[LabelledText]:
        """Read the texts, one after another.

        Raises
        ------
        CorpusError
            If there is nothing to read, if a record has no text or label, or if some labels are numbers and
            others are names.
        """
        kinds: dict[type, str] = {}
        for name, where, record in self._records():
            texts = [value_at(record, key, where) for key in self._text_keys]
            for key, text in zip(self._text_keys, texts, strict=True):
                if not isinstance(text, str):
                    raise CorpusError(f"{where}: {key!r} holds {type(text).__name__}, a string was expected")
            at = f"{where}: {self.label!r}"
            label = checked_label(value_at(record, self.label, where), at)
            kinds.setdefault(type(label), at)
            if len(kinds) > 1:
                first = next(iter(kinds.values()))
                raise CorpusError(
                    f"{at} holds {label!r}, where {first} holds a label of the other kind: only numbers, or "
                    "only names, were expected"
                )
            yield LabelledText(name, texts[0], label, *texts[1:])

    @property
    def _text_keys(self) -> list[str]:
        return [self.text] if self.text_pair is None else [self.text, self.text_pair]

    def _records(self) -> Iterator[tuple[str, str, object]]:
        """Records, each with its name and where it stands."""
        keys = [*self._text_keys, self.label]
        if self.path is not None:
            for name, file in regular_files(self.path, LABEL_SUFFIXES).items():
                try:
                    for key, record in read_records(file, keys):
                        yield named(f"{name}#{key}"), named(f"{file}#{key}"), record
                except OSError as error:
                    raise CorpusError(f"{named(file)}: {error.strerror or error}") from error
        elif self.dataset is not None:
            dataset = open_dataset(self.dataset, self.subset, self.split, keys, self.revision)
            for row, record in enumerate(dataset):
                yield f"{self.split}#{row}", f"dataset {self.dataset}, {self.split}#{row}", record
        else:
            raise CorpusError("source: nothing given, path or dataset was expected")


def split_texts(
    texts: Iterable[LabelledText],
    *,
    training: int,
    validation: int,
    seed: int = 0,
    min_characters: int = 20,
    max_characters: int = 1000,
    max_documents: int = 100_000,
) -> pd.DataFrame:
    """Draw training and validation texts.

    Each text is a document; of pairs, all those of one first text are one. Texts are drawn as
    `onejump.data.corpus.split_sentences` draws documents and sentences: a hash of its text puts a document
    into training (three out of four) or into validation, and no text is drawn twice. White space becomes
    single spaces.

    Parameters
    ----------
    texts : iterable of LabelledText
        Their ids must differ.
    training, validation : int
        Number of texts on each side.
    seed : int, default 0
        Decides sides and order.
    min_characters, max_characters : int
        Shorter and longer texts are left out; the two texts of a pair are counted together.
    max_documents : int
        The most texts to read.

    Returns
    -------
    DataFrame
        Columns ``sentence_id`` (0, 1, ...; training first), ``document``, ``sentence`` (the text),
        ``text_pair`` (the second text; only where there are pairs), ``label``, ``split``.

    Raises
    ------
    CorpusError
        If there are too few texts, or if two have one id.
    """
    labels: dict[tuple[str, str], int | str] = {}
    names: set[str] = set()

    def fitting() -> Iterator[tuple[str, list[str], int | str]]:
        """Names of texts, the text or the two texts of a pair, and labels."""
        for name, text, label, second in tqdm(islice(texts, max_documents), unit="text", disable=None):
            if name in names:
                raise CorpusError(f"two texts have one id, {name!r}, so that nothing tells them apart")
            names.add(name)
            parts = [" ".join(without_invisible(part).split()) for part in (text, second) if part is not None]
            fits = min_characters <= sum(map(len, parts)) <= max_characters
            if fits and not any(map(is_damaged, parts)):
                yield name, parts, label

    def documents() -> Iterator[Document]:
        of_first: dict[str, tuple[str, list[str]]] = {}
        for name, parts, label in fitting():
            if len(parts) == 1:
                labels[name, parts[0]] = label
                yield Document(name, parts[0])
                continue
            document, pairs = of_first.setdefault(parts[0], (name, []))
            pair = _WITHIN.join(parts)
            if (document, pair) not in labels:
                labels[document, pair] = label
                pairs.append(pair)
        for document, pairs in of_first.values():
            yield Document(document, _BETWEEN.join(pairs))

    wanted = {"training": training, "validation": validation}
    drawn = draw(documents(), wanted, cut=lambda text: text.split(_BETWEEN), seed=seed)
    if any(len(drawn[side]) < count for side, count in wanted.items()):
        filled = " and ".join(
            f"{len(drawn[side])} of the {count} asked for {side}" for side, count in wanted.items()
        )
        raise CorpusError(
            f"too few texts: {filled}, of {len(names)} that were read. Each different text of "
            f"{min_characters} to {max_characters} characters counts once. Its hash puts it into training "
            "(three of four) or into validation: give more texts, or ask for less"
        )
    rows = [
        (row.document, *row.sentence.split(_WITHIN), labels[row.document, row.sentence], side)
        for side in wanted
        for row in drawn[side]
    ]
    paired = any(_WITHIN in row.sentence for side in wanted for row in drawn[side])
    return numbered(rows, ["document", "sentence", *([TEXT_PAIR] if paired else []), LABEL, "split"])


def build_labelled(
    table: Path,
    summary: Path | None = None,
    *,
    source: LabelledSource,
    options: DrawOptions,
    file: Path | None = None,
    seed: int = 0,
) -> None:
    """The stage "labelled texts": write the texts that `split_texts` draws from a source.

    Parameters
    ----------
    table : Path
        The parquet file to write.
    summary : Path, optional
        A JSON file to write: what `onejump.data.corpus.describe_splits` gives.
    source : LabelledSource
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
    drawn = split_texts(source.texts(), seed=seed, **asdict(options))
    for split, texts in drawn.groupby("split", sort=False):
        counts = texts[LABEL].value_counts(sort=False).sort_index().items()
        _LOG.info("%s: %s", split, ", ".join(f"{count} of label {label}" for label, count in counts))
    write_splits(table, summary, drawn, describe_splits(drawn))
