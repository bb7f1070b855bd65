"""The rank of a low-rank shortcut: as a study gives it, and as a whole number for a model's width."""

from __future__ import annotations

from onejump.base.errors import StudyError

PAPERS_RANK = 0.01
"""The rank of the papers, as a part of H (OJFA, section 4; N-NJTC)."""


def rank_for(hidden: int, rank: float) -> int:
    """Give the rank r for a model of width H.

    Parameters
    ----------
    hidden : int
        H.
    rank : int or float
        The rank itself. A number below 1 is a part of H instead; that part of H is rounded down, and is at
        least 1 (OJFA, section 4).

    Raises
    ------
    StudyError
        If it is not between 1 and H.
    """
    if 0 < rank < 1:
        # In floating point, 0.07 * 100 is a little more than 7, and 0.29 * 100 a little less than 29.
        return max(1, int(rank * hidden + 1e-9))
    if not 1 <= rank <= hidden or rank != int(rank):
        raise StudyError(f"rank: {rank} given, accepted is 1 to H = {hidden}, or a part of H between 0 and 1")
    return int(rank)
