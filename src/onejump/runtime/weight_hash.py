"""A hash of the unembedding, by which a jump knows the model that it was fitted to.

The same weights have to give the same hash in whichever precision they are loaded. Rounding float32 to
float16 and then to bfloat16 is not the same as rounding it to bfloat16 at once, so one hash cannot serve all
precisions. A jump therefore keeps a hash for each precision that follows from the one that its study loaded
the model in. From float32 all three follow. Rounding is the same on every device.

The hash is that of up to 1024 rows, evenly spread over the vocabulary. It tells models apart whose
unembedding was trained further, pruned or quantised. It does not tell apart models that share an unembedding,
such as a model and its fine-tuning of some blocks alone (LoRA).
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
_SAME_BYTES = {2: torch.int16, 4: torch.int32}


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
    known = [name for name in _DTYPES if name in hashes]
    # Weights that a coarse precision holds exactly were loaded in it, or saved in it.
    exact = [name for name in known if _is_exact(rows, name)]
    if not exact and any(_is_exact(rows, name) for name in _DTYPES if name != "float32"):
        return None
    for name in (exact or known)[:1]:
        found = _hash(rows, unembedding.shape, name)
        if found != hashes[name]:
            return f"{name}:{hashes[name]}", f"{name}:{found}"
    return None


def _sampled(unembedding: Tensor) -> Tensor:
    vocabulary = len(unembedding)
    count = min(_ROWS, vocabulary)
    places = torch.arange(count, device=unembedding.device) * vocabulary // count
    return unembedding.detach().index_select(0, places).float().cpu()


def _is_exact(rows: Tensor, name: Precision) -> bool:
    return torch.equal(rows.to(_DTYPES[name]).float(), rows)


def _hash(rows: Tensor, shape: torch.Size, name: Precision) -> str:
    rounded = rows.to(_DTYPES[name]).contiguous()
    as_numbers = rounded.view(_SAME_BYTES[rounded.element_size()]).numpy()
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    # The bytes of every machine: the lowest first.
    digest.update(as_numbers.astype(as_numbers.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()[:16]
