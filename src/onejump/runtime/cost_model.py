"""How far the next round drafts: the policies of the runtime.

A round drafts a chain of tokens, each from an early exit, then catches up: one pass through the remaining
blocks tells which drafts to keep, and gives one token more. If draft i is kept with probability a_i when all
before it were, a chain of k drafts gives 1 + a_1 + a_1 a_2 + ... + a_1 ... a_k tokens on average. `CostModel`
asks for the round with the most tokens for each second, by what it measured so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from onejump.base.errors import OneJumpError
from onejump.runtime.acceptance import Acceptance, Expected
from onejump.runtime.round_seconds import RoundSeconds, amounts_of, timed

Floats = NDArray[np.float64]

# Most prefixes of a gate's levels that are weighed.
_MOST_PREFIXES = 8
# How many standard deviations are added to the share of drafts kept: what was tried seldom is tried again.
_OPTIMISM = 1.0
# A drafting round has to promise this many times the tokens for each second of a plain one.
_WORTH = 1.01
# Plain rounds that drafting may have cost at any time, besides this part of all plain rounds.
_ALLOWED, _ALLOWED_PART = 1.0, 0.008
# Rounds that drafting may have gained and that count against later losses.
_CREDIT = 2.0
# Plain rounds in a row after which drafting is tried again, whatever is expected of it.
_RETRY = 256
# Drafting rounds in a row after which a plain round is timed again: at first, and at most, as it doubles.
_TIME_SOON, _TIME_AGAIN = 8, 128
# The choice is made anew every round at first, then every few rounds: it takes up to a millisecond.
_SOON, _EVERY = 32, 4


@dataclass(frozen=True)
class Round:
    """What a round is to do: how many tokens to draft, of which levels."""

    drafts: int
    """Most drafts in a chain before the catch-up; 0: no drafting, all blocks at once."""
    width: int = 1
    """Candidates of one exit: a tree of depth one at the round's last draft."""
    levels: tuple[int, ...] | None = None
    """Levels to check in this round, rising; None: all that the gate checks."""
    recalled: int = 0
    """Most drafts at the beginning of the chain that are recalled from the text, where it has some."""

    def __post_init__(self) -> None:
        if self.drafts < 0 or self.width < 1 or self.recalled < 0:
            raise OneJumpError(
                f"drafts {self.drafts}, width {self.width} and recalled {self.recalled} given, accepted are "
                "drafts >= 0, width >= 1 and recalled >= 0"
            )
        if self.levels is not None and list(self.levels) != sorted(set(self.levels)):
            raise OneJumpError(f"levels {list(self.levels)} of a round given, accepted are rising ones")


@dataclass(frozen=True)
class RoundSeen:
    """What became of a round."""

    plan: Round
    """What was asked for."""
    drafted: int
    """Drafts that were made."""
    accepted: int
    """Drafts that were kept."""
    committed: int
    """New tokens of the round, the full model's own one included."""
    exit_levels: tuple[int, ...]
    """Level of each draft, in order."""
    agreed: tuple[bool, ...]
    """Whether the full model said the same, in order, as far as it was asked."""
    seconds: float
    """Time that the round took."""
    recalled: tuple[bool, ...] = ()
    """Whether each draft was recalled from the text, in order; empty: none was."""


class Policy(Protocol):
    """What chooses how far each round drafts.

    A policy whose rounds name levels says them all in an attribute `levels`: generation refuses a policy that
    asks for a level that the gate does not check.
    """

    def next_round(self) -> Round:
        """Choose the next round."""

    def learn(self, seen: RoundSeen) -> None:
        """Take note of a round that has ended."""


@dataclass(frozen=True)
class Fixed:
    """The policy that asks for the same round every time."""

    drafts: int
    """Most drafts in a chain before the catch-up; 0: no drafting."""
    width: int = 1
    """Candidates of one exit."""
    levels: tuple[int, ...] | None = None
    """Levels to check; None: all that the gate checks."""
    recalled: int = 0
    """Most drafts that are recalled from the text, where the generation recalls any."""

    def __post_init__(self) -> None:
        self.next_round()  # refuses what cannot be

    def next_round(self) -> Round:
        """Give the round."""
        return Round(self.drafts, self.width, self.levels, self.recalled)

    def learn(self, seen: RoundSeen) -> None:
        """Learn nothing."""


class Promise(NamedTuple):
    """What a round is expected to give."""

    tokens: float
    """New tokens, mean."""
    seconds: float
    """Time, mean."""


