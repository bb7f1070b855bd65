"""The most likely tokens of the true final distribution, as a store keeps them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.data.store import ActivationStore


def top_tokens_of(store: ActivationStore, count: int = 1) -> Tensor:
    """The most likely tokens of each sample, the most likely first.

    Parameters
    ----------
    store : ActivationStore
    count : int
        How many tokens of each sample.

    Returns
    -------
    Tensor of shape (samples, count), int64

    Raises
    ------
    OneJumpError
        If the store keeps fewer tokens.
    """
    tokens = store.of_samples("top_tokens")
    kept = tokens.shape[1]
    if count > kept:
        raise OneJumpError(
            f"precision_at: {count} given, but {store.paths[0]} keeps the {kept} most likely tokens of each "
            f"sample; accepted is at most {kept}"
        )
    return torch.from_numpy(tokens[:, :count].astype(np.int64))
