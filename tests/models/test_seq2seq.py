"""Encoder-decoders: states and logits against the model's own, samples against a plain loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from families import disturb
from stage_files import describe_as
from tiny_models import documents, word_tokenizer

from onejump.base.errors import CorpusError, ModelError
from onejump.base.files import write_table
from onejump.data.store import ActivationStore
from onejump.models.activations import ActivationOptions, extract_shard
from onejump.models.description import read_description
from onejump.models.flops import block_flops
from onejump.models.head import Head
from onejump.models.loading import load_model, sizes_from_configuration
from onejump.models.model_stage import describe
from onejump.models.pairs import Pairs, decoder_inputs
from onejump.models.prompts import batches, pad, pair_prompts
from onejump.models.transformer import Transformer

VOCABULARY, BLOCKS = 200, 3
TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 1}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": BLOCKS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": BLOCKS, "num_heads": 4}
LED = {"attention_window": 4, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "MarianMTModel": BART,
    "BartForConditionalGeneration": BART,
    "MBartForConditionalGeneration": BART,
    "PegasusForConditionalGeneration": BART,
    "M2M100ForConditionalGeneration": BART,
    "LEDForConditionalGeneration": BART | LED,
    "T5ForConditionalGeneration": T5,
    "MT5ForConditionalGeneration": T5,
    "UMT5ForConditionalGeneration": T5,
}
WITHOUT_NORM = ("MarianMTModel", "BartForConditionalGeneration", "LEDForConditionalGeneration")


def build(name: str, seed: int = 1, **more: Any) -> Any:
    model_class = getattr(hf, name)
    torch.manual_seed(seed)
    config = model_class.config_class(**FAMILIES[name], **TOKENS, vocab_size=VOCABULARY, **more)
    model = model_class(config).eval()
    disturb(model, seed)
    for key, buffer in model.named_buffers():
        if key == "final_logits_bias":
            buffer.normal_(std=3.0)
    return model


def some_pairs() -> Pairs:
    drawn = torch.Generator().manual_seed(0)
    source = torch.randint(5, VOCABULARY, (2, 9), generator=drawn)
    source[1, 6:] = TOKENS["pad_token_id"]
    return Pairs(source, torch.randint(5, VOCABULARY, (2, 7), generator=drawn))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_states_and_logits_are_the_models_own(name: str, tied: bool) -> None:
    model = build(name, tie_word_embeddings=tied)
    transformer = Transformer(model)
    pairs = some_pairs()
    rows, positions = torch.arange(2).repeat_interleave(7), torch.arange(7).repeat(2)
    states = transformer.states(pairs, rows, positions)
    with torch.inference_mode():
        mask = (pairs.source != 1).long()
        own = model(pairs.source, mask, decoder_input_ids=pairs.target, output_hidden_states=True)
    hidden = [level.flatten(0, 1) for level in own.decoder_hidden_states]
    assert len(hidden) == len(states) == BLOCKS + 1
    for ours, theirs in zip(states[:-1], hidden[:-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    logits = transformer.head.logits(states[-1])
    spread = float(own.logits.std())
    assert float((logits - own.logits.flatten(0, 1)).abs().max()) < 1e-4 * spread
    assert (transformer.task, transformer.causal) == ("seq2seq", False)
    assert (transformer.head.config.norm is None) == (name in WITHOUT_NORM)


@pytest.mark.parametrize(
    ("name", "matrices"),
    [
        # Attention, the source's query and output, and the feed-forward network.
        ("MarianMTModel", 4 * 32 * 32 + 2 * 32 * 32 + 2 * 32 * 48),
        ("T5ForConditionalGeneration", 4 * 32 * 32 + 2 * 32 * 32 + 2 * 32 * 48),
    ],
)
def test_flops_of_a_block_leave_out_keys_and_values_of_the_source(name: str, matrices: int) -> None:
    last = block_flops(Transformer(build(name)))[-1]
    assert (last.token, last.attended) == (2 * matrices, 2 * 4 * 16)


def test_tied_weights_of_t5_are_scaled_by_the_width() -> None:
    assert Transformer(build("T5ForConditionalGeneration")).head.config.scale == 32**-0.5
    assert Transformer(build("MT5ForConditionalGeneration", tie_word_embeddings=False)).head.config.scale == 1


def test_a_bias_of_the_logits_is_found() -> None:
    model = build("MarianMTModel")
    found = Transformer(model).head.logit_bias
    assert found is not None
    torch.testing.assert_close(found, model.final_logits_bias[0])


@pytest.mark.parametrize("name", ["MarianMTModel", "T5ForConditionalGeneration"])
def test_states_do_not_depend_on_the_other_pairs_of_a_batch(name: str) -> None:
    transformer = Transformer(build(name))
    pairs = some_pairs()
    together = transformer.states(pairs, torch.tensor([1]), torch.tensor([3]))
    alone = Pairs(pairs.source[1:, :6], pairs.target[1:, :4])
    torch.testing.assert_close(
        together, transformer.states(alone, torch.tensor([0]), torch.tensor([3])), rtol=1e-4, atol=1e-4
    )


def test_a_decoder_that_sees_later_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("MarianMTModel")
    decoder = type(model.model.decoder)
    original = decoder.forward

    def sees_all(self: Any, input_ids: Any = None, inputs_embeds: Any = None, **named: Any) -> Any:
        embeds = self.embed_tokens(input_ids)
        return original(self, inputs_embeds=embeds + embeds.mean(1, keepdim=True), **named)

    monkeypatch.setattr(decoder, "forward", sees_all)
    with pytest.raises(ModelError, match="the state of a token depends on the tokens behind it"):
        Transformer(model)


def test_texts_and_pairs_are_not_confused() -> None:
    transformer = Transformer(build("T5ForConditionalGeneration"))
    with pytest.raises(ModelError, match="texts given, an encoder-decoder takes pairs of source and target"):
        transformer.run(torch.tensor([[5, 6]]))
    causal = Transformer(hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50)))
    with pytest.raises(ModelError, match="pairs given, a causal language model takes texts"):
        causal.run(Pairs(torch.tensor([[5, 6]]), torch.tensor([[5, 6]])))


@pytest.mark.parametrize("name", ["MarianMTModel", "MBartForConditionalGeneration"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(name: str, dtype: torch.dtype) -> None:
    model = build(name).to(dtype)
    transformer = Transformer(model)
    pairs = some_pairs()
    states = transformer.states(pairs, torch.tensor([0, 1]), torch.tensor([4, 2]))
    assert states.dtype == dtype
    with torch.inference_mode():
        own = model(pairs.source, (pairs.source != 1).long(), decoder_input_ids=pairs.target).logits
    off = (transformer.head.logits(states[-1]) - own[[0, 1], [4, 2]].float()).abs().max()
    assert off < {torch.float16: 0.03, torch.bfloat16: 0.1}[dtype] * own.float().std()


SPECIAL = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Marian with a word tokenizer, its description, and a corpus of pairs."""
    folder = tmp_path_factory.mktemp("seq2seq")
    build("MarianMTModel").save_pretrained(folder / "marian")
    word_tokenizer(SPECIAL, "$A </s>").save_pretrained(folder / "marian")
    describe(
        folder / "model.json",
        folder / "head.safetensors",
        source=str(folder / "marian"),
        device="cpu",
        pairs={"prefix": "The ", "source_language": None, "target_language": None},
    )
    texts = [sentence for document in documents(30) for sentence in document]
    write_table(
        folder / "pairs.parquet",
        pd.DataFrame(
            {
                "sentence_id": range(60),
                "document": [f"d{i // 3}" for i in range(60)],
                "sentence": texts[:60],
                "target": texts[60:120],
                "split": ["training"] * 40 + ["validation"] * 20,
            }
        ),
    )
    return folder


