"""The numbers of a trajectory. Logits are made for one level and some positions at a time, and not kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onejump.base.errors import GateError, OneJumpError
from onejump.exits.gates import Gate, looks_back
from onejump.exits.learned_gate import coordinates_at, leaving
from onejump.models.head import Head
from onejump.models.logit_parts import samples_together
from onejump.models.most_likely import largest, likeliest
from onejump.scoring.predictors import Predictors
from onejump.shortcuts.methods import ShortcutAt

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


class Numbers(NamedTuple):
    """What is kept of a shortcut's predictions at all levels. Level L is the model's own prediction."""

    tokens: Whole
    """The k most likely tokens, (L + 1, T, k)."""
    probabilities: Floats
    """(L + 1, T, k)."""
    entropy: Floats
    """Nats, (L + 1, T)."""
    surprisal: Floats
    """-ln of the probability of the token that follows, (L + 1, T); NaN where none does."""
    rank: Floats
    """Place of the token that follows, (L + 1, T), 1 for the most likely one; NaN where none does."""
    forward_kl: Floats
    """KL(p || q) in nats, p of the last level and q of the level, (L + 1, T)."""


class Reader:
    """The states of a prompt, and what shortcuts predict from them.

    Parameters
    ----------
    states : Tensor of shape (L + 1, T, H)
        In any precision.
    head : Head
        The model's.
    shortcuts : mapping of name -> function of a level that gives its shortcut

    Raises
    ------
    OneJumpError
        If a shortcut reads more than the state of one token at one level (one-forward).
    """

    def __init__(self, states: Tensor, head: Head, shortcuts: Mapping[str, ShortcutAt]) -> None:
        for name, shortcut_at in shortcuts.items():
            if shortcut_at(0).reads_previous:
                raise OneJumpError(
                    f"{name} reads the last level's state of the token before, too: a lens takes shortcuts "
                    f"of the state of one token at one level. Leave {name} out; generation takes it"
                )
        device = head.unembedding.device
        self._states, self._head = states.to(device), head
        self._predictors, self._shortcuts = Predictors(head, shortcuts, device), shortcuts
        self.names = list(shortcuts)
        self.last, self.length, self.vocabulary = len(states) - 1, states.shape[1], head.vocabulary

    def parts(self) -> Iterator[slice]:
        """Cut the positions into parts whose logits are made at once."""
        size = samples_together(self._head, self._states.device)
        for start in range(0, self.length, size):
            yield slice(start, min(start + size, self.length))

    def logits(self, name: str, level: int, part: slice) -> Tensor:
        """Give the logits (n, V) that a shortcut predicts from a level, or at level L the model's own.

        Raises
        ------
        OneJumpError
            If one of them is not a number.
        """
        states = self._states[level, part]
        if level == self.last:
            logits = self._head.logits(states)
        else:
            logits = self._predictors.at(name, level).logits(states)
        # The sum of all is a number only if each one is. A logit of -inf is a token that cannot be.
        if bool(torch.isnan(logits.sum())) and bool(torch.isnan(logits).any()):
            raise OneJumpError(f"{name}: what it predicts from level {level} is not a number for some tokens")
        return logits

    def _coordinates(self, name: str, level: int, part: slice) -> Tensor | None:
        states = self._states[level, part]
        return coordinates_at(self._shortcuts[name](level).to(states.device), states)

    @torch.inference_mode()
    def numbers(self, following: list[int | None], k: int) -> dict[str, Numbers]:
        """Measure all shortcuts at all levels.

        Parameters
        ----------
        following : list of int or None
            The token that each position has to predict.
        k : int
        """
        shape = (self.last + 1, self.length)
        found = {
            name: Numbers(
                np.zeros((*shape, k), np.int64),
                np.zeros((*shape, k)),
                *(np.full(shape, np.nan) for _ in range(4)),
            )
            for name in self.names
        }
        device = self._head.unembedding.device
        wanted = torch.tensor([-1 if token is None else token for token in following], device=device)
        for part in self.parts():
            own = self.logits(self.names[0], self.last, part).log_softmax(-1)
            at_last = _measured(own, own, wanted[part], k)
            for name, numbers in found.items():
                for level in range(self.last):
                    predicted = self.logits(name, level, part).log_softmax(-1)
                    _put(numbers, level, part, _measured(predicted, own, wanted[part], k))
                _put(numbers, self.last, part, at_last)
        return found

    @torch.inference_mode()
    def ranks(self, name: str, token: int) -> Floats:
        """Give the rank of a token (L + 1, T): one more than the tokens that are more likely."""
        found = np.empty((self.last + 1, self.length))
        for part in self.parts():
            for level in range(self.last + 1):
                logits = self.logits(name, level, part)
                found[level, part] = (logits > logits[:, token, None]).sum(-1).cpu().numpy() + 1
        return found

    @torch.inference_mode()
    def exit_levels(self, name: str, gate: Gate) -> Whole:
        """Give the first level at which a gate lets each position exit (T,); L where it never does.

        Raises
        ------
        GateError
            If the gate checks a level that is no early-exit level.
        """
        if any(level >= self.last for level in gate.levels):
            raise GateError(
                f"a gate of the levels {', '.join(map(str, gate.levels))} given, early-exit levels are 0 to "
                f"{self.last - 1}"
            )
        found = np.full(self.length, self.last)
        for part in self.parts():
            exits = torch.full((part.stop - part.start,), self.last, device=self._states.device)
            earlier = exits.new_zeros((len(exits), 0))
            for level in gate.levels:
                logits = self.logits(name, level, part)
                coordinates = partial(self._coordinates, name, level, part)
                leaves = leaving(gate, level, logits, earlier, coordinates) & (exits == self.last)
                exits[leaves] = level
                if looks_back(gate):
                    earlier = torch.cat([earlier, likeliest(logits)], -1)
            found[part] = exits.cpu().numpy()
        return found


def _measured(predicted: Tensor, own: Tensor, following: Tensor, k: int) -> tuple[Tensor, ...]:
    """Measure log-probabilities (n, V) against those of the last level, in the order of `Numbers`."""
    probabilities = predicted.exp()
    best, tokens = largest(predicted, k)
    entropy = torch.special.entr(probabilities).sum(-1)
    known = following >= 0
    of_next = predicted.gather(-1, following.clamp_min(0)[:, None])
    rank = (predicted > of_next).sum(-1) + 1.0
    surprisal = -of_next[:, 0]
    nothing = torch.full_like(surprisal, torch.nan)
    # A token that the last level gives no probability adds nothing.
    last = own.exp()
    divergence = last.mul(own - predicted).masked_fill_(last == 0, 0).sum(-1).clamp_min(0)
    return (
        tokens,
        best.exp(),
        entropy,
        surprisal.where(known, nothing),
        rank.where(known, nothing),
        divergence,
    )


def _put(numbers: Numbers, level: int, part: slice, measured: tuple[Tensor, ...]) -> None:
    for array, values in zip(numbers, measured, strict=True):
        array[level, part] = values.cpu().numpy()
