"""The rank: whole numbers, parts of the width, and the papers' rank."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onejump.base.errors import StudyError
from onejump.base.rank import PAPERS_RANK, rank_for


@pytest.mark.parametrize(("hidden", "rank"), [(576, 5), (768, 7), (4096, 40), (32, 1), (100, 1)])
def test_the_papers_rank_is_a_hundredth_rounded_down(hidden: int, rank: int) -> None:
    assert rank_for(hidden, PAPERS_RANK) == rank_for(hidden, 0.01) == rank


@given(hidden=st.integers(1, 20_000), percent=st.integers(1, 99))
def test_parts_are_rounded_down_as_fractions_are(hidden: int, percent: int) -> None:
    assert rank_for(hidden, percent / 100) == max(1, Fraction(percent * hidden, 100).__floor__())


@given(hidden=st.integers(1, 500), rank=st.integers(1, 500))
def test_whole_numbers_are_the_rank(hidden: int, rank: int) -> None:
    if rank <= hidden:
        assert rank_for(hidden, rank) == rank
    else:
        with pytest.raises(StudyError, match=re.escape(f"rank: {rank} given, accepted is 1 to H = {hidden}")):
            rank_for(hidden, rank)


@pytest.mark.parametrize("rank", [0, -1, -0.5, 2.5, float("nan")])
def test_anything_else_is_refused(rank: float) -> None:
    with pytest.raises(StudyError, match="accepted is 1 to H = 10, or a part of H"):
        rank_for(10, rank)
