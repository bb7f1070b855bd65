"""Packed weights give the model's own numbers, notice when the model changes, and leave it as it is."""

from __future__ import annotations

import copy
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from families import VOCABULARY, families
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP

from onejump.models.passes import PartialPasses
from onejump.models.row_cache import Place
from onejump.models.transformer import Transformer
from onejump.runtime import packing
from onejump.runtime.packing import packed_bytes

# Of each family, how many products with packed weights a block takes.
FAMILIES = {
    "GPT2LMHeadModel": 4,
    "LlamaForCausalLM": 4,
    "Phi3ForCausalLM": 4,
    "Gemma2ForCausalLM": 4,
    "OPTForCausalLM": 4,
    "BertForMaskedLM": 4,
}
bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no products in bfloat16"
)


# Without measuring, whose result is another one on each machine.
packed = functools.partial(packing.packed, unpacked_rows=1)


@functools.cache
def built(name: str) -> Any:
    return next(family for family in families() if family.model == name).build()


def transformer(name: str, dtype: torch.dtype = torch.float32) -> Transformer:
    return Transformer(copy.deepcopy(built(name)).to(dtype))


def drawn(rows: int, length: int) -> Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(length))


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what packed weights are multiplied with."""
    seen: list[tuple[int, ...]] = []
    product = packing._Weight.product

    def recorded(weight: Any, states: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(tuple(states.shape))
        return product(weight, states, bias)

    monkeypatch.setattr(packing._Weight, "product", recorded)
    return seen


@pytest.mark.parametrize("unpacked_rows", [0, 1])
@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_logits_are_the_model_s_own_but_for_rounding(
    name: str, unpacked_rows: int, products: list[tuple[int, ...]]
) -> None:
    given = transformer(name)
    exact = copy.deepcopy(given.model).double()
    view = packed(given, unpacked_rows=unpacked_rows)
    assert view is not given
    for rows, length in ((1, 1), (1, 2), (1, 4), (1, 9), (3, 5)):
        products.clear()
        tokens = drawn(rows, length)
        found, expected = view.model(tokens).logits, exact(tokens).logits
        unpacked = given.model(tokens).logits
        spread = float(expected.std())
        bound = 1e-6 * spread + 4 * float((unpacked - expected).abs().max())
        assert float((found - expected).abs().max()) <= bound
        expected_products = 3 * FAMILIES[name] + 1
        assert len(products) == (expected_products if rows * length > unpacked_rows else 0)


def test_every_linear_map_of_blocks_and_head_is_packed() -> None:
    view = packed(transformer("LlamaForCausalLM"))
    plain = [module for module in view.model.modules() if type(module) is nn.Linear]
    assert not plain
    assert len(packing.packed_maps(view.model)) == 3 * 7 + 1
    numbers = sum(one.weight.numel() for one in packing.packed_maps(view.model))
    assert packed_bytes(view) == 4 * numbers


@torch.inference_mode()
def test_the_given_model_stays_as_it_was() -> None:
    given = transformer("GPT2LMHeadModel")
    tokens, before = drawn(1, 6), copy.deepcopy(given.model.state_dict())
    logits, kinds = given.model(tokens).logits, [type(module) for module in given.model.modules()]
    view = packed(given)
    view.model(tokens)
    assert [type(module) for module in given.model.modules()] == kinds
    assert torch.equal(given.model(tokens).logits, logits)
    after = view.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_packed_map_has_the_model_s_own_weight() -> None:
    given = transformer("LlamaForCausalLM")
    given.model.lm_head.weight = given.model.model.embed_tokens.weight
    view = packed(given)
    assert view.model.lm_head.weight is given.model.model.embed_tokens.weight
    for ours, theirs in zip(view.blocks, given.blocks, strict=True):
        assert ours.mlp.up_proj.weight is theirs.mlp.up_proj.weight
        assert isinstance(ours.mlp.up_proj, nn.Linear)


def _in_place(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.weight.mul_(2)


def _replaced(model: Any) -> None:
    weight = model.model.layers[1].mlp.up_proj.weight
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(2 * weight, requires_grad=False)


def _in_double(model: Any) -> None:
    model.to(torch.float64)


def _assigned(model: Any) -> None:
    model.load_state_dict({key: 2 * of for key, of in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [_in_place, _replaced, _in_double, _assigned])
def test_a_weight_that_changes_later_is_noticed(change: Any, products: list[tuple[int, ...]]) -> None:
    given = transformer("LlamaForCausalLM")
    view, tokens = packed(given), drawn(1, 6)
    with torch.no_grad():
        before = given.model(tokens).logits
        change(given.model)
        products.clear()
        expected = given.model(tokens).logits
        assert expected.dtype != before.dtype or not torch.allclose(expected, before)
        torch.testing.assert_close(view.model(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert len(products) < 3 * 7 + 1


@bfloat16
@torch.inference_mode()
def test_bfloat16_is_packed(products: list[tuple[int, ...]]) -> None:
    given = transformer("LlamaForCausalLM", torch.bfloat16)
    view, tokens = packing.packed(given, unpacked_rows=0), drawn(1, 1)
    products.clear()
    torch.testing.assert_close(view.model(tokens).logits, given.model(tokens).logits, rtol=0.1, atol=0.5)
    assert len(products) == 3 * 4 + 1


@torch.inference_mode()
def test_onednn_packs_where_torch_has_no_mkl(
    monkeypatch: pytest.MonkeyPatch, products: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr(packing, "_BY_MKL", packing._operation("mkl", "none of that name"))
    given = transformer("OPTForCausalLM")
    view, tokens = packed(given), drawn(1, 6)
    products.clear()
    torch.testing.assert_close(view.model(tokens).logits, given.model(tokens).logits, rtol=1e-3, atol=1e-3)
    assert products


def test_a_torch_without_onednn_packs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packing, "_BY_ONEDNN", packing._operation("mkldnn", "none of that name"))
    given = transformer("LlamaForCausalLM")
    assert packed(given) is given
    assert "has no oneDNN" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_another_dtype_is_not_packed(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    given = transformer("LlamaForCausalLM", dtype)
    assert packed(given) is given
    assert len(caplog.messages) == 1
    assert str(dtype).removeprefix("torch.") in caplog.messages[0]


def test_a_model_elsewhere_is_not_packed(caplog: pytest.LogCaptureFixture) -> None:
    given = transformer("LlamaForCausalLM")
    given.model.to("meta")
    assert packed(given) is given
    assert "is on meta" in caplog.text


def test_gradients_go_through_a_packed_map() -> None:
    view = packed(transformer("LlamaForCausalLM"))
    states = torch.randn(1, 5, 32, requires_grad=True)
    view.blocks[0].mlp.up_proj(states).sum().backward()
    expected = view.blocks[0].mlp.up_proj.weight.sum(0).expand(1, 5, 32)
    torch.testing.assert_close(states.grad, expected)


@torch.inference_mode()
def test_partial_passes_go_through_a_packed_model() -> None:
    given = transformer("LlamaForCausalLM")
    parts, tokens = PartialPasses(packed(given)), drawn(1, 9)
    cache = parts.cache()
    states = parts.run(0, 1, tokens, Place(0), cache)
    logits = parts.run(1, 3, tokens, Place(0), cache, states=states)
    torch.testing.assert_close(logits, given.model(tokens).logits, rtol=1e-3, atol=1e-2)


class _Apart(LlamaMLP):  # type: ignore[misc]
    """Maps that get equal states, but not the same ones."""

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x.clone()))


class _InPlace(LlamaMLP):  # type: ignore[misc]
    """Maps that get the same tensor, which changes in between."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        gate = self.act_fn(self.gate_proj(x))
        return self.down_proj(gate * self.up_proj(x.mul_(-2)))


