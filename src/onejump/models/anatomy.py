"""Finds a model's blocks, its final norm, its head, and the parts of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onejump.base.errors import ModelError
from onejump.models.classifiers import find_classifier
from onejump.models.head import Head, HeadConfig, NormKind
from onejump.models.logits import Logits, understand_logits
from onejump.models.norms import no_norm, understand_activation, understand_norm
from onejump.models.seen import Way, calls
from onejump.models.tasks import Task, task_of_class

PARTS = ("attention", "feed-forward", "norms")

_PART_NAMES = {
    "attention": ("self_attn", "attn", "attention", "self_attention"),
    "feed-forward": ("mlp", "feed_forward", "ffn", "ff", "block_sparse_moe"),
}


def text_config(model: Any) -> Any:
    """The part of a model's configuration that describes its text model."""
    return model.config.get_text_config()


def task_of(model: Any) -> Task:
    """What a model is trained to do, as its class and its configuration say."""
    encoder_decoder = bool(getattr(model.config, "is_encoder_decoder", False))
    return task_of_class(type(model).__name__, encoder_decoder=encoder_decoder)


def padding_of(model: Any) -> int:
    """The token that pads the texts of a batch for a masked language model or an encoder-decoder.

    Raises
    ------
    ModelError
        If the configuration names none.
    """
    padding = getattr(text_config(model), "pad_token_id", None)
    if padding is None:
        raise ModelError(
            f"{type(model).__name__}: no token for padding: looked for pad_token_id in its configuration"
        )
    return int(padding)


def blocks_stated(config: Any) -> int | None:
    """The number of blocks that a configuration states."""
    # Where a configuration describes an encoder and a decoder, num_hidden_layers counts the encoder's blocks.
    of_decoders = [key for key in ("decoder_layers", "num_decoder_layers") if hasattr(config, key)]
    return getattr(config, [*of_decoders, "num_hidden_layers"][0], None)


def find_blocks(body: nn.Module, config: Any, run: Callable[[], Any]) -> nn.ModuleList:
    """Find the L blocks of a model's body, in the order in which they run.

    A block that runs several times (as in ALBERT) is listed each time.

    Parameters
    ----------
    body : torch.nn.Module
    config : transformers.PreTrainedConfig
    run : callable
        Runs the model once.

    Raises
    ------
    ModelError
        If there is no list whose modules run as many times in all as the configuration states blocks, or if
        there are several such lists at one depth.
    """
    wanted = blocks_stated(config)
    lists = {name: module for name, module in body.named_modules() if isinstance(module, nn.ModuleList)}
    called = calls((module for modules in lists.values() for module in modules), run)
    members = {name: set(modules) for name, modules in lists.items()}
    run_by_list = {name: [module for module in called if module in members[name]] for name in lists}
    found = [name for name, modules in run_by_list.items() if len(modules) == wanted]
    # The modules of a list inside a block, such as experts, can run as often as the blocks. That list lies
    # deeper.
    found.sort(key=lambda name: name.count("."))
    if not found or (len(found) > 1 and found[0].count(".") == found[1].count(".")):
        # Most lists lie in blocks, so the first few, which lie highest, are outside of them.
        run_at_all = sorted((name for name in lists if run_by_list[name]), key=lambda name: name.count("."))
        there = ", ".join(f"{name}: {len(run_by_list[name])}" for name in run_at_all[:5])
        raise ModelError(
            f"{type(body).__name__}: its blocks were not found: looked for one ModuleList whose modules run "
            f"{wanted} times in all, as its configuration says (found: {there or 'none'}). The study's key "
            "`modules` can name them"
        )
    return nn.ModuleList(run_by_list[found[0]])


def find_unembedding(model: Any, run: Callable[[], Any]) -> nn.Module:
    """Find the map from the final norm's output to the logits, by a run of the model if it is a classifier.

    Raises
    ------
    ModelError
        If the model has none.
    """
    if task_of(model) == "classification":
        return find_classifier(model, run)
    return stated_unembedding(model)