def shard(folder: Path, name: str, **options: Any) -> ActivationStore:
    stage: dict[str, Any] = {"split": "training", "shard": 0, "shards": 1, "seed": 5, "batch_tokens": 64}
    chosen = ActivationOptions(positions=3, top_k=4, **{k: v for k, v in options.items() if k not in stage})
    stage |= {key: value for key, value in options.items() if key in stage}
    output = folder / name
    extract_shard(
        output, folder / "pairs.parquet", folder / "model.json", options=chosen, device="cpu", **stage
    )
    return ActivationStore([output], complete=False)


def test_the_description_keeps_how_pairs_are_taken(folder: Path) -> None:
    description = read_description(folder / "model.json")
    assert (description.task, description.blocks) == ("seq2seq", BLOCKS)
    assert description.pairs == {"prefix": "The ", "source_language": None, "target_language": None}
    sizes = sizes_from_configuration(str(folder / "marian"))
    assert (sizes["task"], sizes["blocks"], sizes["hidden"]) == ("seq2seq", BLOCKS, 32)


def test_samples_are_those_of_a_plain_loop(folder: Path) -> None:
    store = shard(folder, "plain.zarr")
    assert store.samples == 120
    corpus = pd.read_parquet(folder / "pairs.parquet").set_index("sentence_id")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "marian")
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder / "marian").eval()
    head = Head.load(folder / "head.safetensors")
    last = torch.from_numpy(store.level(BLOCKS))
    for i in range(0, store.samples, 7):
        pair = corpus.loc[int(store.of_samples("sentence")[i])]
        position = int(store.of_samples("position")[i])
        labels = tokenizer(text_target=pair["target"])["input_ids"]
        assert position < len(labels) - 1  # the end token is not sampled
        taken = torch.tensor([[1, *labels[:-1]]])
        assert store.of_samples("token")[i] == taken[0, position]
        source = torch.tensor([tokenizer("The " + pair["sentence"])["input_ids"]])
        with torch.inference_mode():
            own = model(source, decoder_input_ids=taken, output_hidden_states=True)
        for level in range(BLOCKS):
            np.testing.assert_allclose(
                store.level(level)[i], own.decoder_hidden_states[level][0, position], rtol=0.02, atol=0.05
            )
        expected = own.logits[0, position]
        assert float((head.logits(last[i]) - expected).abs().max()) < 0.03 * float(expected.std())
        assert store.of_samples("top_tokens")[i, 0] == expected.argmax()


