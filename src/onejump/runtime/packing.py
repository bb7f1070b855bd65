"""Weights packed once for the CPU.

A product of a few rows with a weight matrix takes about twice the time of a product of one row, as the
matrix is brought into another order each time. A packed weight keeps that order, and the product of 4 or 8
rows costs little more than that of one. So a few drafted tokens can be verified at almost the price of one.
MKL packs weights in float32 where torch has MKL; oneDNN packs all others.

The model is not changed. `packed` gives a view of it, which shares all modules and weights with the model
but for its linear maps. A packed map still has the model's own weight, and looks whether that is the one that
was packed: if it was changed, or moved to another device or dtype, the map multiplies with the weight as it
is.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from onejump.models.module_views import with_modules
from onejump.models.norms import TOLERANCE
from onejump.models.pass_checks import distance_of_most
from onejump.models.transformer import RUN_ERRORS, Transformer

_LOG = logging.getLogger(__name__)
# The order of a packed weight is chosen for this many rows.
_ROWS = 8
# What is measured to learn which products are faster unpacked: the rounds of each, and weights of this many
# bytes. They are more than caches hold.
_ROUNDS, _MEASURED_BYTES = 3, 512 * 1024**2


def _operation(library: str, name: str) -> Any:
    """Look an operation of torch up; None where this build of torch has none of that name."""
    found = getattr(getattr(torch.ops, library), name, None)
    return None if found is None else found.default


# Looked up once: each look costs as much as a small operation.
_BY_ONEDNN, _BY_MKL = _operation("mkldnn", "_linear_pointwise"), _operation("mkl", "_mkl_linear")


class _Weight:
    """A weight (out, in) in the order of the library that multiplies with it.

    In float32, a product by MKL takes up to a fifth less time than one by oneDNN.
    """

    def __init__(self, weight: Tensor) -> None:
        self.bytes = weight.numel() * weight.element_size()
        self._shape: Tensor | None = None
        if _BY_MKL is not None and weight.dtype == torch.float32:
            self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), _ROWS)
            # MKL's product wants the weight as it was, but looks at its shape only.
            self._shape = weight.new_empty(()).expand(weight.shape)
        else:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)

    def product(self, states: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply states (..., in)."""
        product: Tensor
        if self._shape is None:
            product = _BY_ONEDNN(states, self._packed, bias, "none", [], "")
        else:
            rows = states.numel() // states.shape[-1]
            product = _BY_MKL(states, self._packed, self._shape, bias, rows)
        return product


class _Group:
    """A packed weight: that of one map, or of several maps that multiply the same states.

    Several maps are multiplied at once, when the first of them is called. The others' products are kept
    until they are asked for.

    Parameters
    ----------
    maps : sequence of _Packed
        All of one input width and dtype.
    """

    def __init__(self, maps: Sequence[_Packed]) -> None:
        weights = [one.matrix() for one in maps]
        self.widths = [len(weight) for weight in weights]
        self.packed = _Weight(torch.cat(weights))
        self._maps = maps
        self._biased = any(one.bias is not None for one in maps)
        # By thread: what was multiplied, and the products that have not been asked for.
        self._kept: dict[int, tuple[Tensor, list[Tensor | None]]] = {}

    def product(self, states: Tensor, place: int) -> Tensor:
        """Multiply states (..., in) with the weight of one map."""
        if len(self.widths) == 1:
            return self.packed.product(states, self._maps[0].bias)
        thread = threading.get_ident()
        of, products = self._kept.pop(thread, (None, []))
        product = products[place] if of is states else None
        if product is None:
            whole = self.packed.product(states, self._bias())
            of, products = states, list(whole.split_with_sizes(self.widths, -1))
            product = products[place]
        assert product is not None
        products[place] = None  # whoever asks again may have changed the states
        if any(other is not None for other in products):
            self._kept[thread] = (states, products)
        return product

    def _bias(self) -> Tensor | None:
        """Biases are short: they are joined as they are now."""
        if not self._biased:
            return None
        return torch.cat(
            [
                one.weight.new_zeros(width) if one.bias is None else one.bias
                for one, width in zip(self._maps, self.widths, strict=True)
            ]
        )


