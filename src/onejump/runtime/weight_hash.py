"""A hash of the unembedding, by which a jump knows the model that it was fitted to.

The same weights have to give the same hash in whichever precision they are loaded. Rounding float32 to
float16 and then to bfloat16 is not the same as rounding it to bfloat16 at once, so one hash cannot serve
all precisions. A jump therefore keeps a hash for each precision that follows from the one that its study
loaded the model in. From float32 all three follow. Rounding is the same on every device. In the hashes of
bfloat16 and float16, weights below 2^-14 count as zero, as float16 cannot hold them as exactly as
bfloat16.

The hash is that of up to 1024 rows, evenly spread over the vocabulary. It tells models apart whose
unembedding was trained further, pruned or quantised. It does not tell apart models that share an
unembedding, such as a model and its fine-tuning of some blocks alone (LoRA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from onejump.runtime.jump_config import Precision

_ROWS = 1024
_DTYPES: dict[Precision, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def weight_hashes(unembedding: Tensor, dtype: str) -> dict[Precision, str]:
    """Hash the unembedding in each precision that is known.

    Parameters
    ----------
    unembedding : Tensor of shape (V, E)
        W_U, in float32 (`onejump.models.head.Head.unembedding`).
    dtype : {"float32", "float16", "bfloat16"}
        The precision that the model was loaded in.

    Returns
    -------
    dict of precision -> hash
    """
    rows = _sampled(unembedding)
    known = [name for name in _DTYPES if dtype in ("float32", name)]
    if dtype == "float16" and _is_exact(rows, "bfloat16"):
        known.append("bfloat16")  # the weights were saved in bfloat16
    return {name: _hash(rows, unembedding.shape, name) for name in known}


def different_weights(unembedding: Tensor, hashes: Mapping[Precision, str]) -> tuple[str, str] | None:
    """Compare an unembedding with hashes of another one.

    Parameters
    ----------
    unembedding : Tensor of shape (V, E)
        In float32, of a model loaded in any precision.
    hashes : mapping of precision -> hash
        What `weight_hashes` gave.

    Returns
    -------
    (hash, hash) or None
        The hash that was expected and the one that was found, each behind its precision. None if they are the
        same, or if they cannot be compared: one model was loaded in bfloat16, the other one in float16.
    """
    rows = _sampled(unembedding)
    # The precision that the weights were loaded in, or saved in.
    own = next(name for name in _DTYPES if _is_exact(rows, name))
    if own in hashes:
        compared = own
    elif own == "float32" and hashes:
        compared = next(iter(hashes))
    else:
        return None
    found = _hash(rows, unembedding.shape, compared)
    if found == hashes[compared]:
        return None
    return f"{compared}:{hashes[compared]}", f"{compared}:{found}"


def _sampled(unembedding: Tensor) -> Tensor:
    vocabulary = len(unembedding)
    count = min(_ROWS, vocabulary)
    places = torch.arange(count, device=unembedding.device) * vocabulary // count
    return unembedding.detach().index_select(0, places).float().cpu()


def _is_exact(rows: Tensor, name: Precision) -> bool:
    """Whether a precision holds all of these weights; the smallest ones do not count."""
    return torch.equal(_rounded(rows, name), rows if name == "float32" else _without_smallest(rows))


def _rounded(rows: Tensor, name: Precision) -> Tensor:
    return rows if name == "float32" else _without_smallest(rows.to(_DTYPES[name]).float())


def _without_smallest(rows: Tensor) -> Tensor:
    return rows.where(rows.abs() >= torch.finfo(torch.float16).smallest_normal, 0.0)


def _hash(rows: Tensor, shape: torch.Size, name: Precision) -> str:
    numbers = _rounded(rows, name).contiguous().view(torch.int32).numpy()
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    # The bytes of every machine: the lowest first.
    digest.update(numbers.astype("<i4").tobytes())
    return digest.hexdigest()[:16]
