"""What people type into the page: accepted as it is, or refused with a message that says what is accepted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onejump.app.inputs import (
    Limits,
    check_length,
    checked_levels,
    checked_number,
    checked_prompt,
    checked_whole,
)
from onejump.base.errors import OneJumpError

LIMITS = Limits(prompt_tokens=10)


@given(st.text(min_size=1, max_size=160).filter(lambda text: text.strip()))
def test_a_prompt_is_given_as_it_was_typed(text: str) -> None:
    assert checked_prompt(text, LIMITS) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The prompt is empty"),
        (" \n\t", "The prompt is empty"),
        (None, "The prompt is empty"),
        (7, "The prompt is empty"),
        ("a" * 161, "The prompt has 161 characters: at most 10 tokens are accepted, and no more than 160"),
    ],
)
def test_no_prompt_or_one_too_long_is_refused(text: Any, said: str) -> None:
    with pytest.raises(OneJumpError, match=said):
        checked_prompt(text, LIMITS)


def test_a_prompt_may_have_as_many_tokens_as_the_limit_says() -> None:
    check_length(10, LIMITS)
    with pytest.raises(OneJumpError, match="The prompt has 11 tokens: at most 10 are accepted"):
        check_length(11, LIMITS)


@given(st.floats(allow_nan=True) | st.integers(), st.floats(-9, 9), st.floats(-9, 9))
def test_numbers_between_the_bounds_are_accepted(value: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if low <= value <= high:
        assert checked_number("Temperature", value, low, high) == value
    else:
        with pytest.raises(OneJumpError, match=r"^Temperature: .* given, a number from .* is accepted"):
            checked_number("Temperature", value, low, high)


@pytest.mark.parametrize("value", [None, "", "3", True, [1], math.nan, math.inf, 2.5, 0, 11])
def test_what_is_no_whole_number_between_the_bounds_is_refused(value: Any) -> None:
    with pytest.raises(OneJumpError, match=r"^New tokens: "):
        checked_whole("New tokens", value, 1, 10)


def test_whole_numbers_come_as_floats_from_a_page() -> None:
    assert [checked_whole("Seed", value, 1, 10) for value in (1, 10, 3.0)] == [1, 10, 3]


def test_levels_are_sorted_and_each_is_named_once() -> None:
    assert checked_levels(" 8,3 , 3,0,", 9) == [0, 3, 8]


@pytest.mark.parametrize("text", ["", " , ", None, "9", "-1", "2.5", "3 4", "x", "²", "1" * 5000, "٣"])
def test_what_is_no_level_of_the_model_is_refused(text: Any) -> None:
    with pytest.raises(OneJumpError, match=r"^Levels: .* given, whole numbers from 0 to 8 with") as error:
        checked_levels(text, 9)
    assert len(str(error.value)) < 200
