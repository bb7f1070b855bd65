"""Lists the files that a model or a data set is read from, and computes a digest of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from onejump.base.errors import ModelError
from onejump.base.files import replacing

# Suffixes of what transformers reads: weights, configuration, tokenizer, the model's own code. Other files
# beside these, such as README.md or the state of an optimizer (optimizer.pt), are not part of the model.
_OF_A_MODEL = frozenset((".safetensors", ".bin", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".py"))
# The number of threads that read files. One core computes a digest at about 1.5 GB/s.
_READERS = 8


def model_files(folder: str | Path) -> list[Path]:
    """The files of a model's folder that decide what is loaded from it, sorted by name."""
    return sorted(
        file
        for file in Path(folder).iterdir()
        if file.is_file() and file.suffix in _OF_A_MODEL and not file.name.startswith(".")
    )


def folder_files(folder: str | Path) -> list[Path]:
    """All files below a folder, sorted by name, except hidden files and files in hidden folders."""
    folder = Path(folder)
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def unpacked_name(gguf: str | Path) -> str:
    """Name of the folder that a GGUF file is unpacked to: the file's name, and a hash of its path.

    So two files with the same name in different folders are unpacked to different folders.
    """
    place = hashlib.sha256(os.path.normpath(gguf).encode()).hexdigest()[:8]
    return f"{Path(gguf).stem}-{place}"


def model_digest(folder: str | Path) -> str:
    """SHA-256 of the names and the content of a model's files.

    The path of the folder and the dates of its files do not count: a copy has the same digest.
    """
    return digest_of_files(model_files(folder), folder)


def digest_of_files(files: Sequence[Path], folder: str | Path) -> str:
    """SHA-256 of the content of files and of their names below a folder: `sha256:` and hexadecimal digits."""
    with ThreadPoolExecutor(_READERS) as readers:
        digests = list(readers.map(file_digest, files))
    whole = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        whole.update(f"{digest} {file.relative_to(folder)}\n".encode(errors="surrogateescape"))
    return f"sha256:{whole.hexdigest()}"


def remembered_digest(files: Sequence[Path], folder: str | Path, memory: str | Path) -> str:
    """As `digest_of_files`, but files that have the sizes and dates of an earlier call are not read again.

    Parameters
    ----------
    files, folder
        As in `digest_of_files`.
    memory : path
        A folder. Each call with new sizes or dates adds one small file to it.
    """
    status = [(str(file.absolute()), file.stat()) for file in files]
    listing = repr([(name, found.st_size, found.st_mtime_ns) for name, found in status])
    known = Path(memory) / hashlib.sha256(listing.encode()).hexdigest()
    if known.is_file():
        return known.read_text(encoding="utf-8")
    digest = digest_of_files(files, folder)
    # If nothing can be written there, the files are read at each call.
    with suppress(OSError), replacing(known) as fresh:
        fresh.write_text(digest, encoding="utf-8")
    return digest


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_model_files(digest: str, folder: str | Path) -> None:
    """Make sure that the files of a model have not changed.

    Parameters
    ----------
    digest : str
        The model's identity (`onejump.models.description.ModelDescription.model_digest`).
    folder : path
        The folder that the model was loaded from. A name on the hub always passes, as a certain commit was
        loaded.

    Raises
    ------
    ModelError
        If its files have changed.
    """
    if digest.startswith("sha256:") and model_digest(folder) != digest:
        raise ModelError(
            f"{folder}: the model's files have changed since the model stage read them, and all results have "
            "to be of one model: leave the files as they are, and run the same command again"
        )
