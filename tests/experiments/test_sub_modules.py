"""Replaced parts against whole models whose modules are swapped, one sentence at a time, without padding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from accelerate import dispatch_model
from stage_files import describe_as
from torch import nn

from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.base.errors import ActivationError, ModelError, OneJumpError
from onejump.base.files import read_table, write_table
from onejump.data.shard_writer import StoreOptions
from onejump.data.store import ActivationStore
from onejump.experiments.sub_module_activations import extract, extract_part
from onejump.experiments.sub_module_maps import fit_part
from onejump.experiments.sub_modules import evaluate_part, evaluate_parts
from onejump.models.activations import ActivationOptions
from onejump.models.anatomy import PARTS, find_parts
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.parts import Part, check_parts
from onejump.models.prompts import Prompt, make_prompts, pad, sample_positions
from onejump.models.resumable_pass import ResumablePass
from onejump.models.source_files import model_digest
from onejump.models.transformer import Transformer
from onejump.shortcuts.files import ShortcutFolder, save_shortcuts
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "initializer_range": 0.15,
}
WIDE: dict[str, Any] = SIZES | {"intermediate_size": 64}
GROUPED: dict[str, Any] = WIDE | {"num_key_value_heads": 2}
GPT2: dict[str, Any] = {"n_layer": 3, "n_embd": 32, "n_head": 4, "vocab_size": 97, "n_positions": 64}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2Config(**GPT2, initializer_range=0.15),
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "gemma2": lambda: hf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=4),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**WIDE),
    # Its feed-forward network gives back its router's scores too.
    "gpt-oss": lambda: hf.GptOssConfig(**GROUPED, head_dim=8, num_local_experts=4, pad_token_id=0),
}
NAMES: dict[str, dict[str, list[str]]] = {
    "gpt2": {"attention": ["attn"], "feed-forward": ["mlp"], "norms": ["ln_1", "ln_2"]},
    "gpt-neox": {
        "attention": ["attention"],
        "feed-forward": ["mlp"],
        "norms": ["input_layernorm", "post_attention_layernorm"],
    },
    "gemma2": {
        "attention": ["self_attn"],
        "feed-forward": ["mlp"],
        "norms": [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ],
    },
}
LLAMA_NAMES = {
    "attention": ["self_attn"],
    "feed-forward": ["mlp"],
    "norms": ["input_layernorm", "post_attention_layernorm"],
}
EXACT = StoreOptions(keepbits=None, chunk_samples=16)
OPTIONS = ActivationOptions(store=EXACT)
COMPUTE: dict[str, Any] = {"device": "cpu", "device_map": None, "batch_tokens": 64}


def tiny(family: str) -> Any:
    """A random model whose norms and biases are not trivial."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name or "bias" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def blocks_of(model: Any) -> nn.ModuleList:
    body = model.base_model
    return body.h if hasattr(body, "h") else body.layers


def names_of(family: str, part: str) -> list[str]:
    return NAMES.get(family, LLAMA_NAMES)[part]


