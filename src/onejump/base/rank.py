"""The rank of a low-rank shortcut: as a study gives it, as a number for a model of some width."""

from __future__ import annotations

from onejump.base.errors import StudyError

PAPERS_RANK = 0.01
"""Part of H (OJFA, section 4; N-NJTC)."""


def rank_for(hidden: int, rank: float | None = None) -> int:
    """r for a model of width H.

    Parameters
    ----------
    hidden : int
        H.
    rank : int, float or None
        r itself, or below 1 the part of H that r is; none is `PAPERS_RANK`. Parts are rounded down, to at
        least 1 (OJFA, section 4).

    Raises
    ------
    StudyError
        If it is not between 1 and H.
    """
    if rank is None:
        rank = PAPERS_RANK
    if 0 < rank < 1:
        # 0.07 * 100 is a little more than 7, and 0.29 * 100 a little less than 29.
        return max(1, int(rank * hidden + 1e-9))
    if not 1 <= rank <= hidden or rank != int(rank):
        raise StudyError(f"rank: {rank} given, accepted is 1 to H = {hidden}, or a part of H between 0 and 1")
    return int(rank)
