"""An engine whose costs and acceptance are known, so that the best round is known, too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onejump.runtime.cost_model import Policy, Round, RoundSeen


@dataclass
class Engine:
    """Draws rounds; its numbers are given for each of the gate's levels."""

    levels: Sequence[int] = (3, 8, 15)
    blocks: int = 30
    exits: Sequence[float] = (0.5, 0.5, 0.5)
    """Probability that a token checked at a level exits."""
    kept: Sequence[float] = (0.7, 0.8, 0.9)
    """Probability that a draft is kept."""
    more_of: dict[int, float] = field(default_factory=lambda: {1: 0.0, 2: 0.2, 4: 0.4, 8: 0.6})
    """Part of the rejected drafts that other candidates would have saved, by width."""
    of_tokens: Sequence[float] = (70, 73, 74, 75, 77, 79, 81, 84, 86, 88, 90, 92, 94, 95, 97, 99)
    """Milliseconds of a pass of 1, 2, ... tokens through all blocks."""
    head: float = 5.0
    """Milliseconds of the head, which is part of that."""
    check: float = 0.5
    """Milliseconds of a check."""
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.drawn = np.random.default_rng(self.seed)

    def block(self, tokens: int) -> float:
        """Milliseconds of a block."""
        return (self.of_tokens[tokens - 1] - self.head) / self.blocks

    def milliseconds(self, exit_levels: Sequence[int], checks: int, width: int) -> float:
        """Of a round: drafts, checks, and a pass of the last token's candidates and what is pending."""
        passed = self.head + self.check * checks
        passed += sum(level * self.block(1) for level in exit_levels)
        for block in range(self.blocks):
            passed += self.block(width + sum(level <= block for level in exit_levels))
        return passed

    def outcomes(self, plan: Round) -> Iterator[tuple[float, float, float]]:
        """Probability, mean tokens and milliseconds of each way that a round can go."""
        levels = self.levels if plan.levels is None else plan.levels
        places = range(len(levels))
        for length in range(plan.drafts + 1):
            for chain in itertools.product(places, repeat=length):
                probability, tokens, all_kept, checks = 1.0, 1.0, 1.0, 0
                full = length == plan.drafts
                for number, place in enumerate(chain):
                    probability *= self._exits_at(place)
                    kept = self.kept[place]
                    if full and number == length - 1:
                        kept += (1 - kept) * self.more_of[plan.width]
                    all_kept *= kept
                    tokens += all_kept
                    checks += place + 1
                if not full:
                    probability *= np.prod([1 - self.exits[place] for place in places])
                    checks += len(levels)
                width = plan.width if full and length else 1
                yield probability, tokens, self.milliseconds([levels[p] for p in chain], checks, width)

    def _exits_at(self, place: int) -> float:
        return self.exits[place] * float(np.prod([1 - self.exits[before] for before in range(place)]))

    def mean(self, plan: Round) -> tuple[float, float]:
        """Mean tokens and seconds of a round."""
        tokens = seconds = 0.0
        for probability, of_tokens, milliseconds in self.outcomes(plan):
            tokens += probability * of_tokens
            seconds += probability * milliseconds / 1000
        return tokens, seconds

    def best(self, most_drafts: int = 4, widths: Sequence[int] = (1, 2, 4, 8)) -> tuple[float, Round]:
        """The most tokens for each second, of all rounds that there are, and the round that gives it."""
        plans = [Round(0)] + [
            Round(drafts, width, tuple(self.levels[:count]))
            for drafts in range(1, most_drafts + 1)
            for width in widths
            for count in range(1, len(self.levels) + 1)
        ]
        return max(((np.divide(*self.mean(plan)), plan) for plan in plans), key=lambda found: found[0])

    @property
    def plain(self) -> float:
        """Tokens for each second of plain rounds."""
        return 1 / self.mean(Round(0))[1]

    def run(self, plan: Round) -> RoundSeen:
        """Draw a round."""
        levels = self.levels if plan.levels is None else plan.levels
        exit_levels: list[int] = []
        checks = accepted = 0
        all_kept = True
        for number in range(plan.drafts):
            exited = next((p for p in range(len(levels)) if self.drawn.random() < self.exits[p]), None)
            checks += len(levels) if exited is None else exited + 1
            if exited is None:
                break
            exit_levels.append(levels[exited])
            kept = self.kept[exited]
            if number == plan.drafts - 1:
                kept += (1 - kept) * self.more_of[plan.width]
            all_kept = all_kept and self.drawn.random() < kept
            accepted += all_kept
        full = 0 < plan.drafts == len(exit_levels)
        seconds = self.milliseconds(exit_levels, checks, plan.width if full else 1) / 1000
        seconds *= np.exp(self.noise * self.drawn.standard_normal())
        agreed = (True,) * accepted + (False,) * (accepted < len(exit_levels))
        return RoundSeen(
            plan, len(exit_levels), accepted, accepted + 1, tuple(exit_levels), agreed, float(seconds)
        )


def generate(engine: Engine, policy: Policy, tokens: int) -> tuple[int, float, list[RoundSeen]]:
    """Tokens, seconds and rounds until there are at least as many tokens."""
    made, seconds, rounds = 0, 0.0, []
    while made < tokens:
        seen = engine.run(policy.next_round())
        policy.learn(seen)
        made += seen.committed
        seconds += seen.seconds
        rounds.append(seen)
    return made, seconds, rounds