@pytest.mark.parametrize("kind", [_Apart, _InPlace])
@torch.inference_mode()
def test_maps_are_multiplied_at_once_only_where_that_gives_the_same(
    kind: type, products: list[tuple[int, ...]]
) -> None:
    given = transformer("LlamaForCausalLM")
    for block in given.blocks:
        block.mlp.__class__ = kind
    view, tokens = packed(given), drawn(1, 6)
    products.clear()
    torch.testing.assert_close(view.model(tokens).logits, given.model(tokens).logits, rtol=1e-3, atol=1e-3)
    assert len(products) == 3 * (5 if kind is _Apart else 7) + 1


@torch.inference_mode()
def test_maps_that_share_a_product_can_be_called_in_any_order_and_again() -> None:
    given = transformer("OPTForCausalLM")
    view, states = packed(given), torch.randn(2, 3, 32)
    ours, theirs = view.blocks[0].self_attn, given.blocks[0].self_attn
    for name in ("v_proj", "q_proj", "q_proj", "k_proj", "v_proj", "v_proj"):
        expected = getattr(theirs, name)(states)
        torch.testing.assert_close(getattr(ours, name)(states), expected, rtol=1e-4, atol=1e-5)
    theirs.k_proj.bias.add_(1)
    states = states.clone()
    torch.testing.assert_close(ours.q_proj(states), theirs.q_proj(states), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.k_proj(states), theirs.k_proj(states), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_threads_keep_their_own_products(products: list[tuple[int, ...]]) -> None:
    given = transformer("LlamaForCausalLM")
    view = packed(given)
    attention = view.blocks[0].self_attn
    states = torch.randn(1, 3, 32)
    products.clear()
    attention.q_proj(states)

    def other() -> Tensor:
        with torch.inference_mode():
            found: Tensor = attention.k_proj(-states)
            return found

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(other).result()
    expected = given.blocks[0].self_attn.k_proj(states)
    torch.testing.assert_close(found, -expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention.k_proj(states), expected, rtol=1e-4, atol=1e-5)
    assert len(products) == 2, "one in each thread"


def test_a_view_leaves_no_hooks_and_keeps_no_states() -> None:
    given = transformer("LlamaForCausalLM")
    view = packed(given)
    with torch.inference_mode():
        view.model(drawn(1, 6))
    assert not any(module._forward_pre_hooks for module in given.model.modules())
    assert not any(one._group._kept for one in packing.packed_maps(view.model))


class Clock:
    """A clock that is told how long products take: an hour by packed weights of few rows, none otherwise."""

    def __init__(self, products: list[tuple[int, ...]], slow: int) -> None:
        self._products, self._slow = products, slow

    def __call__(self) -> float:
        return sum(3600.0 if shape[0] <= self._slow else -3600.0 for shape in self._products)


@pytest.mark.parametrize(("slow", "expected"), [(0, 0), (1, 1), (3, 3), (8, 8), (9, 8)])
def test_products_that_are_slower_packed_stay_unpacked(
    slow: int, expected: int, products: list[tuple[int, ...]]
) -> None:
    view = packed(transformer("LlamaForCausalLM"))
    assert packing.rows_faster_unpacked(packing.packed_maps(view.model), Clock(products, slow)) == expected


def test_what_is_faster_unpacked_is_measured_unless_given() -> None:
    view = packing.packed(transformer("LlamaForCausalLM"))
    rows = {one._unpacked_rows for one in packing.packed_maps(view.model)}
    assert len(rows) == 1
    assert rows <= set(range(9))