class _Packed(nn.Module):
    """A linear map with a packed weight beside its own; made of a copy of the map that it stands for."""

    weight: Tensor
    bias: Any
    _group: _Group
    _place: int
    _seen: tuple[int, int]
    _unpacked_rows: int

    def pack(self, group: _Group, place: int) -> None:
        """Use a packed weight, in which this map's is at some place."""
        self.__dict__["_group"], self.__dict__["_place"] = group, place
        self.__dict__["_seen"] = _version(self.weight)
        self.leave_unpacked(0)

    def leave_unpacked(self, rows: int) -> None:
        """Take the weight as it is for products of up to this many rows."""
        self.__dict__["_unpacked_rows"] = rows

    def matrix(self) -> Tensor:
        """The weight, (out, in)."""
        return self.weight

    def plain(self, states: Tensor) -> Tensor:
        """Multiply with the weight as it is."""
        return functional.linear(states, self.weight, self.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Multiply states (..., in)."""
        # The dictionary is read directly: `self.weight` goes through nn.Module's lookup, which is slow.
        weight = self._parameters.get("weight")
        if (
            weight is None
            or states.numel() <= self._unpacked_rows * states.shape[-1]
            or states.dtype != weight.dtype
            or _version(weight) != self._seen
            or (states.requires_grad and torch.is_grad_enabled())
        ):
            return self.plain(states)
        return self._group.product(states, self._place)


class _PackedLinear(_Packed, nn.Linear):
    """`torch.nn.Linear`."""


class _PackedConv1D(_Packed, Conv1D):  # type: ignore[misc]
    """GPT-2's linear map, whose weight is transposed."""

    def matrix(self) -> Tensor:
        """The weight, (out, in)."""
        return self.weight.T

    def plain(self, states: Tensor) -> Tensor:
        """Multiply with the weight as it is."""
        return functional.linear(states, self.weight.T, self.bias)


_CLASSES: dict[type, type[_Packed]] = {nn.Linear: _PackedLinear, Conv1D: _PackedConv1D}


def packed(transformer: Transformer, *, unpacked_rows: int | None = None) -> Transformer:
    """Give a view of a model whose weights are packed once for the CPU.

    The view holds a second copy of the weights of all linear maps in the blocks and of the unembedding
    (`packed_bytes`). Threads may share it. Maps of one module that multiply the same states, such as those of
    queries, keys and values, are multiplied at once.

    Parameters
    ----------
    transformer : Transformer
        Stays as it is.
    unpacked_rows : int, optional
        Products of up to this many rows take the weight as it is; 0: all products take the packed weight.
        Unless given, products of one row, of two and so on are measured, which takes about a second for
        weights of 500 MB: on some CPUs MKL is the faster one for a few rows.

    Returns
    -------
    Transformer
        Whose logits are those of the given one but for rounding. It is the given one if nothing of it can be
        packed: if it is not on the CPU, or in a dtype other than float32 and bfloat16. A warning says so.
    """
    if reason := _why_not(transformer):
        _LOG.warning("%s: weights are not packed: %s", type(transformer.model).__name__, reason)
        return transformer
    maps = [
        module
        for part in (*transformer.blocks, _head_of(transformer.model))
        for module in part.modules()
        if type(module) in _CLASSES and not _hooked(module)
    ]
    view = _packed_by(transformer, _same_inputs(transformer, maps))
    if not gives_the_same(view, transformer, "packed together"):
        view = _packed_by(transformer, [[module] for module in dict.fromkeys(maps)])
        if not gives_the_same(view, transformer, "packed"):
            return transformer
    maps_of_view = packed_maps(view.model)
    rows = rows_faster_unpacked(maps_of_view) if unpacked_rows is None else unpacked_rows
    for one in maps_of_view:
        one.leave_unpacked(rows)
    return view


@torch.inference_mode()
def rows_faster_unpacked(maps: Sequence[_Packed], clock: Callable[[], float] = time.perf_counter) -> int:
    """Measure up to how many rows products with the weights as they are take less time than packed ones.

    Parameters
    ----------
    maps : sequence of _Packed
        In the order in which the model calls them.
    clock : callable
        Gives seconds.
    """
    measured, size = [], 0
    for one in maps:
        if size > _MEASURED_BYTES:
            break
        measured.append(one)
        size += one.weight.numel() * one.weight.element_size()
    for rows in range(1, _ROWS + 1):
        # Maps of one group get the same states, as in the model.
        states: dict[_Group, Tensor] = {}
        for one in measured:
            if one._group not in states:
                states[one._group] = torch.randn(rows, one.matrix().shape[1]).to(one.weight.dtype)
        seconds: dict[int, list[float]] = {0: [], rows: []}
        for _ in range(_ROUNDS):
            for unpacked, found in seconds.items():
                for one in measured:
                    one.leave_unpacked(unpacked)
                began = clock()
                for one in measured:
                    one(states[one._group])
                found.append(clock() - began)
        if min(seconds[0]) <= min(seconds[rows]):
            return rows - 1
    return _ROWS


def _packed_by(transformer: Transformer, groups: list[list[nn.Module]]) -> Transformer:
    """A view whose maps are packed in groups."""
    others: dict[nn.Module, nn.Module] = {}
    for members in groups:
        maps = [_copied(module) for module in members]
        group = _Group(maps)
        for place, (module, one) in enumerate(zip(members, maps, strict=True)):
            one.pack(group, place)
            others[module] = one
    return viewed(transformer, others)


@torch.inference_mode()
def _same_inputs(transformer: Transformer, maps: list[nn.Module]) -> list[list[nn.Module]]:
    """Put maps of one module together that get the same states in a run; other maps stay alone."""
    parents: dict[nn.Module, set[nn.Module]] = {module: set() for module in maps}
    for module in transformer.model.modules():
        for inner in module._modules.values():
            if inner in parents:
                parents[inner].add(module)
    seen: dict[nn.Module, list[Tensor]] = {module: [] for module in maps}  # keeps them: addresses come again
    handles = [
        module.register_forward_pre_hook(lambda one, given: seen[one].append(given[0])) for module in seen
    ]
    try:
        transformer.run_whole(transformer.example())
    except (*RUN_ERRORS, IndexError):
        return [[module] for module in seen]
    finally:
        for handle in handles:
            handle.remove()
    groups: dict[tuple[object, ...], list[nn.Module]] = {}
    for module, given in seen.items():
        alone = len(given) != 1 or len(parents[module]) != 1
        key = (module,) if alone else (*parents[module], id(given[0]), module.weight.dtype, type(module))
        groups.setdefault(key, []).append(module)
    return list(groups.values())


def packed_bytes(transformer: Transformer) -> int:
    """Bytes of the packed weights of a view."""
    groups = {one._group for one in packed_maps(transformer.model)}
    return sum(group.packed.bytes for group in groups)


def packed_maps(module: nn.Module) -> list[_Packed]:
    """Packed maps inside a module."""
    return [inner for inner in module.modules() if isinstance(inner, _Packed)]


def viewed(transformer: Transformer, others: Mapping[nn.Module, nn.Module]) -> Transformer:
    """Give a view of a model with other modules in the place of some.

    Parameters
    ----------
    transformer : Transformer
    others : mapping of torch.nn.Module -> torch.nn.Module
        Of a module of the model, what is in its place in the view.

    Returns
    -------
    Transformer
        Modules that contain one of `others` are shallow copies; all else is shared.
    """
    known = dict(others)
    view = copy.copy(transformer)
    view.model = with_modules(transformer.model, known)
    view.body = with_modules(transformer.body, known)
    view.blocks = nn.ModuleList([with_modules(block, known) for block in transformer.blocks])
    return view


@torch.inference_mode()
def gives_the_same(view: Transformer, transformer: Transformer, how: str) -> bool:
    """Whether a view gives the model's own logits; a warning says so if it does not."""
    try:
        off = distance_of_most(_in_two_passes(view), _in_two_passes(transformer))
        reason = f"it does not give its own logits then (off by {off:.3g} of their spread)"
    except RUN_ERRORS as error:
        off, reason = float("inf"), " ".join(str(error).split())[:200]
    if off <= TOLERANCE[transformer.model.dtype]:
        return True
    _LOG.warning("%s: it is not %s: %s", type(transformer.model).__name__, how, reason)
    return False


def _in_two_passes(transformer: Transformer) -> Tensor:
    """Logits (1, n, V) of a short text; of a causal model, the second half goes by the cache of the first."""
    tokens, model = transformer.probe().to(transformer.device), transformer.model
    if not transformer.causal:
        whole: Tensor = transformer.run_whole(transformer.example()).logits
        return whole
    half = tokens.shape[1] // 2
    first = model(tokens[:, :half], use_cache=True)
    second = model(tokens[:, half:], past_key_values=first.past_key_values, use_cache=True)
    return torch.cat([first.logits, second.logits], 1)


def can_be_packed(transformer: Transformer) -> bool:
    """Whether the weights of a model can be packed: on the CPU, in a dtype that oneDNN packs here."""
    return _why_not(transformer) is None


def _why_not(transformer: Transformer) -> str | None:
    """Why a model cannot be packed; None if it can."""
    model = transformer.model
    devices = sorted({parameter.device.type for parameter in model.parameters()})
    if devices != ["cpu"]:
        return f"the model is on {' and '.join(devices)}; on the CPU they are packed"
    if _BY_ONEDNN is None:
        return "this build of torch has no oneDNN"
    dtype = str(model.dtype).removeprefix("torch.")
    if model.dtype not in (torch.float32, torch.bfloat16):
        return f"the model's dtype is {dtype}; float32 and bfloat16 are packed"
    if model.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this CPU has no products in bfloat16"
    return None


def _head_of(model: Any) -> nn.Module:
    head = model.get_output_embeddings()
    return head if isinstance(head, nn.Module) else nn.Module()


def _hooked(module: nn.Module) -> bool:
    """Whether a module was wrapped by a tool that brings its weights when they are needed."""
    return "forward" in module.__dict__ or getattr(module, "_hf_hook", None) is not None


def _copied(module: nn.Module) -> _Packed:
    # A shallow copy has the same dictionary of parameters: a weight that is replaced is replaced in both.
    view = copy.copy(module)
    view.__class__ = _CLASSES[type(module)]
    assert isinstance(view, _Packed)
    return view


def _version(weight: Tensor) -> tuple[int, int]:
    """Where a weight lies, and how often it was changed: another dtype or device needs another place."""
    # Tensors made in inference mode count no changes.
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version
