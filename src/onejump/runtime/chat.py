"""Prompts as a model was trained to take them: in the chat template of its tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onejump.base.errors import OneJumpError


def takes_chats(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def prompt_tokens(tokenizer: Any, prompt: str, *, raw: bool = False, system: str | None = None) -> Tensor:
    """Give the tokens (1, n) of a prompt, in the tokenizer's chat template if it has one.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    prompt : str
        The user's message.
    raw : bool
        Leave the chat template out.
    system : str, optional
        The system message of the chat.

    Raises
    ------
    OneJumpError
        If a system message is given and no template takes it.
    """
    template = not raw and takes_chats(tokenizer)
    if system is not None and not template:
        reason = "--raw leaves the chat template out" if raw else "the model has no chat template"
        raise OneJumpError(f"--system given, but {reason}")
    if template:
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
