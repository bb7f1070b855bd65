"""How far the next round drafts: the policies of the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from onejump.base.errors import OneJumpError


@dataclass(frozen=True)
class Round:
    """What a round is to do: how many tokens to draft, of which levels."""

    drafts: int
    """Most drafts in a chain before the catch-up; 0: no drafting, all blocks at once."""
    width: int = 1
    """Candidates of one exit: a tree of depth one at the round's last draft. Greedy decoding only."""
    levels: tuple[int, ...] | None = None
    """Levels to check in this round, rising; None: all that the gate checks."""

    def __post_init__(self) -> None:
        if self.drafts < 0 or self.width < 1:
            raise OneJumpError(
                f"drafts {self.drafts} and width {self.width} given, accepted are drafts >= 0 and width >= 1"
            )


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


class Policy(Protocol):
    """What chooses how far each round drafts."""

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

    def __post_init__(self) -> None:
        Round(self.drafts, self.width, self.levels)  # refuses what cannot be

    def next_round(self) -> Round:
        """Give the round."""
        return Round(self.drafts, self.width, self.levels)

    def learn(self, seen: RoundSeen) -> None:
        """Learn nothing."""
