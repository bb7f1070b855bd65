"""Reads documents for the corpus stage: from files and folders, the standard library, Hugging Face datasets.

Documents are read one at a time, so that memory holds one document. Only a .json file has to be read whole.
"""

from __future__ import annotations

import json
import sysconfig
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onejump.base.errors import CorpusError
from onejump.data.text_files import SUFFIXES, named, regular_files, standard_library_files

LARGEST_DOCUMENT = 2**28
"""Bytes. A longer text is refused, as all its sentences would be in one split."""
_ROWS = 1000


class Document(NamedTuple):
    """A text, and a name that no other document of the corpus has."""

    id: str
    text: str


def read_documents(path: str | Path, text: str = "text") -> Iterator[Document]:
    """Read documents from a file, or from every readable file in a folder and its subfolders.

    Parameters
    ----------
    path : path
        A ``.txt`` or ``.py`` file (one document), a ``.jsonl`` file (one object per line), a ``.json`` file
        (a list of objects or strings, or a mapping from ids to them), a ``.parquet`` file, or a folder of
        these. Hidden files are ignored. Files are read in the order of their relative paths.
    text : str, default "text"
        Key or column that holds a document's text.

    Yields
    ------
    Document
        Its id is the relative path, then ``#`` and the line, key or row if the file holds many documents.

    Raises
    ------
    CorpusError
        If there is nothing to read, or if a file is not what its suffix says, lacks the key or column, is not
        a regular file (a pipe, a device), or holds a document of more than `LARGEST_DOCUMENT` bytes.
    """
    for name, file in regular_files(path).items():
        try:
            for key, record in read_records(file, [text]):
                mark = "" if key is None else f"#{key}"
                yield Document(named(name + mark), _text_of(record, text, named(f"{file}{mark}")))
        except OSError as error:
            raise CorpusError(f"{named(file)}: {error.strerror or error}") from error


def read_standard_library() -> Iterator[Document]:
    """The source code of the standard library of the running Python. Each file is a document.

    Yields
    ------
    Document
        Its id is the path in the library. Tests and installed packages are left out.
    """
    library = Path(sysconfig.get_path("stdlib"))
    for file in standard_library_files(library):
        # A few modules declare an encoding of their own.
        with tokenize.open(file) as source:
            yield Document(file.relative_to(library).as_posix(), source.read())


def read_dataset(
    name: str, subset: str | None, split: str, text: str, revision: str | None = None
) -> Iterator[Document]:
    """Read documents from a Hugging Face dataset.

    Parameters
    ----------
    name : str
        Name on the hub, a folder that ``datasets.load_dataset`` accepts, or one that ``save_to_disk`` wrote.
    subset : str or None
        Configuration of the dataset; not used for a folder that ``save_to_disk`` wrote.
    split : str
        Split, such as ``train``; not used for a folder that ``save_to_disk`` wrote with a single split.
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
    for row, record in enumerate(open_dataset(name, subset, split, [text], revision)):
        yield Document(f"{split}#{row}", _text_of(record, text, f"dataset {name}, {split}#{row}"))


def open_dataset(
    name: str, subset: str | None, split: str, keys: Sequence[str], revision: str | None = None
) -> Any:
    """Open a Hugging Face dataset, and select the columns that hold some keys.

    Parameters
    ----------
    name, subset, split, revision
        See `read_dataset`.
    keys : sequence of str
        Columns, or keys in them, such as translation.de.

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
    # datasets has no error class of its own: a wrong name, split or subset and a lost network raise many
    # kinds.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorpusError(f"dataset {name} (subset {subset}, split {split}): {reason}") from error
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise CorpusError(f"dataset {name}: no split {split!r}; there is: {', '.join(dataset)}")
        dataset = dataset[split]
    columns = [_column(key, dataset.column_names, f"dataset {name}") for key in keys]
    return dataset.select_columns(list(dict.fromkeys(columns)))


def _column(key: str, columns: Sequence[str], where: str) -> str:
    """The column that holds a key: of its name, or of the name before the key's first point."""
    for name in (key, key.split(".")[0]):
        if name in columns:
            return name
    raise CorpusError(f"{where}: no column {key!r}; there is: {', '.join(columns)[:200]}")


def read_records(file: Path, keys: Sequence[str]) -> Iterator[tuple[object, Any]]:
    """Read the records of a file, by its suffix.

    Parameters
    ----------
    file : Path
    keys : sequence of str
        Keys that are needed. Of a parquet file, no other columns are read.

    Yields
    ------
    key, record
        Line, key or row (None if the file is one record), and an object or a string.
    """
    return _READERS[file.suffix.lower()](file, keys)


def _text_of(record: Any, text: str, where: str) -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise CorpusError(
            f"{where}: {type(record).__name__} given, an object with {text!r} or a string was expected"
        )
    if text not in record:
        keys = named(", ".join(record))[:200]
        raise CorpusError(f"{where}: no {text!r}; there is: {keys or 'nothing'}")
    if not isinstance(record[text], str):
        raise CorpusError(f"{where}: {text!r} holds {type(record[text]).__name__}, a string was expected")
    return str(record[text])


def _decode(raw: bytes, path: Path, offset: int = 0) -> str:
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{named(path)}: no UTF-8 at byte {offset + error.start} ({error.reason})"
        ) from error


def _parse(content: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        raise CorpusError(f"{named(path)}: no JSON at line {line}: {getattr(error, 'msg', error)}") from error


def _refuse_over_long(length: int, where: str) -> None:
    if length > LARGEST_DOCUMENT:
        raise CorpusError(
            f"{where}: a document of more than {LARGEST_DOCUMENT >> 20} MiB; all of a document is either for "
            "training or for validation: cut it into documents, such as the lines of a .jsonl file"
        )


def _read_txt(path: Path, _: Sequence[str]) -> Iterator[tuple[None, str]]:
    _refuse_over_long(path.stat().st_size, named(path))
    yield None, _decode(path.read_bytes(), path)


def _read_jsonl(path: Path, _: Sequence[str]) -> Iterator[tuple[int, Any]]:
    offset, number = 0, 0
    with path.open("rb") as file:
        while raw := file.readline(LARGEST_DOCUMENT + 1):
            number += 1
            _refuse_over_long(len(raw), f"{named(path)}, line {number}")
            line = _decode(raw, path, offset).strip()
            if line:
                yield number, _parse(line, path, number)
            offset += len(raw)


def _read_json(path: Path, _: Sequence[str]) -> Iterator[tuple[object, Any]]:
    content = _parse(_decode(path.read_bytes(), path), path)
    if not isinstance(content, list | dict):
        raise CorpusError(
            f"{named(path)}: {type(content).__name__} given, a list or a mapping of documents was expected"
        )
    yield from content.items() if isinstance(content, dict) else enumerate(content)


def _read_parquet(path: Path, keys: Sequence[str]) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [_column(key, file.schema_arrow.names, named(path)) for key in keys]
            for batch in file.iter_batches(_ROWS, columns=list(dict.fromkeys(columns))):
                for record in batch.to_pylist():
                    yield row, record
                    row += 1
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CorpusError(f"{named(path)}: unreadable parquet after row {row}: {error}") from error


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[tuple[object, Any]]]] = dict(
    zip(SUFFIXES, (_read_txt, _read_txt, _read_jsonl, _read_json, _read_parquet), strict=True)
)
