"""What people type into the page, checked before it costs anything: limits of prompts and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from onejump.base.errors import OneJumpError

# No tokenizer makes tokens of more characters than this, on average over a text that people type.
_CHARACTERS = 16


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    new_tokens: int = 512
    """Most new tokens of a text."""
    prompt_tokens: int = 1024
    """Most tokens of a prompt."""
    shown_tokens: int = 64
    """Most tokens of a trajectory: of a longer prompt the last ones are shown."""
    waiting: int = 8
    """Most requests that wait for the one that is computed."""


def checked_prompt(text: Any, limits: Limits, name: str = "prompt") -> str:
    """Give a prompt, or another text, as it was typed.

    Raises
    ------
    OneJumpError
        If it is no text, empty, or so long that it cannot have few enough tokens.
    """
    if not isinstance(text, str) or not text.strip():
        raise OneJumpError(f"The {name} is empty: type some text.")
    most = _CHARACTERS * limits.prompt_tokens
    if len(text) > most:
        raise OneJumpError(
            f"The {name} has {len(text):,} characters: at most {limits.prompt_tokens:,} tokens are accepted, "
            f"and no more than {most:,} characters."
        )
    return text


def check_length(tokens: int, limits: Limits) -> None:
    """Refuse a prompt of too many tokens.

    Raises
    ------
    OneJumpError
        If it is longer than the limit.
    """
    if tokens > limits.prompt_tokens:
        raise OneJumpError(
            f"The prompt has {tokens:,} tokens: at most {limits.prompt_tokens:,} are accepted."
        )


def checked_number(name: str, value: Any, low: float, high: float) -> float:
    """Give a number between two bounds, which may be the bounds themselves.

    Parameters
    ----------
    name : str
        What the page calls it.
    value : object
        What came from the page.
    low, high : float

    Raises
    ------
    OneJumpError
        If it is no number, or outside.
    """
    accepted = f"a number from {low:g} to {high:g} is accepted"
    if isinstance(value, bool) or not isinstance(value, int | float):
        given = "nothing" if value is None or value == "" else repr(value)
        raise OneJumpError(f"{name}: {given} given, {accepted}.")
    if not math.isfinite(value) or not low <= value <= high:
        raise OneJumpError(f"{name}: {value:g} given, {accepted}.")
    return float(value)


def checked_whole(name: str, value: Any, low: int, high: int) -> int:
    """Give a whole number between two bounds, as `checked_number` does."""
    number = checked_number(name, value, low, high)
    if not number.is_integer():
        raise OneJumpError(f"{name}: {number:g} given, a whole number from {low} to {high} is accepted.")
    return int(number)


def checked_levels(text: Any, blocks: int) -> list[int]:
    """Read early-exit levels such as "3, 8".

    Raises
    ------
    OneJumpError
        If one is no whole number from 0 to L - 1, or there is none.
    """
    accepted = f"whole numbers from 0 to {blocks - 1} with commas are accepted, such as 3, 8"
    parts = [part.strip() for part in str(text or "").split(",") if part.strip()]
    if not parts:
        raise OneJumpError(f"Levels: none given, {accepted}.")
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) < 6 and int(part) < blocks):
            raise OneJumpError(f"Levels: {part[:20]!r} given, {accepted}.")
    return sorted({int(part) for part in parts})
