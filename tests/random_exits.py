"""What tests of generation with exits share: small models, rounds drawn at random, and a plain loop."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from families import VOCABULARY, disturb
from jumps_at_random import trained
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from onejump.exits.gates import GATES, ThresholdGate, TopProbability
from onejump.runtime.cost_model import Fixed, Policy, Round, RoundSeen
from onejump.runtime.early_exit import EarlyExit
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.shortcut import Shortcut


def small_llama(blocks: int = 3, vocabulary: int = VOCABULARY, **configuration: Any) -> Any:
    """A random Llama without stop tokens."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        **sizes, num_hidden_layers=blocks, vocab_size=vocabulary, max_position_embeddings=64, **configuration
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    disturb(model, 3)
    model.generation_config.update(eos_token_id=None, pad_token_id=0, bos_token_id=None)
    return model


def always(*levels: int) -> TopProbability:
    """The gate that lets every token exit at the first of its levels."""
    return TopProbability(dict.fromkeys(levels, 0.0))


def exiting(model: Any, drafts: int = 2, gate: Any = None, **options: Any) -> EarlyExit:
    """A model whose tokens exit at level 1, unless a gate says otherwise."""
    gate = always(1) if gate is None else gate
    return EarlyExit(model, Identity(), gate=gate, packed=False, **{"policy": Fixed(drafts)} | options)


def prompt(length: int = 7, seed: int = 0) -> Tensor:
    """A random prompt (1, length), without the tokens that configurations name."""
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


def padded(prompts: list[Tensor], side: str = "left") -> tuple[Tensor, Tensor]:
    """Prompts (1, n) as one batch, padded with 0, and its attention mask."""
    longest = max(prompt.shape[1] for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, of in enumerate(prompts):
        at = slice(longest - of.shape[1], None) if side == "left" else slice(of.shape[1])
        tokens[row, at], mask[row, at] = of[0], 1
    return tokens, mask


class Drawn(Policy):
    """Rounds drawn at random: any length, any width, any levels, recalled drafts or none."""

    def __init__(
        self, seed: int, levels: tuple[int, ...], longest: int = 4, widths: Sequence[int] = (1, 1, 2, 3, 5)
    ) -> None:
        self._drawn, self._levels, self._longest, self._widths = random.Random(seed), levels, longest, widths
        self._of_text = random.Random(seed)

    def next_round(self) -> Round:
        levels = tuple(level for level in self._levels if self._drawn.random() < 0.8) or self._levels[:1]
        drafts, width = self._drawn.randint(0, self._longest), self._drawn.choice(self._widths)
        return Round(drafts, width, levels, recalled=self._of_text.randint(0, 3))

    def learn(self, seen: RoundSeen) -> None:
        assert seen.accepted <= seen.drafted == len(seen.recalled)
        assert len(seen.agreed) <= len(seen.exit_levels) == seen.drafted


def drawn_gate(drawn: random.Random, levels: Sequence[int], vocabulary: int) -> ThresholdGate:
    """A gate of any kind that checks some of these levels; some thresholds let flat distributions exit."""
    kind = drawn.choice(list(GATES))
    checked = drawn.sample(list(levels), drawn.randint(1, min(4, len(levels))))

    def threshold() -> float:
        if kind == "patience":
            return drawn.randint(1, 2)
        lowest = 1 / vocabulary if kind == TopProbability.kind else 1e-4
        return drawn.choice([0.0, math.exp(drawn.uniform(math.log(lowest), math.log(0.5)))])

    return GATES[kind]({level: threshold() for level in checked})


def drawn_jump(drawn: random.Random, levels: int, hidden: int) -> Shortcut:
    """A jump that serves all levels: one that knows something, or one that knows nothing."""
    kind = drawn.choice(["identity", "jtc", "one-jump"])
    if kind == "identity":
        return Identity()
    if kind == "jtc":
        noise = torch.randn(hidden, hidden, generator=torch.Generator().manual_seed(drawn.randrange(2**31)))
        return JTC(torch.eye(hidden) + 0.3 * noise / hidden**0.5)
    (jump,) = trained(kind, levels, hidden)
    return jump
