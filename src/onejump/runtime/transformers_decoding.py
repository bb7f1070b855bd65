"""Decoding by transformers itself: what decoding with exits is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.utils import logging

from onejump.models.anatomy import text_config


def generate(
    model: Any, tokens: Tensor, mask: Tensor, *, new_tokens: int, padding: int, **options: Any
) -> Tensor:
    """Decode greedily by `model.generate`, and leave the model as it was.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokens, mask : Tensor of shape (rows, n)
        Prompts, padded on the left, and their attention mask; of an encoder-decoder, sources, padded on the
        right.
    new_tokens : int
        Most new tokens.
    padding : int
        Token that fills up the rows of the result.
    **options
        More arguments, such as `prompt_lookup_num_tokens` and `assistant_early_exit`.

    Returns
    -------
    Tensor of shape (rows, n + new), or (rows, 1 + new) of an encoder-decoder
    """
    with _same_configuration(model), _quiet():
        sequences: Tensor = model.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=padding,
            **options,
        )
    return sequences


def new_tokens_of(model: Any, sequences: Tensor, prompt: int) -> list[list[int]]:
    """Give the tokens of each row behind its prompt, without the padding behind its stop token."""
    stops = model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or ())
    rows = []
    for row in sequences[:, prompt:].tolist():
        ends = next((index for index, token in enumerate(row) if token in stops), len(row))
        rows.append(row[: ends + 1])
    return rows


@contextmanager
def _same_configuration(model: Any) -> Iterator[None]:
    """Undo what assistant_early_exit leaves behind where it fails: a configuration of fewer blocks."""
    configs = {id(config): config for config in (model.config, text_config(model))}
    kept = [
        (config, name, getattr(config, name))
        for config in configs.values()
        for name in ("num_hidden_layers", "n_layer")
        if hasattr(config, name)
    ]
    own = model.generation_config.assistant_early_exit
    try:
        yield
    finally:
        for config, name, value in kept:
            setattr(config, name, value)
        model.generation_config.assistant_early_exit = own


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide remarks of transformers about its own calls, which assistant_early_exit makes."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
