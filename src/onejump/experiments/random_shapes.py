"""A block, a head and shortcuts of random weights, of the shapes of a model that is not at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from onejump.models.transformer import Transformer
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.shortlist import ShortlistAt
from onejump.shortcuts.shortcut import Shortcut


@dataclass(frozen=True)
class Shapes:
    """The shapes of a model of the Llama family."""

    blocks: int
    """L."""
    hidden: int
    """H."""
    feed_forward: int
    """Width inside the feed-forward network."""
    heads: int
    """Heads of attention."""
    key_heads: int | None
    """Heads of keys and values; None: as many."""
    vocabulary: int
    """V."""
    dtype: str
    """Number format of the block: float32, float16 or bfloat16."""


def one_block(shapes: Shapes, device: torch.device) -> Transformer:
    """Make a model of these shapes with one block, and random weights as training begins with them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    dtype = getattr(torch, shapes.dtype)
    configuration = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=shapes.hidden,
        intermediate_size=shapes.feed_forward,
        num_attention_heads=shapes.heads,
        num_key_value_heads=shapes.key_heads or shapes.heads,
        vocab_size=shapes.vocabulary,
        max_position_embeddings=4096,
        # One matrix serves as embedding and as unembedding: that saves memory, and no time is measured of it.
        tie_word_embeddings=True,
        dtype=dtype,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(configuration)
    finally:
        torch.set_default_dtype(usual)
    return Transformer(model)


def reshaped(shortcut: Shortcut, old: int, hidden: int, rank: int | None) -> Shortcut:
    """Make a shortcut of the same kind for another H and r, of random numbers between 0 and 1.

    Parameters
    ----------
    shortcut : Shortcut
        For the states of one level: each of its dimensions is H or r.
    old : int
        Its H.
    hidden : int
        The new H.
    rank : int or None
        The new r, for a kind that has one.
    """
    if isinstance(shortcut, ShortlistAt):
        first = reshaped(shortcut.first, old, hidden, rank)
        second = shortcut.second and reshaped(shortcut.second, old, hidden, rank)
        assert isinstance(first, Distilled)
        assert second is None or isinstance(second, Distilled)
        return ShortlistAt(first, second, shortcut.weights, shortcut.candidates)
    other = hidden if rank is None else rank
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.rand([hidden if size == old else other for size in tensor.shape], generator=generator)
        for name, tensor in shortcut.state_dict().items()
    }
    return shortcut.restore(tensors, shortcut.config())
