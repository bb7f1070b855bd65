"""The sizes that a GGUF file's header states, read within bounds and without torch."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from onejump.errors import ModelError

# Types of values by number (the specification of GGUF), with the struct format of those of fixed size.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_KEYS = 10_000
_LONGEST_KEY = 65_535


def read_gguf_sizes(path: str | Path) -> tuple[int, int]:
    """L and H of the model in a GGUF file.

    Parameters
    ----------
    path : path
        The file. Only its first keys are read: those of the architecture stand before the vocabulary.

    Returns
    -------
    blocks, hidden : int

    Raises
    ------
    ModelError
        If it is no GGUF file of version 2 or 3, is cut off, or states no sizes.
    """
    path = Path(path)
    sizes: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            magic, version, _, keys = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3) or keys > _MOST_KEYS:
                raise ModelError(f"{path}: a GGUF file of version 2 or 3 was expected, this is none")
            for _ in range(keys):
                key = _take(file, _length(file, _LONGEST_KEY)).decode(errors="replace")
                value = _value(file, path.stat().st_size)
                name = key.rpartition(".")[2]
                if name in ("block_count", "embedding_length") and isinstance(value, int):
                    sizes[name] = value
                if len(sizes) == 2:
                    return sizes["block_count"], sizes["embedding_length"]
    except OSError as error:
        raise ModelError(f"{path}: not readable: {error.strerror}") from None
    except (struct.error, EOFError):
        raise ModelError(f"{path}: a GGUF file was expected, its header is cut off or damaged") from None
    raise ModelError(f"{path}: the GGUF file does not state block_count and embedding_length")


def _take(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _length(file: BinaryIO, most: int) -> int:
    length: int = struct.unpack("<Q", _take(file, 8))[0]
    if length > most:
        raise EOFError
    return length


def _value(file: BinaryIO, file_size: int) -> int | float | None:
    """A value if it is a number; strings and arrays are passed over."""
    kind: int = struct.unpack("<I", _take(file, 4))[0]
    if kind in _FORMATS:
        number: int | float = struct.unpack(
            "<" + _FORMATS[kind], _take(file, struct.calcsize(_FORMATS[kind]))
        )[0]
        return number
    if kind == _STRING:
        file.seek(_length(file, file_size), 1)
    elif kind == _ARRAY:
        of, count = struct.unpack("<IQ", _take(file, 12))
        if count > file_size:
            raise EOFError
        if of in _FORMATS:
            file.seek(count * struct.calcsize(_FORMATS[of]), 1)
        elif of == _STRING:
            for _ in range(count):
                file.seek(_length(file, file_size), 1)
        else:
            raise EOFError
    else:
        raise EOFError
    return None
