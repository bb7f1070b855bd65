"""Documents of plain sentences, a tokenizer that knows their words, and noise for norms of random models."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

SUBJECTS = (
    "The old farmer",
    "A young teacher",
    "My neighbour",
    "The tired captain",
    "Our doctor",
    "A quiet boy",
)
VERBS = ("counted", "painted", "carried", "forgot", "described", "repaired", "wanted", "found")
OBJECTS = ("the green boat", "two heavy stones", "a small clock", "the broken window", "some warm bread")
PLACES = ("near the river", "behind the church", "in the garden", "on the long road")
TIMES = ("before the rain", "after the winter", "during the war", "at night", "every summer")


def documents(count: int = 80, sentences: int = 5) -> list[list[str]]:
    """Documents of distinct sentences, each ending in a full stop."""
    every = [" ".join(words) + "." for words in itertools.product(SUBJECTS, VERBS, OBJECTS, PLACES, TIMES)]
    chosen = np.random.default_rng(0).permutation(len(every))[: count * sentences].tolist()
    return [[every[i] for i in chosen[d * sentences : (d + 1) * sentences]] for d in range(count)]


def word_tokenizer(special: dict[str, str], around: str | None = None) -> Any:
    """A tokenizer of 200 words: special tokens by role, the corpus's; `around` is a sentence's template."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for s in itertools.chain(*documents()) for word in s.rstrip(".").split()})
    vocabulary = {word: i for i, word in enumerate([*special.values(), ".", ",", *words])}
    vocabulary |= {f"word{i}": i for i in range(len(vocabulary), 200)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if around is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[(token, vocabulary[token]) for token in special.values()]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def disturb_norms(model: Any) -> None:
    """Make a random model's norms differ from the identity, and its biases from zero, so that each shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
