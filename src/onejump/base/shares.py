"""Divides a whole number by shares."""

from __future__ import annotations

from collections.abc import Sequence


def divided(shares: Sequence[float], whole: int) -> list[int]:
    """Divide a whole number by shares, by largest remainder: the parts are whole and add up to it.

    Parameters
    ----------
    shares : sequence of float
        Positive; they need not add up to 1.
    whole : int
    """
    total = sum(shares)
    exact = [whole * share / total for share in shares]
    parts = [int(of_share) for of_share in exact]
    # Remainders that differ by rounding alone count as equal: then the first share gets one more.
    order = sorted(range(len(shares)), key=lambda place: -round(exact[place] - parts[place], 9))
    for place in order[: whole - sum(parts)]:
        parts[place] += 1
    return parts