def test_shards_hold_what_one_shard_holds(folder: Path) -> None:
    def samples(store: ActivationStore) -> dict[tuple[int, int], np.ndarray]:
        keys = zip(store.of_samples("sentence").tolist(), store.of_samples("position").tolist(), strict=True)
        return dict(zip(keys, store.level(BLOCKS), strict=True))

    whole = samples(shard(folder, "whole.zarr"))
    parts = [samples(shard(folder, f"part-{i}.zarr", shard=i, shards=3)) for i in range(3)]
    assert sum(map(len, parts)) == len(whole)
    for part in parts:
        for key, state in part.items():
            np.testing.assert_allclose(state, whole[key], rtol=0.02, atol=0.02)


def test_batches_keep_to_their_number_of_tokens(folder: Path) -> None:
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "marian")
    model = build("MarianMTModel")
    table = pd.read_parquet(folder / "pairs.parquet")

    def shift(labels: Any) -> list[int]:
        return decoder_inputs(model, labels)

    prompts = pair_prompts(table, tokenizer, shift, seed=0, positions=2, special_tokens=True)
    seen = 0
    for batch in batches(prompts, 100):
        pairs, rows, _ = pad(batch, 1)
        assert isinstance(pairs, Pairs)
        assert pairs.source.numel() + pairs.target.numel() <= 100
        seen += len(set(rows.tolist()))
    assert seen == len(table)


def test_what_does_not_fit_together_is_one_line(folder: Path, tmp_path: Path) -> None:
    def extract(description: Path, sentences: Path) -> None:
        extract_shard(
            tmp_path / "s.zarr",
            sentences,
            description,
            split="training",
            shard=0,
            shards=1,
            options=ActivationOptions(),
            seed=0,
        )

    describe_as(tmp_path / "causal.json")
    with pytest.raises(
        CorpusError, match="a corpus of pairs given, but SomeForCausalLM is a causal language"
    ):
        extract(tmp_path / "causal.json", folder / "pairs.parquet")
    table = pd.read_parquet(folder / "pairs.parquet").drop(columns="target")
    write_table(tmp_path / "texts.parquet", table)
    with pytest.raises(CorpusError, match="a corpus without targets given, but MarianMTModel is an encoder-"):
        extract(folder / "model.json", tmp_path / "texts.parquet")


def test_a_checkpoint_of_the_bare_model_is_loaded_with_its_head(tmp_path: Path) -> None:
    """Bart's files on the hub name the class BartModel, and hold tied weights."""
    build("BartForConditionalGeneration").save_pretrained(tmp_path / "bart")
    path = tmp_path / "bart" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"architectures": ["BartModel"]}), encoding="utf-8")
    assert load_model(str(tmp_path / "bart"), device="cpu").task == "seq2seq"


def test_pairs_of_a_model_that_takes_none_are_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(ModelError, match="pairs given, but LlamaForCausalLM is a causal language model"):
        describe(
            tmp_path / "m.json",
            tmp_path / "h.safetensors",
            source=str(tiny_model_folder),
            device="cpu",
            pairs={"prefix": "x"},
        )


def test_the_exit_head_of_a_head_without_a_norm_is_exact(make_head: Callable[..., Head]) -> None:
    from dataclasses import replace

    from onejump.shortcuts.exit_head import ExitHead

    head = make_head(16, 40, bias=True)
    head.config = replace(head.config, norm=None, eps=0.0)
    head.gain, head.norm_bias = torch.ones(16), torch.zeros(16)
    drawn = torch.Generator().manual_seed(1)
    reduced, basis, bias = (torch.randn(*shape, generator=drawn) for shape in ((5, 3), (3, 16), (16,)))
    expected = (reduced @ basis + bias) @ head.unembedding.T + head.logit_bias
    torch.testing.assert_close(ExitHead(head, basis, bias).logits(reduced), expected)
    expected = (reduced @ basis) @ head.unembedding.T + head.logit_bias
    torch.testing.assert_close(ExitHead(head, basis).logits(reduced), expected)


def test_a_model_that_shifts_no_labels_itself_begins_with_its_start_token() -> None:
    model = SimpleNamespace(config=SimpleNamespace(decoder_start_token_id=7))
    assert decoder_inputs(model, [4, 5, 2]) == [7, 4, 5]
    model.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="what its targets start with is not known"):
        decoder_inputs(model, [4, 5, 2])
