"""What an activation shard holds. A shard is a zarr v3 group that one writer writes once.

A chunk of `activations` (levels, samples, H) holds `chunk_samples` samples of one level, so that a level can
be read without the others. The shard also keeps what later stages need of the model's own prediction of each
sample:

| array | shape | what it is |
|---|---|---|
| `sentence` | (samples,) | the sentence's id in the corpus table |
| `position` | (samples,) | the token's position in the sentence |
| `token` | (samples,) | the token's id; in a shard that states `labelled`, the number of the text's label |
| `top_tokens` | (samples, k) | the k most likely tokens of the final distribution, most likely first |
| `top_logits` | (samples, k) | their logits |
| `logsumexp` | (samples,) | the log-sum-exp of all V final logits |

In a shard that states `previous`, `activations` has one row more behind those of the levels: the last level's
states of the position before each sample, zeros where there is no such position.

Every chunk ends in a CRC-32C checksum. The shard's attributes hold a checksum over the descriptions of its
arrays (their zarr.json) and over the other attributes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from onejump.base.errors import CorruptStoreError
from onejump.base.format import FORMAT, KIND, MODEL_DIGEST, Format, check_keys

# zarr warns that other zarr libraries may not know BitRound. The documentation of the store says so already.
warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")

Array = NDArray[Any]

ACTIVATIONS = Format("activations", 3)
SAMPLE_ARRAYS = {
    "sentence": np.int64,
    "position": np.int32,
    "token": np.int32,
    "top_tokens": np.int32,
    "top_logits": np.float32,
    "logsumexp": np.float32,
}

LABELLED = "labelled"
"""Attribute of a shard of texts whose labels are known: `token` holds them."""
PREVIOUS = "previous"
"""Attribute of a shard that keeps the last level's states of the position before each sample."""
ORIGIN = (MODEL_DIGEST, "part", "split", "shard", "shards", LABELLED, PREVIOUS)
"""Attributes that say where a shard comes from. A shard has those that are known."""
REMEDY = "delete this shard and run snakemake again"
"""What a message about a damaged shard tells its reader to do."""


class Storable(NamedTuple):
    """The number format of a store."""

    name: str
    """The dtype, and the number of mantissa bits that are kept."""
    largest: float
    """The largest value that is still finite after rounding."""


def storable(dtype: str, keepbits: int | None) -> Storable:
    """Give the number format of a store. BitRound rounds values that are larger to infinity."""
    numbers = np.finfo(dtype)
    if keepbits is None or keepbits >= numbers.nmant:
        return Storable(dtype, float(numbers.max))
    return Storable(
        f"{dtype} with {keepbits} mantissa bits", (2 - 2.0**-keepbits) * 2.0 ** int(numbers.maxexp - 1)
    )


def description_checksum(path: Path, about: Mapping[str, Any]) -> str:
    """Checksum of the descriptions of a shard's arrays, and of its attributes ``about``."""
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=32)
    for name in ("activations", *SAMPLE_ARRAYS):
        digest.update((path / name / "zarr.json").read_bytes())
    return digest.hexdigest()


def open_shard(path: Path) -> Any:
    """Open a shard to read it.

    Returns
    -------
    zarr.Group

    Raises
    ------
    CorruptStoreError
        If it is not an activation shard, or is damaged.
    FormatError
        If an older or newer onejump wrote it.
    """
    try:
        group = zarr.open_group(path, mode="r")
        stated = dict(group.attrs)
        checksum = stated.pop("checksum", None)
        whole = checksum == description_checksum(path, stated)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(
            f"{path}: not an activation shard ({' '.join(str(error).split())[:200]}): {REMEDY}"
        ) from error
    if not whole:
        raise CorruptStoreError(
            f"{path}: not a whole activation shard (its checksum differs, or it has none): {REMEDY}"
        )
    ACTIVATIONS.check(path, stated, REMEDY)
    check_keys(path, stated, (KIND, FORMAT), ORIGIN)
    return group
