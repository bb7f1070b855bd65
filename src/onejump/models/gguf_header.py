"""Reads the header of a GGUF file, without torch, and without trusting the lengths that it states."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onejump.base.errors import ModelError

# The number of each type of value with a fixed size (in the specification of GGUF), and its struct format.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_KEYS = 10_000
_LONGEST_KEY = 65_535
_MOST_DIMENSIONS = 8
# The fewest bytes that the header has for a tensor: length of its name, number of its dimensions, one
# dimension, its type, and where it begins.
_SHORTEST_TENSOR = 8 + 4 + 8 + 4 + 8
# The sizes that a model is built from. In the file, the name of the architecture stands before each.
_SIZES = (
    "embedding_length",
    "feed_forward_length",
    "expert_feed_forward_length",
    "vocab_size",
    "expert_count",
    *(f"attention.{name}" for name in ("head_count", "head_count_kv", "key_length", "value_length")),
)


def read_gguf_sizes(path: str | Path) -> tuple[int, int]:
    """Read L and H of the model in a GGUF file.

    Parameters
    ----------
    path : path
        The file. Only its first keys are read, as the sizes stand before the long vocabulary.

    Returns
    -------
    blocks, hidden : int

    Raises
    ------
    ModelError
        If it is not a GGUF file of version 2 or 3, is cut off, or does not state the sizes.
    """
    path = Path(path)
    sizes: dict[str, int] = {}
    with _reading(path) as file:
        _, keys = _begin(file, path)
        for key, value in _values(file, keys, path.stat().st_size):
            name = key.rpartition(".")[2]
            if name in ("block_count", "embedding_length") and isinstance(value, int):
                sizes[name] = value
            if len(sizes) == 2:
                return sizes["block_count"], sizes["embedding_length"]
    raise ModelError(f"{path}: the GGUF file does not state block_count and embedding_length")


def check_gguf(path: str | Path) -> None:
    """Make sure that a GGUF file is complete, and that its sizes are those of its tensors.

    A reader that trusts a damaged header can fail anywhere, or try to build a model of 2^31 blocks.

    Parameters
    ----------
    path : path
        The file. Only its header is read.

    Raises
    ------
    ModelError
        If it is not a GGUF file of version 2 or 3, is cut off or damaged, or states sizes that are not those
        of its tensors.
    """
    path = Path(path)
    with _reading(path) as file:
        file_size = path.stat().st_size
        tensors, keys = _begin(file, path)
        if tensors * _SHORTEST_TENSOR > file_size:
            raise EOFError
        numbers = {key: n for key, n in _values(file, keys, file_size) if isinstance(n, int)}
        alignment = numbers.get("general.alignment", 32)
        if not 0 < alignment <= file_size:
            raise EOFError
        held = [_tensor(file, path) for _ in range(tensors)]
        begin = -(-file.tell() // alignment) * alignment
    if not held:
        raise ModelError(f"{path}: the GGUF file holds no tensors")
    expected = begin + max(end for _, end in held)
    if expected > file_size:
        raise ModelError(
            f"{path}: the GGUF file is cut off: its header says that there are {expected} bytes, there are "
            f"{file_size}; fetch it again"
        )
    _check_sizes(path, numbers, tensors, max(max(shape) for shape, _ in held))


def _check_sizes(path: Path, numbers: dict[str, int], tensors: int, longest: int) -> None:
    # Every block has a tensor, and no size is larger than the longest side of a tensor.
    most = {"block_count": tensors} | dict.fromkeys(_SIZES, longest)
    for key, number in numbers.items():
        name = key.partition(".")[2]
        if name in most and not 0 <= number <= most[name]:
            raise ModelError(
                f"{path}: {key} of the GGUF file is {number}, accepted is 0 to {most[name]}, as its "
                "tensors say"
            )


def _tensor(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], int]:
    """Shape of the next tensor in the header, and where it ends, in bytes behind the header."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name = _take(file, _length(file, _LONGEST_KEY)).decode(errors="replace")
    (dimensions,) = struct.unpack("<I", _take(file, 4))
    if not 0 < dimensions <= _MOST_DIMENSIONS:
        raise EOFError
    *shape, kind, offset = struct.unpack(f"<{dimensions}QIQ", _take(file, 8 * dimensions + 12))
    try:
        numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise ModelError(f"{path}: tensor {name!r} of the GGUF file is of an unknown type {kind}") from None
    return tuple(shape), offset + math.prod(shape) // numbers * size


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ModelError(f"{path}: not readable: {error.strerror}") from None
    except (struct.error, EOFError):
        raise ModelError(
            f"{path}: a GGUF file was expected, its header is cut off or damaged; fetch it again"
        ) from None


def _begin(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Read the number of tensors and the number of keys."""
    magic, version, tensors, keys = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3) or keys > _MOST_KEYS:
        raise ModelError(f"{path}: a GGUF file of version 2 or 3 was expected, this is not one")
    return tensors, keys


def _values(file: BinaryIO, keys: int, file_size: int) -> Iterator[tuple[str, int | float | None]]:
    for _ in range(keys):
        key = _take(file, _length(file, _LONGEST_KEY)).decode(errors="replace")
        yield key, _value(file, file_size)


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
    """Read a number. Skip a string or an array, and give None."""
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
