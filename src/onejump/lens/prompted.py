"""What a prompt becomes: the tokens that are run, those that are shown, and what each one has to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onejump.base.errors import OneJumpError
from onejump.models.loading import mask_token
from onejump.models.pairs import decoder_inputs
from onejump.models.prompts import Prompt, batches, pad
from onejump.models.tasks import NAMED
from onejump.models.transformer import RUN_ERRORS, Transformer
from onejump.runtime.chat import prompt_tokens, takes_chats
from onejump.runtime.settings import learned_positions

MOST_TOKENS = 512
"""The most tokens that are shown."""
# Tokens in one pass over the masked copies of a text.
_BATCH_TOKENS = 4096


class Prompted(NamedTuple):
    """A prompt as a model runs over it."""

    prompts: list[Prompt]
    """What is run. The positions of all of them, in this order, are the T that are shown."""
    tokens: list[int]
    """The T tokens that are shown."""
    positions: list[int]
    """Their places in the text, from 0 on."""
    following: list[int | None]
    """What each of them has to predict: the token behind it, or itself where it is masked; None: nothing."""


def prompted(
    transformer: Transformer,
    tokenizer: Any,
    prompt: str,
    *,
    chat: bool = False,
    system: str | None = None,
    target: str | None = None,
    last: int | None = None,
) -> Prompted:
    """Turn a prompt into tokens, as the task of the model asks for it.

    Parameters
    ----------
    transformer : Transformer
    tokenizer : transformers.PreTrainedTokenizerBase
    prompt, chat, system, target, last
        As in `onejump.lens.trajectory.Trajectory.from_prompt`.

    Raises
    ------
    OneJumpError
        If the prompt is empty or too long, or an option is not one of the model's task.
    """
    task = transformer.task
    accepted = ("causal", "masked", "seq2seq")
    if task not in accepted:
        raise OneJumpError(
            f"{NAMED[task]} given, the lens takes one of {', '.join(NAMED[name] for name in accepted)}"  # type: ignore[index]
        )
    if not prompt:
        raise OneJumpError("the prompt is empty: give a text of one token or more")
    if last is not None and last < 1:
        raise OneJumpError(f"last: {last} given, a whole number from 1 on is accepted")
    if (target is not None) != (task == "seq2seq"):
        raise OneJumpError(
            f"a target given, but the model is {NAMED[task]}: only an encoder-decoder takes one"
            if target is not None
            else f"no target given, but the model is {NAMED[task]}: give the text whose tokens its decoder "
            "predicts (--target)"
        )
    if (chat or system is not None) and task != "causal":
        raise OneJumpError(
            f"a chat asked for, but the model is {NAMED[task]}: only a causal one takes a chat"
        )
    if target is not None:
        return _of_pair(transformer, tokenizer, prompt, target, last)
    if chat and not takes_chats(tokenizer):
        raise OneJumpError("a chat asked for, but the tokenizer of the model has no chat template")
    if system is not None and not chat:
        raise OneJumpError("a system message given without a chat: ask for the chat template")
    tokens: list[int] = prompt_tokens(tokenizer, prompt, raw=not chat, system=system)[0].tolist()
    _check_length(transformer, len(tokens), "prompt")
    if task == "masked":
        special = set(tokenizer.all_special_ids)
        shown = _shown([place for place, token in enumerate(tokens) if token not in special], last)
        mask = mask_token(tokenizer)
        prompts = [Prompt(0, tokens, np.array([place]), mask) for place in shown]
        following: list[int | None] = [tokens[place] for place in shown]
    else:
        shown = _shown(list(range(len(tokens))), last)
        prompts = [Prompt(0, tokens, np.array(shown))]
        following = [*tokens, None][shown[0] + 1 :]
    return Prompted(prompts, [tokens[place] for place in shown], shown, following)


def _of_pair(
    transformer: Transformer, tokenizer: Any, prompt: str, target: str, last: int | None
) -> Prompted:
    if not target:
        raise OneJumpError("the target is empty: give a text of one token or more")
    source: list[int] = tokenizer(prompt)["input_ids"]
    labels: list[int] = tokenizer(text_target=target)["input_ids"]
    for name, tokens in (("prompt", source), ("target", labels)):
        _check_length(transformer, len(tokens), name)
    taken = decoder_inputs(transformer.model, labels)
    shown = _shown(list(range(len(taken))), last)
    prompt_of_pair = Prompt(0, taken, np.array(shown), source=source)
    return Prompted([prompt_of_pair], [taken[place] for place in shown], shown, [*labels[shown[0] :]])


def _check_length(transformer: Transformer, tokens: int, name: str) -> None:
    if tokens == 0:
        raise OneJumpError(f"the {name} has no token: the tokenizer of the model leaves all of it out")
    held = learned_positions(transformer)
    if held is not None and tokens > held:
        raise OneJumpError(f"a {name} of {tokens} tokens given, the model has {held} positions")


def _shown(places: list[int], last: int | None) -> list[int]:
    if not places:
        raise OneJumpError("the prompt has only special tokens: give a text of one token or more")
    shown = places if last is None else places[-last:]
    if len(shown) > MOST_TOKENS:
        raise OneJumpError(
            f"a prompt of {len(shown)} tokens given, {MOST_TOKENS} can be shown: ask for the last ones "
            f"(last={MOST_TOKENS}, or --last {MOST_TOKENS})"
        )
    return shown


def states_of(transformer: Transformer, prompts: Sequence[Prompt]) -> Tensor:
    """Give the states (L + 1, T, H) of all positions, in the model's dtype.

    Raises
    ------
    OneJumpError
        If the model does not run over the text, as it may be too long for it.
    """
    found: list[Tensor] = []
    try:
        found += [
            transformer.states(*pad(batch, transformer.padding))
            for batch in batches(prompts, _BATCH_TOKENS, transformer.context)
        ]
    except RUN_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        length = len(prompts[0].tokens)
        raise OneJumpError(f"the model does not run over this text of {length} tokens: {reason}") from error
    return torch.cat(found, 1)