def stated_unembedding(model: Any) -> nn.Module:
    """Give the unembedding that a language model names.

    Raises
    ------
    ModelError
        If it names none.
    """
    found = model.get_output_embeddings()
    if not isinstance(getattr(found, "weight", None), Tensor):
        raise ModelError(
            f"{type(model).__name__}: its head was not found: "
            "looked for get_output_embeddings() with a weight"
        )
    unembedding: nn.Module = found
    return unembedding


def find_head(
    model: Any,
    blocks: nn.ModuleList,
    unembedding: Any,
    run: Callable[[], Any],
    norm: nn.Module | None = None,
) -> Head:
    """Find the head of a model: the transform and the final norm if there are any, and the unembedding.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    blocks : torch.nn.ModuleList
    unembedding : torch.nn.Module
    run : callable
        Runs the model once.
    norm : torch.nn.Module, optional
        The norm that takes the last block's output, if it is known. Otherwise it is looked for.

    Raises
    ------
    ModelError
        If the norm is not found, or if what lies behind the last block is not understood.
    """
    from accelerate.utils import align_module_device

    found = follow_head(model, way_of(model, blocks, run, norm), unembedding, norm)
    activation = None
    if found.dense is not None:
        behind = unembedding if found.norm is None else found.norm
        activation = understand_activation(found.dense, behind, run, model.dtype)
    logits = logits_of(model, found.norm, unembedding, run)
    scale = logits.before * logits.after
    with ExitStack() as stack:
        # With device_map: auto, weights that fit on no GPU are kept elsewhere until their module runs.
        for module in (found.first, found.dense, found.norm, unembedding):
            if module is not None:
                stack.enter_context(align_module_device(module))
        width = unembedding.weight.shape[1]
        if found.norm is None:
            kind, eps, gain, bias = no_norm(width, unembedding.weight.device)
        else:
            kind, eps, gain, bias = understand_norm(found.norm, width, unembedding.weight.device)
        device = gain.device
        first_kind, first_eps, dense, shift = _transform(found, device)
        return Head(
            HeadConfig(kind, eps, scale, logits.softcap, activation, first_kind, first_eps),
            gain,
            bias,
            unembedding.weight.detach().to(device),
            _logit_bias(unembedding, logits, device),
            dense,
            shift,
        )


def way_of(
    model: Any, blocks: Iterable[nn.Module], run: Callable[[], Any], norm: nn.Module | None = None
) -> Way:
    """Watch a run of a model behind its last block, and a norm that is named besides."""
    return Way(model, blocks, run, model.dtype, norm, one_position=task_of(model) == "classification")


def logits_of(model: Any, norm: nn.Module | None, unembedding: nn.Module, run: Callable[[], Any]) -> Logits:
    """Find what lies between the final norm, the unembedding and the logits: in a classifier, nothing."""
    if task_of(model) == "classification":
        return Logits(1.0, 1.0, None, None)
    return understand_logits(norm, unembedding, run, text_config(model))


def _weight(module: nn.Module, name: str, device: torch.device) -> Tensor | None:
    weight = getattr(module, name, None)
    return None if not isinstance(weight, Tensor) else weight.detach().float().to(device)


@dataclass(frozen=True)
class HeadModules:
    """The modules between the last block and the unembedding, in the order in which they run."""

    first: nn.Module | None
    """The norm before the transform."""
    dense: nn.Linear | None
    """The Linear of the transform."""
    norm: nn.Module | None
    """The norm before the unembedding; None if the unembedding takes the last block's output, or, in a
    classifier, the transform's."""


def _transform(
    found: HeadModules, device: torch.device
) -> tuple[NormKind | None, float, Tensor | None, Tensor | None]:
    """Kind and epsilon of the norm before the transform; the transform's map, with that norm's gain in it."""
    if found.dense is None:
        return None, 0.0, None, None
    weight = found.dense.weight.detach().float().to(device)
    shift = _weight(found.dense, "bias", device)
    if found.first is None:
        return None, 0.0, weight, shift
    kind, eps, gain, bias = understand_norm(found.first, weight.shape[1], device)
    constant = weight @ bias.to(device)
    return kind, eps, weight * gain.to(device), constant if shift is None else shift + constant


