"""The FLOPs of blocks and heads, counted from their shapes.

As `torch.utils.flop_counter` does, only matrix products count, and a multiplication with its addition counts
as two. Norms, activations, softmax and rotary positions are left out: their share is of the order of 1 / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from onejump.models.anatomy import text_config
from onejump.models.head import Head
from onejump.models.transformer import Transformer

# Attention to an encoder's states. A decoder that runs alone has it and does not use it.
_CROSS = ("encoder_attn", "crossattention", "cross_attn", "EncDecAttention")
# Its keys and values are those of the source: they are made once, and not for each token of the target.
_OF_SOURCE = ("k_proj", "v_proj", "k", "v")
_EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")


class BlockFlops(NamedTuple):
    """The FLOPs of one block."""

    token: int
    """For each token: products with the block's matrices."""
    attended: int
    """For each token that a token attends to, itself among them: its key and its value."""
    window: int | None
    """Most tokens that a token attends to; None where there is no such limit."""

    def of(self, tokens: int, attended: int) -> int:
        """Count the FLOPs of some tokens, each of which attends to `attended` tokens, itself among them."""
        attended = attended if self.window is None else min(attended, self.window)
        return tokens * (self.token + self.attended * attended)


def block_flops(transformer: Transformer) -> list[BlockFlops]:
    """Count the FLOPs of each block.

    Of a block with experts, only those count that a token goes through. Keys and values are taken to be kept:
    of latent attention, which makes them anew at each step, too little is counted. So are those of the
    source of an encoder-decoder; the attention to them is left out, as it depends on the source's length.

    Parameters
    ----------
    transformer : Transformer

    Returns
    -------
    list of BlockFlops
        One for each block.
    """
    config = text_config(transformer.model)
    heads = getattr(config, "num_attention_heads", None) or 0
    width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
    keys = getattr(config, "qk_head_dim", None) or width
    values = getattr(config, "v_head_dim", None) or width
    windows = _windows(config, len(transformer.blocks))
    unused = _OF_SOURCE if transformer.task == "seq2seq" else None
    return [
        BlockFlops(2 * _multiplications(block, config, unused), 2 * heads * (keys + values), window)
        for block, window in zip(transformer.blocks, windows, strict=True)
    ]


def head_flops(head: Head) -> int:
    """Count the FLOPs of the head for one state."""
    dense = 0 if head.dense_weight is None else head.dense_weight.numel()
    return 2 * (head.unembedding.numel() + dense)


def _multiplications(block: nn.Module, config: Any, unused: Sequence[str] | None) -> int:
    """Count the numbers in the matrices of a block that one token is multiplied with.

    Of attention to an encoder's states, the modules of these names are left out; all, if there are none.
    """
    used = next((getattr(config, name) for name in _EXPERTS_USED if getattr(config, name, None)), None)
    total = 0
    for name, module in block.named_modules():
        parts = name.split(".")
        if any(part in _CROSS for part in parts) and (unused is None or parts[-1] in unused):
            continue
        of_module = sum(p.numel() for p in module.parameters(recurse=False) if p.dim() > 1)
        if "experts" in name.split("."):
            experts = _number_of_experts(block, name)
            of_module = of_module * min(used or experts, experts) // experts
        total += of_module
    return total


def _number_of_experts(block: nn.Module, name: str) -> int:
    """Count the experts of the group that a module belongs to: modules, or matrices stacked up."""
    steps = name.split(".")
    group = block.get_submodule(".".join(steps[: steps.index("experts") + 1]))
    stacked = [p.shape[0] for p in group.parameters(recurse=False) if p.dim() == 3]
    return stacked[0] if stacked else max(1, len(list(group.children())))


def _windows(config: Any, blocks: int) -> list[int | None]:
    """Give the window of each block's attention."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return [None] * blocks
    if kinds is None:
        return [int(window)] * blocks
    return [int(window) if "sliding" in kind else None for kind in kinds]
