"""What a model that exits early thinks of a given text: the distribution of each token, teacher-forced.

The distribution behind a token is that of the first checked level where the gate lets it exit, and the full
model's where it does not exit. What the levels see depends on the mode:

| mode | distribution behind a token |
|---|---|
| verified | the full model's: verified decoding follows it exactly |
| trusted | that of the exit, from the model's own state: catch-ups make keys and values exact |
| copied | that of the exit; behind it, later tokens see keys and values of the exited state |

One pass over the text gives all of them, also for copied exits: whether a token exits at a level, and what
the blocks above make of it, depends on earlier tokens and on levels below only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from onejump.base.errors import OneJumpError
from onejump.exits.gates import looks_back
from onejump.exits.learned_gate import leaving
from onejump.models.most_likely import likeliest
from onejump.models.rope import forget_lengths
from onejump.models.seen import given_to, state_of
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.predictor import coordinates_by, reads_previous


@dataclass
class _Pass:
    """One pass over texts, and what has left it so far."""

    engine: EarlyExit
    may: Tensor
    """Which tokens may exit, (rows, n)."""
    logits: dict[int, Tensor] = field(default_factory=dict)
    """By level: logits of the tokens that exit there, (exits, V)."""
    places: dict[int, Tensor] = field(default_factory=dict)
    """By level: which tokens these are, (rows, n)."""
    guesses: list[Tensor] = field(default_factory=list)
    """Most likely token of each token that may exit, at each level checked so far, (tokens,)."""
    left: Tensor = field(init=False)
    """Which tokens have exited, (rows, n)."""
    frozen: Tensor | None = None
    """Copied mode: states of the tokens that have exited, (rows, n, H)."""

    def __post_init__(self) -> None:
        self.left = torch.zeros_like(self.may)

    def reached(self, level: int, states: Tensor) -> Tensor:
        """Take states (rows, n, H) of a level, and give those that the next block gets."""
        gate, predictor = self.engine.gate, self.engine.predictor
        if self.frozen is not None:
            states = torch.where(self.left[..., None], self.frozen, states)
        if gate is None or predictor is None or level not in gate.levels:
            return states
        asked = self.may & ~self.left
        logits = predictor.logits(level, states[asked])
        among = ~self.left[self.may]
        guesses = torch.full_like(self.may[self.may], -1, dtype=torch.long)
        earlier = torch.stack(self.guesses, 1)[among] if self.guesses else guesses[among][:, None][:, :0]
        leave = leaving(gate, level, logits, earlier, lambda: coordinates_by(predictor, level, states[asked]))
        if looks_back(gate):
            guesses[among] = likeliest(logits)[:, 0]
            self.guesses.append(guesses)
        places = torch.zeros_like(self.left)
        places[asked] = leave
        self.places[level], self.logits[level] = places, logits[leave]
        self.left = self.left | places
        if self.engine.mode == "copied":
            self.frozen = states
        return states


@torch.inference_mode()
def exit_logits(
    engine: EarlyExit, tokens: Tensor, first: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Give the logits behind each token of given texts, and the level that they come from.

    Parameters
    ----------
    engine : EarlyExit
    tokens : Tensor of shape (rows, n), int64
        Texts, padded on the right with any token.
    first : sequence of int, optional
        Of each row the first token that may exit: those before it are a prompt that was read as a whole.
        Default: 0.

    Returns
    -------
    logits : Tensor of shape (rows, n, V)
        In float32.
    levels : Tensor of shape (rows, n), int64
        L: by the full model.

    Raises
    ------
    OneJumpError
        If the jump reads the last level's state of the token before.
    """
    transformer = engine.transformer
    if reads_previous(engine.predictor):
        raise OneJumpError(
            "the jump reads the last level's state of the token before, too: likelihoods take a jump that "
            "reads the state of one token"
        )
    tokens = tokens.to(transformer.device)
    if transformer.context is not None and len(tokens) > 1 and tokens.shape[1] > transformer.context:
        # The longest text of a batch would change the positions of the others.
        rows = [
            exit_logits(engine, row[None], None if first is None else [first[index]])
            for index, row in enumerate(tokens)
        ]
        return torch.cat([logits for logits, _ in rows]), torch.cat([levels for _, levels in rows])
    begin = torch.zeros(len(tokens), 1) if first is None else torch.tensor(first)[:, None]
    may = torch.arange(tokens.shape[1]) >= begin
    if engine.mode == "verified":
        may &= False
    run = _Pass(engine, may.to(tokens.device))
    logits = _full_logits(transformer, run, tokens).float()
    levels = torch.full_like(tokens, len(transformer.blocks))
    for level, places in run.places.items():
        logits[places] = run.logits[level]
        levels[places] = level
    return logits, levels


def _full_logits(transformer: Transformer, run: _Pass, tokens: Tensor) -> Tensor:
    """The model's own logits, where the pass reads, and may replace, the states between its blocks."""

    def before(block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        states = run.reached(0, given_to(arguments, named, block))
        return ((states, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": states})

    def after(level: int, block: nn.Module, returned: Any) -> Any:
        states = run.reached(level, state_of(returned, block))
        return (states, *returned[1:]) if isinstance(returned, tuple) else states

    if transformer.context is not None:
        forget_lengths(transformer.body)
    with ExitStack() as hooks:
        first = transformer.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        hooks.callback(first.remove)
        for level, block in enumerate(transformer.blocks, start=1):
            handle = block.register_forward_hook(
                lambda module, _, returned, level=level: after(level, module, returned)
            )
            hooks.callback(handle.remove)
        logits: Tensor = transformer.model(tokens, use_cache=False).logits
    return logits
