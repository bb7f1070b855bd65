"""What a generation gives besides its text: where each token came from, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Generated:
    """The result of every way to generate."""

    sequences: Tensor
    """Prompts as they were given, and the new tokens, padded: (rows, longest), int64."""
    new_tokens: list[list[int]]
    """New tokens of each row, without padding."""
    exit_levels: list[list[int]]
    """The level that each new token was predicted at; L: by the full model."""
    levels: int
    """L."""
    drafted: int = 0
    """Exits made: tokens that were predicted early. Recalled drafts count as exits at level 0."""
    accepted: int = 0
    """Exits whose token was kept."""
    recalled: int = 0
    """Of the exits made, drafts that were recalled from the text (`onejump.runtime.recall`)."""
    recalled_kept: int = 0
    """How many of these were kept."""
    compared: int = 0
    """Exits whose most likely token was compared with the full model's."""
    agreed: int = 0
    """How many of these were the same."""
    decoded: int = 0
    """New tokens but the first of each row, which comes from the pass over its prompt."""
    block_passes: int = 0
    """Blocks that tokens behind the prompts went through, catch-ups and refused drafts included."""
    full_passes: int = 0
    """Passes through the last block, the one over the prompts not included."""
    flops: int = 0
    """Floating-point operations behind the prompts, 2 a multiplication."""
    plain_flops: int = 0
    """The same for the full model without exits, over the same texts."""
    seconds: float = 0.0
    """From the first pass to the last token."""
    prompt_seconds: float = 0.0
    """Of these, for the pass over the prompts."""

    @property
    def agreement(self) -> float | None:
        """Share of exits whose token is the full model's own; None where the full model was not asked."""
        return self.agreed / self.compared if self.compared else None

    @property
    def acceptance(self) -> float | None:
        """Share of exits whose token was kept; None without exits."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def blocks(self) -> float:
        """Blocks that were run for each decoded token, mean; L without exits."""
        return self.block_passes / self.decoded if self.decoded else float(self.levels)

    @property
    def flops_saved(self) -> float:
        """Share of floating-point operations that exits saved; negative where they cost more."""
        return 1 - self.flops / self.plain_flops if self.plain_flops else 0.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows by seconds."""
        return sum(map(len, self.new_tokens)) / self.seconds if self.seconds else 0.0

    def add(self, other: Generated) -> None:
        """Add the rows and the costs of another generation."""
        for name, value in vars(other).items():
            if name in _ADDED:
                setattr(self, name, getattr(self, name) + value)


_ADDED = frozenset(name for name in Generated.__dataclass_fields__ if name not in ("sequences", "levels"))
