"""The loss of an encoder-decoder on the targets of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from onejump.models.pairs import decoder_inputs
from onejump.models.prompts import Prompt, batches, encoded_pairs, pad
from onejump.models.transformer import Transformer


@torch.inference_mode()
def losses_of_pairs(
    transformer: Transformer,
    tokenizer: Any,
    pairs: pd.DataFrame,
    *,
    max_tokens: int,
    batch_tokens: int,
    prefix: str = "",
) -> Tensor:
    """Sum the cross-entropy of all tokens of targets, through all blocks of the decoder.

    Parameters
    ----------
    transformer : Transformer
    tokenizer : transformers.PreTrainedTokenizerBase
    pairs : DataFrame
        With columns sentence (the source) and target.
    max_tokens : int
        Longer sources and targets are cut.
    batch_tokens : int
        Most tokens of a pass, padding included.
    prefix : str
        Put before each source.

    Returns
    -------
    Tensor of shape (pairs, 2), float64
        The sum over the target's tokens, end token included, in nats, and their number.
    """
    encoded = encoded_pairs(pairs, tokenizer, max_tokens, prefix)
    prompts = [
        Prompt(number, decoder_inputs(transformer.model, labels), np.arange(len(labels)), source=source)
        for number, (source, labels) in enumerate(encoded)
    ]
    found = torch.zeros(len(prompts), 2, dtype=torch.float64)
    for batch in batches(sorted(prompts, key=lambda prompt: -prompt.size), batch_tokens):
        inputs, rows, positions = pad(batch, transformer.padding)
        last = transformer.states(inputs, rows, positions)[-1]
        labels = torch.tensor(_labels(encoded, batch), device=last.device)
        logits = transformer.head.logits(last.to(transformer.head.gain))
        lost = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().cpu()
        numbers = torch.tensor([prompt.sentence for prompt in batch])[rows]
        found.index_add_(0, numbers, torch.stack([lost, torch.ones_like(lost)], 1))
    return found


def _labels(encoded: Sequence[tuple[Sequence[int], Sequence[int]]], batch: Sequence[Prompt]) -> list[int]:
    return [label for prompt in batch for label in encoded[prompt.sentence][1]]
