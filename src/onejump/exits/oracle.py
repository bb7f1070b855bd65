"""Oracle exits: the levels at which a token could exit, for one who knows the full model's token.

A sample's *first* level is the first one whose predicted token is the full model's. Its *stable* level is the
first one from which on the predicted token never changes again. An exit at the first level may be a lucky hit
that the next levels lose; from the stable level on, every exit is right. Both are L where no earlier level
will do: then all blocks have to run. An exit at level l saves 1 - l / L of the blocks.

Source: arXiv 2412.01455, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class OracleExits(NamedTuple):
    """The level at which each of n samples can exit, L where none of the early-exit levels will do."""

    first: NDArray[np.int64]
    """The first level whose token is the full model's, (n,)."""
    stable: NDArray[np.int64]
    """The first level from which on all tokens are the full model's, (n,)."""


ORACLES = OracleExits._fields
"""Names of the two levels."""


def oracle_exits(hits: NDArray[np.bool_], from_level: int = 0) -> OracleExits:
    """Find where samples could exit.

    Parameters
    ----------
    hits : ndarray of shape (n, L), bool
        Whether the token predicted at a level is the full model's own.
    from_level : int
        The first level to exit from.

    Returns
    -------
    OracleExits
    """
    samples, levels = hits.shape
    allowed = hits & (np.arange(levels) >= from_level)
    always = np.ones((samples, 1), bool)  # the last block's output is right
    first = np.column_stack([allowed, always]).argmax(1)
    # Right from a level on: right there, and at all levels above it.
    from_here = np.logical_and.accumulate(allowed[:, ::-1], 1)[:, ::-1]
    stable = np.column_stack([from_here, always]).argmax(1)
    return OracleExits(first.astype(np.int64), stable.astype(np.int64))
