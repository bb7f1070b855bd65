"""Batches of pairs of texts, and what an encoder-decoder needs: its decoder, and how the two run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError


class Pairs(NamedTuple):
    """A batch of pairs of texts.

    The source runs through the encoder in full, the target through the decoder, as far as it is known.
    """

    source: Tensor
    """(sequences, length of the longest source), int64, padded on the right with the model's `padding`."""
    target: Tensor
    """(sequences, length), int64: what the decoder takes, start token included; padded on the right."""


class TwoParts(NamedTuple):
    """A batch of texts of two parts each, for a classifier that is told the part of each token (BERT)."""

    tokens: Tensor
    """(sequences, length), int64, padded on the right with the model's `padding`."""
    parts: Tensor
    """(sequences, length), int64: the tokenizer's token_type_ids, padded with 0."""


Inputs = Tensor | Pairs | TwoParts
"""What a model is run over: texts, or pairs of texts in the case of an encoder-decoder."""


def size_of(inputs: Inputs) -> tuple[int, int]:
    """Give the number of sequences of a batch, and the length of the longest one that gives samples."""
    if isinstance(inputs, Tensor):
        sequences, length = inputs.shape
    else:
        sequences, length = (inputs.target if isinstance(inputs, Pairs) else inputs.tokens).shape
    return sequences, length


def find_decoder(model: Any) -> nn.Module:
    """Find the decoder of an encoder-decoder: its blocks, and all that runs before and behind them.

    Raises
    ------
    ModelError
        If the model has no encoder and decoder that can be run one after the other.
    """
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    if not isinstance(decoder, nn.Module) or decoder in (model, model.base_model):
        raise ModelError(
            f"{type(model).__name__}: its decoder was not found: looked for get_encoder() and get_decoder()"
        )
    return decoder


def run_pairs(model: Any, decoder: nn.Module | None, pairs: Pairs, padding: int) -> Any:
    """Run an encoder-decoder over pairs of texts.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    decoder : torch.nn.Module or None
        What `find_decoder` gives, to run the model without its head; None to run it whole.
    pairs : Pairs
        On the model's device.
    padding : int
        An attention mask hides this token in the sources.
    """
    source, target = pairs
    mask = (source != padding).long()
    if decoder is None:
        return model(input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False)
    encoded = model.get_encoder()(input_ids=source, attention_mask=mask)[0]
    return decoder(
        input_ids=target, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False
    )


def decoder_inputs(model: Any, labels: Sequence[int]) -> list[int]:
    """Give what the decoder takes to predict a target (n tokens): n tokens, the first one to start with.

    Raises
    ------
    ModelError
        If the model does not say what its targets start with.
    """
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is not None:
        return [int(token) for token in shift(torch.tensor([labels]))[0]]
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise ModelError(
            f"{type(model).__name__}: what its targets start with is not known: looked for "
            "decoder_start_token_id in its configuration"
        )
    return [int(start), *labels[:-1]]
