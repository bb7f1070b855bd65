"""The most likely tokens of logits and their probabilities, found fast: every check for exit needs them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

_PARTS = 64
"""Most parts that a vocabulary is divided into."""
# Widths of the small parts in which the k largest of many numbers are looked for; about 32 is fastest.
_WIDTHS = sorted(range(16, 129), key=lambda width: abs(width - 32))


class Top(NamedTuple):
    """The k most likely tokens of n states, best first."""

    probabilities: Tensor
    """Probabilities of the tokens, (n, k)."""
    tokens: Tensor
    """Tokens, (n, k), int64."""


@functools.cache
def parts_of(vocabulary: int) -> int:
    """Give the number of equal parts that a vocabulary is divided into, 1 where it has no small divisor."""
    return max(parts for parts in range(1, _PARTS + 1) if vocabulary % parts == 0)


def likeliest(logits: Tensor) -> Tensor:
    """Find the most likely token; the first one where several are.

    On a CPU the place of a maximum takes seven times as long to find as the maximum itself, so its place is
    looked for in one part of the vocabulary only.

    Parameters
    ----------
    logits : Tensor of shape (..., V)

    Returns
    -------
    Tensor of shape (..., 1), int64
    """
    vocabulary = logits.shape[-1]
    parts = parts_of(vocabulary)
    if logits.device.type != "cpu" or parts == 1:
        return logits.argmax(-1, keepdim=True)
    by_part = logits.reshape(-1, parts, vocabulary // parts)
    part = by_part.amax(-1).argmax(-1)
    inside = by_part[torch.arange(len(by_part)), part].argmax(-1)
    return (part * (vocabulary // parts) + inside).view(*logits.shape[:-1], 1)


def top_probability(logits: Tensor) -> Tensor:
    """Find the probability of the most likely token, without the token: a check for exit asks no more.

    Parameters
    ----------
    logits : Tensor of shape (..., V)

    Returns
    -------
    Tensor of shape (...)
    """
    best = logits.amax(-1, keepdim=True)
    # Probabilities would be one more pass over the vocabulary: that of the best is 1 / sum of exp(l - best).
    return 1 / (logits - best).exp_().sum(-1)


def most_likely(logits: Tensor, k: int = 1, *, overwrite: bool = False) -> Top:
    """Find the k most likely tokens and their probabilities.

    torch's softmax is one pass of vector instructions. Its `logsumexp` makes the exponentials by themselves,
    which takes three times as long, and thirty times where many of them are smaller than a float can be.

    Parameters
    ----------
    logits : Tensor of shape (..., V)
    k : int
    overwrite : bool
        Put the probabilities in the place of the logits, which saves as much memory.
    """
    tokens = likeliest(logits) if k == 1 else logits.topk(k).indices
    place = logits if overwrite and not logits.requires_grad else None
    return Top(torch.softmax(logits, -1, out=place).gather(-1, tokens), tokens)


def largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest logits, like `torch.topk`.

    On a CPU that is done in a third of the time of `torch.topk` for one row, and in a tenth for many. The k
    largest of all lie in the k small parts of the vocabulary whose own maxima are largest, so that only these
    parts are sorted. Where several logits are equal, any of their tokens may be found, as by `torch.topk`.

    Parameters
    ----------
    logits : Tensor of shape (..., V)
    k : int

    Returns
    -------
    Tensor of shape (..., k)
        Logits, the largest one first.
    Tensor of shape (..., k), int64
        Their tokens.
    """
    vocabulary = logits.shape[-1]
    width = _small_part(vocabulary)
    if logits.device.type != "cpu" or width is None or vocabulary // width <= k:
        return tuple(logits.topk(k))  # type: ignore[return-value]
    # Part p has the tokens p, p + parts, p + 2 parts and so on: maxima of many parts are vector operations.
    parts = vocabulary // width
    maxima = logits.reshape(*logits.shape[:-1], width, parts).amax(-2)
    chosen = maxima.topk(k, sorted=False).indices
    tokens = (chosen[..., None, :] + torch.arange(0, vocabulary, parts)[:, None]).flatten(-2)
    values, places = logits.gather(-1, tokens).topk(k)
    return values, tokens.gather(-1, places)


@functools.cache
def _small_part(vocabulary: int) -> int | None:
    return next((width for width in _WIDTHS if vocabulary % width == 0), None)
