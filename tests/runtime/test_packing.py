"""Packed weights give the model's own numbers, notice when the model changes, and leave it as it is."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from families import VOCABULARY, families
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from onejump.models.passes import PartialPasses
from onejump.models.row_cache import Place
from onejump.models.transformer import Transformer
from onejump.runtime import compiled_blocks, packing
from onejump.runtime.packing import packed, packed_bytes

FAMILIES = ("GPT2LMHeadModel", "LlamaForCausalLM", "Gemma2ForCausalLM", "OPTForCausalLM", "BertForMaskedLM")
bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no products in bfloat16"
)


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
    product = packing._product

    def recorded(states: Tensor, *others: Any) -> Tensor:
        seen.append(tuple(states.shape))
        return product(states, *others)

    monkeypatch.setattr(packing, "_product", recorded)
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
        maps = len(packing.packed_maps(view.model))
        assert len(products) == (maps if rows * length > unpacked_rows else 0)


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
    assert len(products) < len(packing.packed_maps(view.model))


@bfloat16
@torch.inference_mode()
def test_bfloat16_is_packed(products: list[tuple[int, ...]]) -> None:
    given = transformer("LlamaForCausalLM", torch.bfloat16)
    view, tokens = packed(given), drawn(1, 1)
    products.clear()
    torch.testing.assert_close(view.model(tokens).logits, given.model(tokens).logits, rtol=0.1, atol=0.5)
    assert len(products) == 3 * 7 + 1, "one row too: reading half the bytes is what counts"


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


class _Numbered(LlamaDecoderLayer):  # type: ignore[misc]
    """A block that does something else in every place."""

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return super().forward(*arguments, **named) * (1 + self.layer_idx)


class Counted:
    """A compiler that counts what it compiles, and compiles nothing."""

    def __init__(self) -> None:
        self.codes = self.runs = 0

    def __call__(self, graph: Any, _: Any) -> Any:
        self.codes += 1

        def run(*arguments: Any) -> Any:
            self.runs += 1
            return graph(*arguments)

        return run


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counter = Counted()
    monkeypatch.setattr(compiled_blocks, "_BACKEND", counter)
    monkeypatch.setattr(compiled_blocks, "_compiler_found", lambda: True)
    return counter


@pytest.mark.parametrize(("name", "kinds"), [("LlamaForCausalLM", 1), ("Gemma2ForCausalLM", 2)])
@torch.inference_mode()
def test_blocks_of_a_kind_share_compiled_code(name: str, kinds: int, counted: Counted) -> None:
    given = transformer(name)
    view, plain = PartialPasses(packed(given, compiled=True)), PartialPasses(given)
    counted.codes = counted.runs = 0
    tokens, caches = drawn(1, 30), (view.cache(), plain.cache())
    at, shares = 0, []
    for width in (5, 1, 1, 3, 1, 4, 1, 8):
        part, place = tokens[:, at : at + width], Place(at)
        found, expected = (
            of.run(0, 3, part, place, cache) for of, cache in zip((view, plain), caches, strict=True)
        )
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
        at += width
        shares.append(counted.runs)
    assert counted.codes <= 2 * kinds, "one for single tokens and one for several, for each kind of block"
    assert shares[0] <= 3, "the prompt begins with an empty cache"
    assert shares[-1] >= 7 * 3
    for ours, theirs in zip(caches[0].layers, caches[1].layers, strict=True):
        torch.testing.assert_close(ours.keys[:, :, :at], theirs.keys[:, :, :at], rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_compiled_blocks_generate_what_the_model_does(counted: Counted) -> None:
    given = transformer("LlamaForCausalLM")
    view = packed(given, compiled=True)
    how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    for length in (1, 4):
        prompt = drawn(1, length)
        assert torch.equal(view.model.generate(prompt, **how), given.model.generate(prompt, **how))
    assert counted.runs > 3 * 10


@torch.inference_mode()
def test_hooks_on_a_compiled_block_are_called(counted: Counted) -> None:
    view = packed(transformer("LlamaForCausalLM"), compiled=True)
    tokens = drawn(1, 4)
    states = view.states(tokens, torch.zeros(4, dtype=torch.long), torch.arange(4))
    assert states.shape == (4, 4, 32)


@torch.inference_mode()
def test_a_model_whose_blocks_need_their_number_is_not_compiled(
    counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    given = transformer("LlamaForCausalLM")
    for block in given.blocks:
        block.__class__ = _Numbered
        block.layer_idx = block.self_attn.layer_idx
    view, tokens = packed(given, compiled=True), drawn(1, 6)
    assert len(caplog.messages) == 1
    assert "it is not compiled" in caplog.messages[0]
    torch.testing.assert_close(view.model(tokens).logits, given.model(tokens).logits, rtol=1e-3, atol=1e-2)
    assert counted.codes == 0


@torch.inference_mode()
def test_without_a_compiler_the_packed_model_is_given_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    given = transformer("LlamaForCausalLM")
    view = packed(given, compiled=True)
    assert packing.packed_maps(view.model)
    assert len(caplog.messages) == 1
    assert "no C++ compiler" in caplog.messages[0]


@torch.inference_mode()
def test_a_compiler_that_fails_is_given_up_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(compiled_blocks, "_BACKEND", broken)
    monkeypatch.setattr(compiled_blocks, "_compiler_found", lambda: True)
    given = transformer("LlamaForCausalLM")
    view = packed(given, compiled=True)
    prompt, how = drawn(1, 4), {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    assert torch.equal(view.model.generate(prompt, **how), given.model.generate(prompt, **how))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("onejump.")]
    assert len(said) == 1
    assert "out of order" in said[0]