class CostModel:
    """The policy that asks for the round with the most tokens for each second, by what it measured so far.

    It starts with two plain rounds. Then it learns from every round how long its parts take, how often tokens
    exit and how often drafts are kept. Rounds are weighed by their expected tokens over their expected
    seconds, with some optimism for what was tried seldom. A chain grows by one draft when its last one has
    been kept twice. Drafting never costs more than two plain rounds and 0.8% of the time: what it cost
    against plain rounds is added up, and beyond that the rounds are plain ones. The same observations give
    the same choices.

    Parameters
    ----------
    levels : sequence of int
        Levels that the gate checks, rising. With none, all rounds are plain.
    blocks : int
        L.
    most_drafts : int
        Most drafts in a chain.
    widths : sequence of int
        Numbers of candidates that may be tried; (1,) where rows of a pass cannot differ in length.
    expected : mapping of level -> Expected, optional
        What a calibration of the gate found.
    most_recalled : int
        Most drafts that are recalled from the text in one round; 0: none is.

    Raises
    ------
    OneJumpError
        If a level is not one of 0..L-1, or the levels do not rise, or a number is too small.
    """

    def __init__(
        self,
        levels: Sequence[int],
        blocks: int,
        *,
        most_drafts: int = 8,
        widths: Sequence[int] = (1, 2, 4, 8),
        expected: Mapping[int, Expected] | None = None,
        most_recalled: int = 0,
    ) -> None:
        if list(levels) != sorted(set(levels)) or (levels and not 0 <= levels[0] <= levels[-1] < blocks):
            raise OneJumpError(
                f"levels {list(levels)} given, accepted are rising ones from 0 to {blocks - 1}"
            )
        if most_drafts < 1 or 1 not in widths or min(widths) < 1:
            raise OneJumpError(
                f"most_drafts {most_drafts} and widths {list(widths)} given, accepted are one draft or more, "
                "and widths that include 1"
            )
        self.levels, self.blocks, self.most_drafts = tuple(levels), blocks, most_drafts
        self.most_recalled = most_recalled
        self.widths = tuple(sorted(set(widths)))
        self.seconds = RoundSeconds()
        """How long rounds take."""
        self.acceptance = Acceptance(self.levels, most_drafts, self.widths[1:], expected or {})
        """How often tokens exit and drafts are kept."""
        count = len(self.levels)
        places = np.linspace(1, count, min(count, _MOST_PREFIXES)).round().astype(int)
        self._prefixes = [int(place) for place in places]
        self._rounds = self._plain_in_a_row = self._drafting_in_a_row = 0
        self._time_again = _TIME_SOON
        self._spent = 0.0
        self._chosen, self._promised = Round(0), Promise(1.0, 1.0)

    def next_round(self) -> Round:
        """Choose the next round."""
        if not self.seconds.known:
            return Round(0)
        if self._drafting_in_a_row >= self._time_again:
            self._time_again = min(2 * self._time_again, _TIME_AGAIN)
            return Round(0)
        return replace(self._by_exits(), recalled=self._by_recall())

    def _by_recall(self) -> int:
        """How many drafts to recall where the text has them: each costs a token more in the round's pass."""
        if not self.most_recalled or self._spent > _ALLOWED:
            return 0
        number = np.arange(1, self.most_recalled + 1)
        tokens = _tokens_of_chains(self.acceptance.recalled(_OPTIMISM), self.most_recalled)[1:]
        plain, together, more, _, _, drafts, _ = self.seconds.costs
        rates = tokens / (plain + together + (more + drafts) * number)
        best = int(rates.argmax())
        return best + 1 if rates[best] * plain >= _WORTH else 0

    def _by_exits(self) -> Round:
        if not self.levels:
            return Round(0)
        if self._rounds < _SOON or self._rounds % _EVERY == 0 or self._plain_in_a_row >= _RETRY:
            self._chosen = self._choose()
            self._promised = self.promise(self._chosen)
        elif self._loss > 0:
            # What is not believed in, but hoped for, is tried once.
            return Round(0)
        return self._chosen if self._spent + max(self._loss, 0.0) <= _ALLOWED else Round(0)

    @property
    def _loss(self) -> float:
        """What a chosen round is expected to cost against plain ones, in plain rounds."""
        return self._promised.seconds / self.seconds.plain - self._promised.tokens

    def learn(self, seen: RoundSeen) -> None:
        """Take note of a round that has ended.

        For a batch, of each row of the round, with the round's seconds divided by the number of rows.
        """
        plan = seen.plan
        checked = self.levels if plan.levels is None else tuple(x for x in plan.levels if x in self.levels)
        recalled = seen.recalled or (False,) * seen.drafted
        ended = plan.drafts > seen.drafted
        wide = seen.drafted == plan.drafts > 0 and not recalled[-1]
        width = plan.width if wide else 1
        of_exits = [level for level, known in zip(seen.exit_levels, recalled, strict=True) if not known]
        checks = sum(sum(level <= exit_ for level in checked) for exit_ in of_exits)
        amounts = amounts_of(
            self.blocks,
            seen.exit_levels,
            width=width,
            checks=checks + ended * len(checked),
        )
        if (plan.drafts or any(recalled)) and self.seconds.known and timed(seen.seconds):
            # How many tokens one round gave is mostly luck. How many such rounds give is known better.
            rounds = self.seconds.usual(amounts, seen.seconds) / self.seconds.plain
            promised = self._promised.tokens
            if any(recalled):
                promised = float(_tokens_of_chains(self.acceptance.recalled(), sum(recalled))[-1])
            self._spent += rounds - promised
        self._spent = max(self._spent - _ALLOWED_PART * seen.committed, -_CREDIT)
        self.seconds.learn(amounts, seen.seconds)
        if plan.drafts or any(recalled):
            self.acceptance.learn(
                seen.exit_levels,
                seen.accepted,
                checked=checked,
                ended=ended,
                width=width,
                recalled=recalled,
            )
        self.acceptance.fade(seen.committed)
        self._rounds += 1
        self._plain_in_a_row = 0 if plan.drafts else self._plain_in_a_row + 1
        # Where only the text gives drafts, rounds without one are plain and need not be asked for.
        drafted = plan.drafts or any(recalled)
        self._drafting_in_a_row = self._drafting_in_a_row + 1 if drafted else 0

    def promise(self, plan: Round) -> Promise:
        """What a round is expected to give, by what was measured so far and without optimism.

        Parameters
        ----------
        plan : Round
            With a number of drafts, a width and levels that the policy itself may ask for.
        """
        if plan.drafts == 0:
            return Promise(1.0, self.seconds.plain)
        count = len(self.levels if plan.levels is None else plan.levels)
        tokens, seconds = self._weighed([count], optimism=0.0)
        place = 0, self.widths.index(plan.width), plan.drafts - 1
        return Promise(float(tokens[place]), float(seconds[place]))

    def _choose(self) -> Round:
        longest = self.acceptance.longest
        tokens, seconds = (of[:, :, :longest] for of in self._weighed(self._prefixes, _OPTIMISM))
        prefix, width, drafts = (int(i) for i in np.unravel_index(np.argmax(tokens / seconds), tokens.shape))
        rate = tokens[prefix, width, drafts] / seconds[prefix, width, drafts]
        worth = rate * self.seconds.plain >= _WORTH or self._plain_in_a_row >= _RETRY
        count = self._prefixes[prefix]
        levels = None if count == len(self.levels) else self.levels[:count]
        best = Round(drafts + 1, self.widths[width], levels)
        return best if worth else Round(0)

    def _weighed(self, prefixes: Sequence[int], optimism: float) -> tuple[Floats, Floats]:
        """Expected tokens and seconds of rounds, each of shape (prefixes, widths, drafts).

        A prefix is how many of the gate's levels are checked, the shallowest ones.
        """
        exits, depth = self.acceptance.exits(), np.array(self.levels) / self.blocks
        one, wide = self.acceptance.kept(optimism)
        reached = np.cumprod(np.append(1.0, 1 - exits[:-1]))
        count = np.array(prefixes)
        # Share of tokens that exit at each level, for each prefix.
        at = (reached * exits) * (np.arange(len(exits)) < count[:, None])
        exit_ = at.sum(1, keepdims=True)
        shares = at / np.maximum(exit_, 1e-12)
        number = np.arange(1, self.most_drafts + 1)
        # That i drafts are made, and that no token exits behind i - 1 of them; (prefixes, drafts).
        made, before = exit_**number, exit_ ** (number - 1)
        drafts = np.cumsum(made, 1)
        one_kept = np.cumprod(exit_ * (shares @ one.T), 1)
        chain = np.concatenate([np.ones_like(exit_), one_kept[:, :-1]], 1)
        last = np.concatenate([(shares @ one.T)[:, None], np.einsum("pl,wdl->pwd", shares, wide)], 1)
        tokens = np.cumsum(chain, 1)[:, None] + (chain * exit_)[:, None] * last

        mean_depth, extra = shares @ depth, np.array(self.widths) - 1.0
        with_candidates = made[:, None] * (extra > 0)[:, None]
        pending = drafts * (1 - mean_depth[:, None])
        checks_of_exit = (shares @ np.arange(1, len(exits) + 1))[:, None]
        checks = drafts * checks_of_exit + count[:, None] * (1 - exit_) * np.cumsum(before, 1)
        together = (exit_[:, None] - with_candidates) * (1 - mean_depth[:, None, None]) + with_candidates
        plain, *costs = self.seconds.costs
        seconds = (
            plain
            + costs[0] * together
            + costs[1] * (pending[:, None] + made[:, None] * extra[:, None])
            + (costs[2] * drafts * mean_depth[:, None] + costs[3] * checks + costs[4] * drafts)[:, None]
            + costs[5] * with_candidates
        )
        return tokens, seconds


def _tokens_of_chains(kept: float, most: int) -> Floats:
    """Expected tokens of chains of 0, 1, ... drafts, each kept with one probability: (most + 1,)."""
    tokens: Floats = np.cumsum(kept ** np.arange(most + 1))
    return tokens
