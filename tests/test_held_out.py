"""Held-out samples: whole documents, and no others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onejump.errors import StudyError
from onejump.held_out import hold_out, some_of


@given(st.lists(st.integers(0, 9), min_size=2, max_size=50), st.floats(0.01, 0.99), st.integers(0, 99))
def test_whole_documents_are_held_out(numbers: list[int], fraction: float, seed: int) -> None:
    names = [f"document {number}" for number in numbers]
    if len(set(names)) == 1:
        with pytest.raises(StudyError, match="1 document given, at least 2"):
            hold_out(names, fraction, seed)
        return
    held_out = hold_out(names, fraction, seed).tolist()
    held, kept = (
        {n for n, out in zip(names, held_out, strict=True) if out is wanted} for wanted in (True, False)
    )
    assert held
    assert kept
    assert not held & kept


@given(st.integers(1, 40), st.integers(1, 60))
def test_some_are_spread_over_all(rows: int, count: int) -> None:
    some = some_of(torch.arange(rows), count).tolist()
    assert len(set(some)) == min(rows, count)
    assert some == sorted(some)
