"""Reads pairs of source and target texts: from JSON, parquet, message catalogues, TMX, or a data set."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onejump.base.errors import CorpusError
from onejump.data.documents import open_dataset, read_records
from onejump.data.text_files import PAIR_SUFFIXES, named, regular_files
from onejump.data.tmx import in_language, read_tmx

_DATES = re.compile(rb'^"(POT-Creation|PO-Revision)-Date:.*$', re.M)


class PairedDocument(NamedTuple):
    """Pairs of texts that belong together, and a name that no other document of the corpus has."""

    id: str
    pairs: list[tuple[str, str]]
    """Source and target."""


def read_pairs(path: str | Path, text: str, target: str) -> Iterator[PairedDocument]:
    """Read pairs from a file, or from every readable file in a folder and its subfolders.

    Parameters
    ----------
    path : path
        A ``.jsonl`` file (one object per line), a ``.json`` file (a list of objects, or a mapping from ids to
        them), a ``.parquet`` file, a ``.tmx`` file, a ``.po`` file, or a folder of these.
    text, target : str
        Keys or columns that hold source and target. ``translation.de`` is the key de in the object
        translation. They are languages in a ``.tmx`` file, msgid and msgstr in a ``.po`` file.

    Yields
    ------
    PairedDocument
        Each record is a document, and so is each unit of a ``.tmx`` file. If both keys hold lists of one
        length, these are the pairs of the document. In a ``.po`` file, a document is all messages of one
        source file, if the messages say where they are from; otherwise it is the whole ``.po`` file.

    Raises
    ------
    CorpusError
        If there is nothing to read, or if a file is not what its suffix says or lacks a key.
    """
    for name, file in regular_files(path, PAIR_SUFFIXES).items():
        try:
            if file.suffix.lower() == ".po":
                yield from _of_catalogue(file, name, text, target)
            elif file.suffix.lower() == ".tmx":
                for number, unit in read_tmx(file):
                    pair = in_language(unit, text), in_language(unit, target)
                    if pair[0] is not None and pair[1] is not None:
                        yield PairedDocument(named(f"{name}#{number}"), [(pair[0], pair[1])])
            else:
                for key, record in read_records(file, [text, target]):
                    where = named(f"{file}#{key}")
                    yield PairedDocument(named(f"{name}#{key}"), _pairs_of(record, text, target, where))
        except OSError as error:
            raise CorpusError(f"{named(file)}: {error.strerror or error}") from error


def read_dataset_pairs(
    name: str, subset: str | None, split: str, text: str, target: str, revision: str | None = None
) -> Iterator[PairedDocument]:
    """Read pairs from a Hugging Face dataset. Each row is a document.

    Parameters
    ----------
    name, subset, split, revision
        See `onejump.data.documents.read_dataset`.
    text, target : str
        Columns that hold source and target, or keys in them, such as translation.de.

    Raises
    ------
    CorpusError
        If the dataset cannot be loaded, or lacks a column or key.
    """
    dataset = open_dataset(name, subset, split, [text, target], revision)
    for row, record in enumerate(dataset):
        where = f"dataset {name}, {split}#{row}"
        yield PairedDocument(f"{split}#{row}", _pairs_of(record, text, target, where))


def _pairs_of(record: Any, text: str, target: str, where: str) -> list[tuple[str, str]]:
    both = [value_at(record, key, where) for key in (text, target)]
    if all(isinstance(value, str) for value in both):
        return [(both[0], both[1])]
    if all(isinstance(value, list) and all(isinstance(each, str) for each in value) for value in both):
        if len(both[0]) == len(both[1]):
            return list(zip(*both, strict=True))
        given = f"{len(both[0])} and {len(both[1])} texts"
    else:
        given = " and ".join(type(value).__name__ for value in both)
    raise CorpusError(
        f"{where}: {text!r} and {target!r} hold {given}, two strings or two lists of as many strings were "
        "expected"
    )


def value_at(record: Any, key: str, where: str) -> Any:
    """Give what a record holds at a key, such as translation.de.

    Raises
    ------
    CorpusError
        If it has no such key; the message says `where` it was looked for.
    """
    found = record
    steps = [key] if isinstance(record, Mapping) and key in record else key.split(".")
    for step in steps:
        if not isinstance(found, Mapping) or step not in found:
            keys = named(", ".join(map(str, found)))[:200] if isinstance(found, Mapping) else "no object"
            raise CorpusError(f"{where}: no {key!r}; there is: {keys or 'nothing'}")
        found = found[step]
    return found


def _of_catalogue(file: Path, name: str, text: str, target: str) -> Iterator[PairedDocument]:
    """The translated messages of a catalogue, without fuzzy ones. Of plural forms, the singular is taken."""
    if {text, target} != {"msgid", "msgstr"}:
        raise CorpusError(
            f"{named(file)}: {text!r} and {target!r} given as keys of source and target, a .po file has "
            "msgid and msgstr"
        )
    try:
        from babel.messages.pofile import PoFileError, read_po
    except ImportError as error:
        raise CorpusError(
            f"{named(file)}: reading it needs the babel library: pip install 'onejump[pairs]'"
        ) from error
    documents: dict[str, list[tuple[str, str]]] = {}
    try:
        # Many catalogues state no date, but the words of a template, which Babel takes for an error. It also
        # prints what it finds odd, such as a number of plural forms.
        content = _DATES.sub(b"", file.read_bytes())
        with contextlib.redirect_stdout(io.StringIO()):
            messages = list(read_po(io.BytesIO(content), abort_invalid=False))
    except (PoFileError, ValueError, LookupError) as error:
        raise CorpusError(f"{named(file)}: no message catalogue: {error}") from error
    for message in messages:
        first, second = (
            (forms[0] if isinstance(forms, list | tuple) else forms) if forms else ""
            for forms in (message.id, message.string)
        )
        if message.fuzzy or not first or not second:
            continue
        source = f"#{message.locations[0][0]}" if message.locations else ""
        pair = (first, second) if text == "msgid" else (second, first)
        documents.setdefault(named(f"{name}{source}"), []).append(pair)
    yield from (PairedDocument(document, pairs) for document, pairs in documents.items())
