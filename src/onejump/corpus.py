"""Stage "corpus": documents -> sentences -> training and validation, split by document."""

from __future__ import annotations

import json
import re
import sysconfig
import tokenize
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sentencex import segment
from tqdm import tqdm

from onejump.errors import CorpusError
from onejump.files import write_table

# Soft hyphen, word joiner, byte order mark: nothing to see, but other tokens to a model.
_INVISIBLE = dict.fromkeys((0x00AD, 0x2060, 0xFEFF))
# Zero-width spaces and joiners belong inside the words of some scripts, never at the edge of a sentence.
_ZERO_WIDTH = "\u200b\u200c\u200d"
# What may follow the end mark: quotation marks, brackets and footnote marks such as [1].
_CLOSING = re.compile(r"""(\[\w+\]|["'”’»›」』)\]} ])+$""")
# An end mark, or a letter or vowel sign of a script without letter case, which may do without end marks.
_END_CATEGORIES = ("Po", "Lo", "Lm", "Mn", "Mc")
_NO_END = ",:%&*@#/\\"
_LONGEST_WRAPPED_LINE = 120


class Document(NamedTuple):
    """A text and the name that is its own in the corpus."""

    id: str
    text: str


def read_documents(path: str | Path, text: str = "text") -> Iterator[Document]:
    """Read documents from a file, or from every readable file in a folder and its subfolders.

    Parameters
    ----------
    path : path
        A ``.txt`` or ``.py`` file (one document), a ``.jsonl`` file (one object a line), a ``.json`` file (a
        list of objects or strings, or a mapping from ids to them), a ``.parquet`` file, or a folder of these.
        Hidden files are passed over; the order is that of the relative paths.
    text : str, default "text"
        Key or column that holds a document's text.

    Yields
    ------
    Document
        Its id is the relative path, then ``#`` and the line, key or row if the file holds many documents.

    Raises
    ------
    CorpusError
        If there is nothing to read, or a file is not what its suffix says, or has no such text.
    """
    path = Path(path)
    accepted = ", ".join(_READERS)
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder")
    if path.is_dir():
        names = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in _READERS)
        visible = (name for name in names if not any(part.startswith(".") for part in name.parts))
        files = {name.as_posix(): path / name for name in visible if (path / name).is_file()}
        if not files:
            raise CorpusError(f"{path}: no readable file in this folder; accepted are {accepted}")
    else:
        files = {path.name: path}
        if path.suffix.lower() not in _READERS:
            raise CorpusError(f"{path}: suffix {path.suffix!r} given; accepted are {accepted}")
    for name, file in sorted(files.items()):
        try:
            for key, record in _READERS[file.suffix.lower()](file, text):
                mark = "" if key is None else f"#{key}"
                yield Document(name + mark, _text_of(record, text, f"{file}{mark}"))
        except OSError as error:
            raise CorpusError(f"{file}: {error.strerror or error}") from error


def read_standard_library() -> Iterator[Document]:
    """The source code of the standard library of the Python that runs, a document a file.

    Yields
    ------
    Document
        Its id is the path in the library. Tests and installed packages are no part of it.
    """
    library = Path(sysconfig.get_path("stdlib"))
    others = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for file in sorted(library.rglob("*.py")):
        name = file.relative_to(library)
        if not others.intersection(name.parts):
            # A few modules declare an encoding of their own.
            with tokenize.open(file) as source:
                yield Document(name.as_posix(), source.read())


