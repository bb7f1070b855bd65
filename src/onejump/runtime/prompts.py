"""A prompt that somebody types, as the tokens that a model is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onejump.base.errors import OneJumpError


def takes_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def prompt_tokens(tokenizer: Any, prompt: str, *, chat: bool = True, system: str | None = None) -> Tensor:
    """Give the tokens (1, n) of a prompt, in the tokenizer's chat template if it has one.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    prompt : str
        The user's message.
    chat : bool
        Use the chat template, if there is one.
    system : str, optional
        The system message of the chat. It is not used where there is no chat.

    Raises
    ------
    OneJumpError
        If the template refuses the prompt.
    """
    if chat and takes_template(tokenizer):
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": prompt})
        try:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is a program, and raises what it likes
            reason = " ".join(str(error).split())[:300]
            raise OneJumpError(f"the model's chat template refuses this prompt: {reason}") from error
        # The template itself holds the tokens that begin a text.
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        tokens = tokenizer(prompt)["input_ids"]
    return torch.tensor([tokens], dtype=torch.int64)
