"""Where a model's blocks, its final norm, its head, and the parts of its blocks are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from onejump.errors import ModelError
from onejump.head import Head, HeadConfig
from onejump.norms import understand_activation, understand_norm

NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm")
# How the classes of masked language models are called, which see all of a sentence.
MASKED = "ForMaskedLM"

PARTS = ("attention", "feed-forward", "norms")

_PART_NAMES = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "feed-forward": ("mlp", "feed_forward", "ffn", "ff", "block_sparse_moe"),
}


def text_config(model: Any) -> Any:
    """The part of a model's configuration that describes its text model."""
    return model.config.get_text_config()


def is_causal(model: nn.Module) -> bool:
    """Whether a model's class says that a token sees only the tokens before it."""
    return not type(model).__name__.endswith(MASKED)


def padding_of(model: Any) -> int:
    """The token that pads the sentences of a batch for a masked language model.

    Raises
    ------
    ModelError
        If the configuration names none.
    """
    padding = text_config(model).pad_token_id
    if padding is None:
        raise ModelError(
            f"{type(model).__name__}: no token for padding: looked for pad_token_id in its configuration"
        )
    return int(padding)


def find_blocks(body: nn.Module, config: Any) -> nn.ModuleList:
    """The L blocks of a model's body.

    Raises
    ------
    ModelError
        If there is no list of num_hidden_layers modules, or more than one at the same depth.
    """
    wanted = config.num_hidden_layers
    found = [
        (name, module)
        for name, module in body.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == wanted
    ]
    # Lists inside a block (experts, say) can be as long as the list of blocks, but lie deeper.
    found.sort(key=lambda item: item[0].count("."))
    if not found or (len(found) > 1 and found[0][0].count(".") == found[1][0].count(".")):
        names = ", ".join(name for name, _ in found) or "none"
        raise ModelError(
            f"{type(body).__name__}: its blocks were not found: looked for one ModuleList of "
            f"num_hidden_layers = {wanted} modules (found: {names})"
        )
    return found[0][1]


def find_head(model: Any, body: nn.Module, blocks: nn.ModuleList, run: Callable[[], Any]) -> Head:
    """The head of a model: transform if there is one, final norm and unembedding.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    body : torch.nn.Module
        What lies before the head.
    blocks : torch.nn.ModuleList
    run : callable
        Runs the model once.

    Raises
    ------
    ModelError
        If the unembedding or the norm is not found, or what they do is not understood.
    """
    from accelerate.utils import align_module_device

    unembedding = model.get_output_embeddings()
    if unembedding is None or getattr(unembedding, "weight", None) is None:
        raise ModelError(
            f"{type(model).__name__}: its head was not found: "
            "looked for get_output_embeddings() with a weight"
        )
    norm, dense = _find_norm(model, body, blocks, unembedding)
    activation = None if dense is None else understand_activation(dense, norm, run, model.dtype)
    config = text_config(model)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    optional = ((unembedding, "bias"), (dense, "weight"), (dense, "bias"))
    with ExitStack() as stack:
        # With device_map: auto, weights that fit on no GPU are elsewhere until their module runs.
        for module in (norm, unembedding, dense):
            if module is not None:
                stack.enter_context(align_module_device(module))
        kind, eps, gain, bias = understand_norm(norm, _width(blocks, unembedding), unembedding.weight.device)
        device = gain.device
        return Head(
            HeadConfig(kind, eps, float(scale), softcap, activation),
            gain,
            bias,
            unembedding.weight.detach().to(device),
            *(_weight(module, name, device) for module, name in optional),
        )


def _weight(module: nn.Module | None, name: str, device: torch.device) -> Tensor | None:
    weight: Tensor | None = None if module is None else getattr(module, name)
    return None if weight is None else weight.detach().to(device)


def _find_norm(
    model: Any, body: nn.Module, blocks: nn.ModuleList, unembedding: nn.Module
) -> tuple[nn.Module, nn.Module | None]:
    """The final norm beside the blocks; or that of a transform before the unembedding, and its dense map."""
    owner = next(module for module in body.modules() if any(child is blocks for child in module.children()))
    norm = next((found for name in NORM_NAMES if (found := getattr(owner, name, None)) is not None), None)
    if norm is not None:
        return norm, None
    known = {unembedding, *body.modules()}
    outside = [
        (name, module)
        for name, module in model.named_modules()
        if module not in known and isinstance(getattr(module, "weight", None), Tensor)
    ]
    dense = [module for _, module in outside if isinstance(module, nn.Linear)]
    norms = [module for _, module in outside if not isinstance(module, nn.Linear)]
    if len(dense) == len(norms) == 1:
        return norms[0], dense[0]
    raise ModelError(
        f"{type(body).__name__}: its final norm was not found: looked beside the blocks for "
        f"{', '.join(NORM_NAMES)} (there: {', '.join(name for name, _ in owner.named_children())}), and "
        "outside of the blocks' model for a transform, one Linear and one norm besides the unembedding "
        f"(there: {', '.join(name for name, _ in outside) or 'none'})"
    )


def _width(blocks: nn.ModuleList, unembedding: nn.Module) -> int:
    weight = unembedding.weight
    assert isinstance(weight, Tensor)
    return weight.shape[1]


def find_parts(block: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of each of PARTS among the children of a block: its norms, and one of the others.

    Raises
    ------
    ModelError
        If a part is no module of its own in the block (naming what was looked for).
    """
    children = dict(block.named_children())
    found = {
        part: [children[name] for name in names if name in children] for part, names in _PART_NAMES.items()
    }
    for part, modules in found.items():
        if len(modules) != 1:
            raise ModelError(
                f"{type(block).__name__}: its {part} was not found: looked for one of "
                f"{', '.join(_PART_NAMES[part])} in the block (there: {', '.join(children)})"
            )
    found["norms"] = [m for name, m in children.items() if "norm" in name or name.startswith("ln")]
    if not found["norms"]:
        raise ModelError(
            f"{type(block).__name__}: its norms were not found: looked for names with 'norm', or that begin "
            f"with 'ln', in the block (there: {', '.join(children)})"
        )
    return found