def read_dataset(
    name: str, subset: str | None, split: str, text: str, revision: str | None = None
) -> Iterator[Document]:
    """Read documents from a Hugging Face dataset.

    Parameters
    ----------
    name : str
        Name on the hub, a folder that ``datasets.load_dataset`` accepts, or one that ``save_to_disk`` wrote.
    subset : str or None
        Configuration of the dataset; a saved folder has none.
    split : str
        Split, such as ``train``; a saved folder with one split only is read whatever its name.
    text : str
        Column that holds a document's text.
    revision : str, optional
        Branch, tag or commit on the hub.

    Yields
    ------
    Document
        Its id is the split, ``#`` and the row.

    Raises
    ------
    CorpusError
        If the dataset cannot be loaded, or has no such split or column.
    """
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            f"dataset {name}: reading it needs the datasets library: pip install 'onejump[hub]'"
        ) from error
    try:
        if any((Path(name) / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json")):
            dataset = datasets.load_from_disk(name)
        else:
            dataset = datasets.load_dataset(name, subset, split=split, revision=revision)
    # The library has no error of its own: a wrong name, split, subset or network each raise another kind.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorpusError(f"dataset {name} (subset {subset}, split {split}): {reason}") from error
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise CorpusError(f"dataset {name}: no split {split!r}; there is: {', '.join(dataset)}")
        dataset = dataset[split]
    if text not in dataset.column_names:
        raise CorpusError(f"dataset {name}: no column {text!r}; there is: {', '.join(dataset.column_names)}")
    for row, record in enumerate(dataset.select_columns([text])):
        yield Document(f"{split}#{row}", _text_of(record, text, f"dataset {name}, {split}#{row}"))


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

    The documents are shuffled and cut into sentences; the first serve validation, the next ones training.
    A sentence that occurred before, anywhere, is left out, and so is what ends without an end mark: headings,
    list items and lines cut short before a formula.

    Parameters
    ----------
    documents : iterable of Document
        Where the sentences come from; their ids must differ.
    training, validation : int
        Number of sentences on each side.
    language : str, default "en"
        ISO 639 code, two letters where there are two. sentencex cuts a language that it does not know by the
        rules of a related one, in the end by those of English.
    unit : {"sentence", "paragraph"}
        What documents are cut into. A paragraph is what stands between empty lines, with its line breaks and
        indents, whatever it ends with: for source code.
    seed : int, default 0
        Decides the order of the documents.
    min_characters, max_characters : int
        Shorter and longer sentences are left out.
    max_documents : int
        Documents to read at most.

    Returns
    -------
    DataFrame
        Columns ``sentence_id`` (0, 1, ...; training first), ``document``, ``sentence``, ``split``.

    Raises
    ------
    CorpusError
        If there are too few sentences, two documents with one id, or the language is no code.
    """
    primary_language = re.split("[-_]", language.lower())[0]
    if not re.fullmatch("[a-z]{2,3}", primary_language):
        raise CorpusError(f"language: {language!r} given, an ISO 639 code such as en, fr or zh was expected")
    read = list(islice(documents, max_documents))
    if len({document.id for document in read}) < len(read):
        raise CorpusError("two documents have one id, so that no split can keep them apart")
    if unit not in _UNITS:
        raise CorpusError(f"unit: {unit!r} given, accepted is one of {', '.join(_UNITS)}")
    wanted = {"validation": validation, "training": training}
    chosen: dict[str, list[tuple[str, str]]] = {side: [] for side in wanted}
    seen: set[str] = set()
    with tqdm(total=training + validation, desc="sentences", disable=None) as progress:
        for index in np.random.default_rng(seed).permutation(len(read)):
            side = next((side for side in wanted if len(chosen[side]) < wanted[side]), None)
            if side is None:
                break
            candidates = dict.fromkeys(_UNITS[unit](read[index], primary_language))
            fresh = [s for s in candidates if min_characters <= len(s) <= max_characters and s not in seen]
            seen.update(fresh)
            kept = fresh[: wanted[side] - len(chosen[side])]
            chosen[side] += [(read[index].id, sentence) for sentence in kept]
            progress.update(len(kept))
    if any(len(chosen[side]) < wanted[side] for side in wanted):
        capped = f" (max_documents: {max_documents})" if len(read) == max_documents else ""
        ending = " with an end mark" if unit == "sentence" else ""
        raise CorpusError(
            f"{len(seen)} {unit}s found in {len(read)} documents{capped}, which fill "
            f"{len(chosen['validation'])} of the {validation} asked for validation and "
            f"{len(chosen['training'])} of the {training} for training; counted once each are {unit}s of "
            f"{min_characters} to {max_characters} characters{ending}; no document serves both sides"
        )
    rows = [(*row, side) for side in ("training", "validation") for row in chosen[side]]
    table = pd.DataFrame(rows, columns=["document", "sentence", "split"])
    table.insert(0, "sentence_id", np.arange(len(table), dtype=np.int64))
    return table


def build_corpus(
    output: str | Path,
    *,
    source: Mapping[str, Any],
    training: int,
    validation: int,
    language: str = "en",
    unit: str = "sentence",
    seed: int = 0,
    min_characters: int = 20,
    max_characters: int = 1000,
    max_documents: int = 100_000,
) -> None:
    """Write the table of `split_sentences` as parquet.

    Parameters
    ----------
    output : path
        The parquet file.
    source : mapping
        ``path`` and ``text`` for `read_documents`, ``dataset``, ``subset``, ``split``, ``text`` and
        ``revision`` for `read_dataset`, or ``standard_library`` for `read_standard_library`; a key that is
        absent or None has its default.
    training, validation, language, unit, seed, min_characters, max_characters, max_documents
        As in `split_sentences`.

    Raises
    ------
    CorpusError
        If the source cannot be read or is too small.
    """
    given = {key: value for key, value in source.items() if value is not None}
    text = given.get("text", "text")
    if "path" in given:
        documents = read_documents(given["path"], text)
    elif "dataset" in given:
        split = given.get("split", "train")
        documents = read_dataset(given["dataset"], given.get("subset"), split, text, given.get("revision"))
    elif "standard_library" in given:
        documents = read_standard_library()
    else:
        raise CorpusError(
            f"source: {', '.join(given) or 'nothing'} given, path, dataset or standard_library was expected"
        )
    table = split_sentences(
        documents,
        training=training,
        validation=validation,
        language=language,
        unit=unit,
        seed=seed,
        min_characters=min_characters,
        max_characters=max_characters,
        max_documents=max_documents,
    )
    write_table(output, table)


def _sentences(document: Document, language: str) -> Iterator[str]:
    lines = [line.strip() for line in document.text.translate(_INVISIBLE).splitlines()]
    in_long_lines = sum(len(line) for line in lines if len(line) > _LONGEST_WRAPPED_LINE)
    if 2 * in_long_lines > sum(map(len, lines)):
        # Not hard-wrapped, so that a line ends a paragraph or a heading, unless the next one goes on with it.
        lines = [line if line[:1].islower() else f"\n{line}" for line in lines]
    try:
        document.id.encode()
        pieces = segment(language, "\n".join(lines))
    except UnicodeEncodeError as error:
        raise CorpusError(f"document {document.id!r}: a lone surrogate, which is no character") from error
    for piece in pieces:
        sentence = " ".join(piece.split()).strip(_ZERO_WIDTH + " ")
        last = _CLOSING.sub("", sentence)[-1:]
        if last and last not in _NO_END and unicodedata.category(last) in _END_CATEGORIES:
            yield sentence


def _paragraphs(document: Document, _: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", document.text.translate(_INVISIBLE)):
        if paragraph.strip():
            yield paragraph.strip("\n").rstrip()


_UNITS: dict[str, Callable[[Document, str], Iterator[str]]] = {
    "sentence": _sentences,
    "paragraph": _paragraphs,
}


def _text_of(record: Any, text: str, where: str) -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise CorpusError(
            f"{where}: {type(record).__name__} given, an object with {text!r} or a string was expected"
        )
    if text not in record:
        raise CorpusError(f"{where}: no {text!r}; there is: {', '.join(record) or 'nothing'}")
    if not isinstance(record[text], str):
        raise CorpusError(f"{where}: {text!r} holds {type(record[text]).__name__}, a string was expected")
    return str(record[text])


def _decode(raw: bytes, path: Path, offset: int = 0) -> str:
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: no UTF-8 at byte {offset + error.start} ({error.reason})") from error


def _parse(content: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        raise CorpusError(f"{path}: no JSON at line {line}: {getattr(error, 'msg', error)}") from error


def _read_txt(path: Path, _: str) -> Iterator[tuple[None, str]]:
    yield None, _decode(path.read_bytes(), path)


def _read_jsonl(path: Path, _: str) -> Iterator[tuple[int, Any]]:
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = _decode(raw, path, offset).strip()
            if line:
                yield number, _parse(line, path, number)
            offset += len(raw)


def _read_json(path: Path, _: str) -> Iterator[tuple[object, Any]]:
    content = _parse(_decode(path.read_bytes(), path), path)
    if not isinstance(content, list | dict):
        raise CorpusError(
            f"{path}: {type(content).__name__} given, a list or a mapping of documents was expected"
        )
    yield from content.items() if isinstance(content, dict) else enumerate(content)


def _read_parquet(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if text not in columns:
                raise CorpusError(f"{path}: no column {text!r}; there is: {', '.join(columns)}")
            for batch in file.iter_batches(columns=[text]):
                for value in batch.column(0).to_pylist():
                    yield row, {text: value}
                    row += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: unreadable parquet after row {row}: {error}") from error


_READERS: dict[str, Callable[[Path, str], Iterator[tuple[object, Any]]]] = {
    ".txt": _read_txt,
    ".py": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