def some_prompts(sentences: int = 7, seed: int = 0) -> list[Prompt]:
    """Prompts of 12 tokens down to a single one, with one or two positions each."""
    generator = np.random.default_rng(seed)
    prompts = []
    for i in range(sentences):
        length = max(1, 12 - 2 * i)
        tokens = generator.integers(1, 97, size=length).tolist()
        prompts.append(Prompt(i, tokens, np.unique([length // 2, length - 1])))
    return prompts


def random_maps(count: int, hidden: int = 32, seed: int = 1) -> list[JTC]:
    generator = torch.Generator().manual_seed(seed)
    return [JTC(torch.randn(hidden, hidden, generator=generator) / hidden**0.5) for _ in range(count)]


class Swapped(nn.Module):
    """A linear map in the place of a module."""

    def __init__(self, matrix: torch.Tensor, kind: str) -> None:
        super().__init__()
        self.matrix, self.kind = matrix, kind

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        mapped = torch.einsum("...i,ij->...j", hidden_states, self.matrix)
        return (mapped, None) if self.kind == "tuple" else mapped


def swap(model: Any, family: str, part: str, maps: list[JTC], level: int) -> Any:
    """A copy of a model with other modules in its blocks from `level` on."""
    model = copy.deepcopy(model)
    names = names_of(family, part)
    kind = "tuple" if part == "attention" or (family, part) == ("gpt-oss", "feed-forward") else "tensor"
    for number, block in enumerate(blocks_of(model)):
        for i, name in enumerate(names):
            if number >= level:
                setattr(block, name, Swapped(maps[number * len(names) + i].matrix, kind))
    return model


def metrics_by_hand(p_logits: torch.Tensor, q_logits: torch.Tensor) -> dict[str, float]:
    """Of one sample, in float64."""
    p, q = p_logits.double().softmax(-1).numpy(), q_logits.double().softmax(-1).numpy()
    order = np.argsort(-p)
    found = {f"precision@{k}": float(q.argmax() in order[:k]) for k in (1, 5)}
    return found | {"surprisal": -np.log(q[order[0]]), "kl": float((p * np.log(p / q)).sum())}


@pytest.mark.parametrize("family", CONFIGS)
def test_parts_are_found(family: str) -> None:
    transformer = Transformer(tiny(family))
    check_parts(transformer)
    for part in PARTS:
        modules = transformer.parts(part)
        expected = [
            [getattr(block, name) for name in names_of(family, part)]
            for block in blocks_of(transformer.model)
        ]
        assert [[id(m) for m in of_block] for of_block in modules] == [[id(m) for m in e] for e in expected]
        assert [id(m) for m in Part(transformer, part).modules] == [id(m) for e in expected for m in e]


def test_a_feed_forward_network_that_is_no_module_is_named() -> None:
    config = hf.OPTConfig(**SIZES | {"init_std": 0.1}, ffn_dim=64, word_embed_proj_dim=32)
    transformer = Transformer(hf.AutoModelForCausalLM.from_config(config))
    for part in PARTS:
        with pytest.raises(
            ModelError, match=r"OPTDecoderLayer: its feed-forward was not found: looked for one of mlp,.* fc1"
        ):
            transformer.parts(part)


def test_blocks_of_an_encoder_are_refused() -> None:
    block = hf.BertModel(hf.BertConfig(**WIDE)).encoder.layer[0]
    with pytest.raises(ModelError, match=r"BertLayer: its feed-forward was not found.*intermediate, output"):
        find_parts(block)


def test_a_model_that_is_not_causal_is_refused() -> None:
    transformer = Transformer(hf.BertForMaskedLM(hf.BertConfig(**WIDE)))
    with pytest.raises(ModelError, match="BertForMaskedLM: parts of a causal model were expected"):
        check_parts(transformer)


def test_blocks_without_norms_are_refused() -> None:
    model = tiny("llama")
    block = model.model.layers[1]
    del block.input_layernorm, block.post_attention_layernorm
    with pytest.raises(ModelError, match=r"norms were not found: .*'norm'.*self_attn, mlp"):
        find_parts(block)


def test_blocks_that_differ_are_refused() -> None:
    transformer = Transformer(tiny("llama"))
    transformer.blocks[1].third_norm = nn.LayerNorm(32)
    with pytest.raises(ModelError, match="equally many norms were expected, they have 2 or 3"):
        transformer.parts("norms")


def test_a_part_that_adds_the_residual_itself_is_refused() -> None:
    torch.manual_seed(0)
    config = hf.BloomConfig(n_layer=3, hidden_size=32, n_head=4, vocab_size=97)
    transformer = Transformer(hf.AutoModelForCausalLM.from_config(config))
    with pytest.raises(ModelError, match=r"BloomForCausalLM: .* do not pass their input on"):
        check_parts(transformer)


def test_a_part_that_changes_the_width_is_refused() -> None:
    transformer = Transformer(tiny("llama"))
    transformer.blocks[1].self_attn.forward = lambda hidden_states, **_: (hidden_states[..., :1], None)
    with pytest.raises(ModelError, match=r"attention of block 1: .* maps \(1, 8, 32\) to \(1, 8, 1\)"):
        Part(transformer, "attention")


def test_a_part_that_is_not_used_is_refused() -> None:
    transformer = Transformer(tiny("gpt2"))
    for block in transformer.blocks:
        block.ln_cross_attn = nn.LayerNorm(32)
    with pytest.raises(ModelError, match="norms 2 of block 0 was found, but the model runs without it"):
        Part(transformer, "norms")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt-neox"])
def test_a_shard_holds_what_goes_in_and_what_comes_out(family: str, part: str, tmp_path: Path) -> None:
    model = tiny(family)
    transformer = Transformer(model)
    prompts = some_prompts()
    options: dict[str, Any] = {"batch_tokens": 30, "store": EXACT, "attributes": {"part": part}}
    extract(Part(transformer, part), transformer, prompts, tmp_path / "s.zarr", **options)
    store = ActivationStore([tmp_path / "s.zarr"])
    modules = [getattr(b, name) for b in blocks_of(model) for name in names_of(family, part)]
    assert (store.levels, store.hidden) == (2 * len(modules), 32)
    states = store.shard(0)
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def remember(k: int) -> Callable[..., None]:
        def hook(_: Any, arguments: Any, named: Any, out: Any) -> None:
            received = arguments[0] if arguments else named["hidden_states"]
            seen[k] = received[0], (out[0] if isinstance(out, tuple) else out)[0]

        return hook

    for k, module in enumerate(modules):
        module.register_forward_hook(remember(k), with_kwargs=True)
    column = 0
    for prompt in prompts:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt.tokens])).logits[0]
        for position in prompt.positions:
            for k in range(len(modules)):
                received, returned = (side[position].numpy() for side in seen[k])
                np.testing.assert_allclose(states[k, column], received, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(states[len(modules) + k, column], returned, rtol=1e-4, atol=1e-5)
            assert store.of_samples("sentence")[column] == prompt.sentence
            assert store.of_samples("position")[column] == position
            assert store.of_samples("token")[column] == prompt.tokens[position]
            assert store.of_samples("top_tokens")[column] == logits[position].argmax()
            total = logits[position].double().logsumexp(-1)
            assert store.of_samples("logsumexp")[column] == pytest.approx(float(total), rel=1e-4)
            column += 1
    assert column == store.samples


@pytest.mark.parametrize("beyond", [1e6, float("nan")])
def test_values_that_the_store_cannot_hold_are_refused(
    beyond: float, tmp_path: Path, only: Callable[[Path], list[str]]
) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.mul_(beyond)
    transformer = Transformer(tiny("llama"))
    transformer.blocks[2].mlp = model.model.layers[2].mlp
    part = Part(transformer, "feed-forward")
    with pytest.raises(ActivationError, match="in the output of feed-forward of block 2 is not finite, or"):
        extract(part, transformer, some_prompts(), tmp_path / "s.zarr", store=replace(EXACT, dtype="float16"))
    assert only(tmp_path) == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_replaced_part_is_that_of_a_swapped_model(family: str, part: str) -> None:
    model = tiny(family)
    transformer = Transformer(model)
    replaceable, prompts = Part(transformer, part), some_prompts()
    maps = random_maps(len(replaceable.modules))
    table = evaluate_part(
        replaceable, maps, transformer, prompts, [0, 2], precision_at=(1, 5), batch_tokens=40
    )  # batches of sequences of several lengths
    assert set(table["part"]) == {part}
    for level in (0, 2):
        swapped = swap(model, family, part, maps, level)
        by_hand = []
        for prompt in prompts:
            with torch.inference_mode():
                theirs, ours = (m(torch.tensor([prompt.tokens])).logits[0] for m in (model, swapped))
            by_hand += [metrics_by_hand(theirs[i], ours[i]) for i in prompt.positions]
        expected = pd.DataFrame(by_hand)
        sentences = np.repeat([prompt.sentence for prompt in prompts], [len(p.positions) for p in prompts])
        found = table[table["level"] == level].set_index("metric")
        assert (found["n"] == len(by_hand)).all()
        assert found["value"]["overflow"] == 0
        for metric in expected:
            assert found["value"][metric] == pytest.approx(expected[metric].mean(), rel=1e-3)
            # Positions of one sentence are not independent.
            apart = (expected[metric] - expected[metric].mean()).groupby(sentences).sum()
            variance = np.square(apart).sum() * len(prompts) / (len(prompts) - 1)
            assert found["stderr"][metric] == pytest.approx(np.sqrt(variance) / len(by_hand), rel=2e-3)
        assert expected["surprisal"].mean() > 0.5  # the swap does matter


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_part_that_is_linear_loses_nothing(family: str, part: str, tmp_path: Path) -> None:
    model = tiny(family)
    transformer = Transformer(swap(model, family, part, random_maps(3 * len(names_of(family, part))), 0))
    of_model = Part(transformer, part)
    generator = np.random.default_rng(2)
    prompts = [Prompt(i, generator.integers(1, 97, size=5).tolist(), np.arange(5)) for i in range(40)]
    extract(of_model, transformer, prompts, tmp_path / "s.zarr", store=EXACT)
    fit_part(tmp_path / "maps", [tmp_path / "s.zarr"], part=part, device="cpu")
    folder = ShortcutFolder(tmp_path / "maps")
    maps = [folder.load(module) for module in range(len(of_model.modules))]
    if part != "norms":  # of the first norm's inputs, whole directions may not occur
        for shortcut, module in zip(maps, of_model.modules, strict=True):
            torch.testing.assert_close(shortcut.matrix, module.matrix, rtol=1e-2, atol=1e-2)
    table = evaluate_part(of_model, maps, transformer, some_prompts(), [0, 1, 2], precision_at=(1,))
    for level in range(3):
        found = table[table["level"] == level].set_index("metric")["value"]
        assert found["precision@1"] == 1
        assert found["kl"] == pytest.approx(0, abs=1e-5)


def test_maps_are_least_squares_without_intercept(tmp_path: Path) -> None:
    transformer = Transformer(tiny("llama"))
    generator = np.random.default_rng(2)
    prompts = [Prompt(i, generator.integers(1, 97, size=6).tolist(), np.arange(6)) for i in range(30)]
    norms = Part(transformer, "norms")
    shards = [tmp_path / "0.zarr", tmp_path / "1.zarr"]
    for shard, some in zip(shards, (prompts[:20], prompts[20:]), strict=True):
        extract(norms, transformer, some, shard, store=EXACT)
    fit_part(tmp_path / "norms", shards, part="norms", device="cpu")
    store, folder = ActivationStore(shards), ShortcutFolder(tmp_path / "norms")
    assert len(folder) == 6
    for module in range(6):
        inputs, outputs = (store.level(level).astype(np.float64) for level in (module, 6 + module))
        expected, *_ = np.linalg.lstsq(inputs, outputs, rcond=None)
        np.testing.assert_allclose(inputs @ folder.load(module).matrix.numpy(), inputs @ expected, atol=1e-4)


def test_padding_and_batches_do_not_matter() -> None:
    transformer = Transformer(tiny("llama"))
    for name in PARTS:
        part = Part(transformer, name)
        maps = random_maps(len(part.modules))
        alone, together = (
            evaluate_part(part, maps, transformer, some_prompts(), [0, 1, 2], batch_tokens=size)
            for size in (1, 10000)
        )
        pd.testing.assert_frame_equal(alone, together, rtol=1e-4)


def test_many_small_parts_of_a_batch_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = Transformer(tiny("gpt2"))
    part = Part(transformer, "feed-forward")
    maps = random_maps(3)
    whole = evaluate_part(part, maps, transformer, some_prompts(), [0, 1])
    monkeypatch.setitem(LOGITS_TOGETHER, "cpu", 200)  # two samples at a time
    pd.testing.assert_frame_equal(
        evaluate_part(part, maps, transformer, some_prompts(), [0, 1]), whole, rtol=1e-5
    )


def test_what_is_replaced_comes_back() -> None:
    transformer = Transformer(tiny("llama"))
    part = Part(transformer, "attention")
    run = ResumablePass(transformer, torch.tensor([[1, 2, 3]]), [1])
    with part.replaced(random_maps(3)):
        assert "forward" in part.modules[0].__dict__
        assert not torch.allclose(run.finish(1, run.states[1]), run.last)
    torch.testing.assert_close(run.finish(1, run.states[1]), run.last)
    for module in transformer.model.modules():
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    with pytest.raises(ValueError, match="zip"), part.replaced(random_maps(2)):
        pass
    with pytest.raises(ZeroDivisionError), part.replaced(random_maps(3)):
        1 / 0  # noqa: B018
    assert all("forward" not in module.__dict__ for module in part.modules)


def test_a_pass_keeps_the_levels_that_it_is_asked_for() -> None:
    transformer = Transformer(tiny("gpt2"))
    tokens, every = torch.tensor([[5, 6, 7, 8]]), torch.arange(4)
    run = ResumablePass(transformer, tokens, [0, 2])
    states = transformer.states(tokens, torch.zeros_like(every), every)
    assert list(run.states) == [0, 2]
    for level in (0, 2):
        torch.testing.assert_close(run.states[level][0], states[level])
        torch.testing.assert_close(run.finish(level, run.states[level])[0], states[3])
    torch.testing.assert_close(run.last[0], states[3])


class Overflowing(Identity):
    """Beyond what float32 can square, where the first coordinate is positive."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.where(states[..., :1] > 0, 1e25, 0.0) * torch.ones_like(states)


def test_samples_that_overflow_are_missed_and_leave_no_surprisal() -> None:
    transformer = Transformer(tiny("llama"))
    part, prompts = Part(transformer, "feed-forward"), some_prompts()
    states, _ = part.read(*pad(prompts))
    share = float((states[2, :, 0] > 0).float().mean())
    assert 0 < share < 1
    maps = [Identity(), Identity(), Overflowing()]
    table = evaluate_part(part, maps, transformer, prompts, [2], precision_at=(97,))
    found = table.set_index("metric")["value"]
    assert found["overflow"] == pytest.approx(share)
    assert found["precision@97"] == pytest.approx(1 - share)  # of 97 tokens, any is right
    assert np.isnan(found["surprisal"])
    assert np.isnan(found["kl"])


def test_half_precision_and_spread_models(tmp_path: Path) -> None:
    whole = Transformer(tiny("llama"))
    places = {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.rotary_emb": "cpu"}
    places |= dict.fromkeys(("model.layers.1", "model.layers.2", "model.norm", "lm_head"), "disk")
    elsewhere = str(tmp_path / "elsewhere")
    spread = Transformer(dispatch_model(tiny("llama"), places, main_device="cpu", offload_dir=elsewhere))
    half = Transformer(tiny("llama").to(torch.bfloat16))
    check_parts(spread)
    check_parts(half)
    for name in PARTS:
        maps = random_maps(6 if name == "norms" else 3)
        tables = [
            evaluate_part(Part(t, name), maps, t, some_prompts(), [0, 2]) for t in (whole, spread, half)
        ]
        pd.testing.assert_frame_equal(tables[1], tables[0])
        surprisal = [table[table["metric"] == "surprisal"]["value"].to_numpy() for table in tables]
        np.testing.assert_allclose(surprisal[2], surprisal[0], rtol=0.2)
        every = torch.arange(4)
        arguments = every[None] + 1, torch.zeros_like(every), every
        torch.testing.assert_close(spread.states(*arguments), whole.states(*arguments), rtol=0, atol=0)


@pytest.fixture
def study(tiny_model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What the stages are given: a described model and a corpus of 60 and 25 sentences."""
    from tiny_models import documents

    sentences = [sentence for document in documents(17) for sentence in document]
    table = pd.DataFrame({"sentence": sentences, "sentence_id": range(100, 185)})
    table["document"] = [f"d{i // 5}" for i in range(85)]
    table["split"] = ["training"] * 60 + ["validation"] * 25
    write_table(tmp_path / "corpus.parquet", table)
    digest = model_digest(tiny_model_folder)
    describe_as(tmp_path / "model.json", source=str(tiny_model_folder), model_digest=digest)
    given = {"description": tmp_path / "model.json", "sentences": tmp_path / "corpus.parquet"}
    return {**given, "seed": 3, "options": OPTIONS, **COMPUTE}


def test_the_stages(study: dict[str, Any], tiny_model_folder: Path, tmp_path: Path) -> None:
    maps = {}
    for part in PARTS:
        shards = [tmp_path / f"{part}-{shard}.zarr" for shard in range(2)]
        for shard, path in enumerate(shards):
            extract_part(path, shard=shard, shards=2, part=part, **study)
        store = ActivationStore(shards)
        assert sorted(store.of_samples("sentence").tolist()) == list(range(100, 160))
        maps[part] = tmp_path / part
        fit_part(maps[part], shards, part=part, device="cpu")
    named: dict[str, Any] = {"model": "tiny", "corpus": "stories", "precision_at": [1, 5]}
    output = tmp_path / "out.parquet"
    evaluate_parts(output, list(maps.values()), parts=list(maps), step=3, samples=9, **named, **study)
    table = read_table(tmp_path / "out.parquet")
    assert list(table) == ["model", "corpus", "part", "level", "metric", "value", "stderr", "n", "documents"]
    assert set(zip(table["model"], table["corpus"], strict=True)) == {("tiny", "stories")}
    assert set(table["metric"]) == {"precision@1", "precision@5", "surprisal", "kl", "overflow"}
    assert set(zip(table["part"], table["level"], strict=True)) == {(p, k) for p in PARTS for k in (0, 3)}
    assert len(table) == 3 * 2 * 5
    assert (table["n"] == 9).all()
    assert (table["documents"] < 9).all()

    # The same samples as those of the stage "activations", every third sentence of the validation split.
    chosen = read_table(study["sentences"]).iloc[60:85:3]
    tokenizer = load_tokenizer(str(tiny_model_folder))
    prompts = make_prompts(chosen, tokenizer, seed=3)
    for prompt in prompts:
        whole = tokenizer(chosen.set_index("sentence_id")["sentence"][prompt.sentence])["input_ids"]
        assert prompt.positions == sample_positions(len(whole), prompt.sentence, seed=3)
    transformer = load_model(str(tiny_model_folder), device="cpu")
    for part, path in maps.items():
        of_model, folder = Part(transformer, part), ShortcutFolder(path)
        fitted = [folder.load(module) for module in range(len(folder))]
        of_sentences = dict(zip(chosen["sentence_id"], chosen["document"], strict=True))
        again = evaluate_part(
            of_model, fitted, transformer, prompts, [0, 3], documents=of_sentences, precision_at=[1, 5]
        )
        found = table[table["part"] == part].drop(columns=["model", "corpus"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(found, again, rtol=1e-4)


def test_the_weights_may_lie_elsewhere(
    study: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    digest = model_digest(tiny_model_folder)
    describe_as(study["description"], source="a-name-on-the-hub", model_digest=digest)
    shard: dict[str, Any] = {"shard": 0, "shards": 6, "part": "attention"}
    extract_part(tmp_path / "s.zarr", weights=tiny_model_folder, **shard, **study)
    assert ActivationStore([tmp_path / "s.zarr"], complete=False).samples == 10


def test_maps_of_another_model_are_refused(study: dict[str, Any], tmp_path: Path) -> None:
    save_shortcuts(tmp_path / "maps", random_maps(3), {}, levels=3, one=False)
    named: dict[str, Any] = {"model": "tiny", "corpus": "stories", "precision_at": [1]}
    with pytest.raises(OneJumpError, match="a map for each of 4 modules was expected, 3 found"):
        evaluate_parts(tmp_path / "out.parquet", [tmp_path / "maps"], parts=["attention"], **named, **study)