def follow_head(model: nn.Module, way: Way, unembedding: nn.Module, named: nn.Module | None) -> HeadModules:
    """Find what lies between the last block and the unembedding, from one run of the model."""
    if named is None:
        taking = way.after(way.last)
    else:
        step = way.of(named)
        if step is None or named is unembedding:
            raise ModelError(
                "modules.norm: a norm that runs behind the last block and before the unembedding was "
                f"expected, {type(named).__name__} is not one"
            )
        taking = [step]
    norms = [step for step in taking if not isinstance(step.module, nn.Linear)]
    dense = [step for step in taking if isinstance(step.module, nn.Linear)]
    classifies = task_of(model) == "classification"
    if classifies and not norms:
        # BigBird also runs a pooler, whose output nothing takes. The Linear of the head runs last.
        dense = dense[-1:]
    if not norms and [step.module for step in dense] == [unembedding]:
        # Blocks that end in a norm of their own need none behind the last one (BART, Marian).
        _expect_width(model, way.last, unembedding)
        return HeadModules(None, None, None)
    if len(norms) == 1 and not dense:
        (norm,) = norms
        following = [step for step in way.after(norm.made) if isinstance(step.module, nn.Linear)]
        if any(step.module is unembedding for step in following) or len(following) != 1:
            _expect_width(model, norm.made, unembedding)
            return HeadModules(None, None, norm.module)
        first, dense = norm.module, following
    elif len(dense) == 1 and not norms:
        first = None
    else:
        there = ", ".join(type(step.module).__name__ for step in taking) or "none"
        if classifies:
            raise ModelError(
                f"{type(model).__name__}: its head was not understood: looked for one norm or Linear that "
                f"takes the last block's output, whole or at one position (there: {there}); a mean over "
                "positions is not accepted"
            )
        raise ModelError(
            f"{type(model).__name__}: its final norm was not found: looked for one norm, or one Linear of a "
            f"transform, that takes the last block's output (there: {there}). The study's key `modules` can "
            "name it"
        )
    last = way.of(unembedding)
    final = None if last is None else way.making(last.given)
    # Dense, an activation, the classifier. `understand_activation` finds out whether that is all.
    if (
        classifies
        and last is not None
        and (final is None or final is dense[0] or way.same(final.given, dense[0].made))
    ):
        assert isinstance(dense[0].module, nn.Linear)
        return HeadModules(first, dense[0].module, None)
    if final is None or final.given.shape != dense[0].made.shape:
        raise ModelError(
            f"{type(model).__name__}: its head was not understood: looked for a Linear, an activation, a "
            "norm and the unembedding, one after the other"
        )
    assert isinstance(dense[0].module, nn.Linear)
    return HeadModules(first, dense[0].module, final.module)


def _expect_width(model: nn.Module, state: Tensor, unembedding: nn.Module) -> None:
    weight = unembedding.weight
    assert isinstance(weight, Tensor)
    if weight.shape[1] != state.shape[-1]:
        raise ModelError(
            f"{type(model).__name__}: an unembedding of the states' width {state.shape[-1]} was "
            f"expected, its width is {weight.shape[1]}"
        )


def _logit_bias(unembedding: nn.Module, found: Logits, device: torch.device) -> Tensor | None:
    """The constant that is added to W_U norm(h): what the unembedding adds, and what is added behind it."""
    bias = _weight(unembedding, "bias", device)
    bias = None if bias is None else bias / found.before
    if found.offset is None:
        return bias
    offset = found.offset.to(device) / (found.before * found.after)
    return offset if bias is None else bias + offset


def find_parts(block: nn.Module) -> dict[str, list[nn.Module]]:
    """Find the modules of each of `PARTS` among the children of a block: all norms, one of each other part.

    Raises
    ------
    ModelError
        If a part is not a module of its own in the block; the message names what was looked for.
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
