"""Classifiers of texts: states and logits against the model's own, samples against a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from families import disturb
from tiny_models import documents, word_tokenizer

from onejump.base.errors import CorpusError, ModelError
from onejump.base.files import write_table
from onejump.data.store import ActivationStore
from onejump.models.activations import ActivationOptions, extract_shard
from onejump.models.description import read_description
from onejump.models.flops import head_flops
from onejump.models.head import Head
from onejump.models.live_head import LiveHead, cap_logits
from onejump.models.loading import load_model, sizes_from_configuration
from onejump.models.model_stage import describe
from onejump.models.transformer import Transformer

VOCABULARY, BLOCKS, LABELS = 200, 3, 3
SIZES = {
    "num_hidden_layers": BLOCKS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GPT2 = {"n_layer": BLOCKS, "n_embd": 32, "n_head": 4, "n_positions": 64}
DISTIL = {"n_layers": BLOCKS, "dim": 32, "hidden_dim": 48, "n_heads": 4, "max_position_embeddings": 64}
QWEN = SIZES | {"head_dim": 8, "num_key_value_heads": 2}
ALBERT = SIZES | {"embedding_size": 16, "num_hidden_groups": 1, "inner_group_num": 1}
# The position that is read, the activation, and the kind of the norm before the last map.
FAMILIES: dict[str, tuple[dict[str, Any], str, str | None, str | None]] = {
    "BertForSequenceClassification": (SIZES, "first", "tanh", None),
    "RobertaForSequenceClassification": (SIZES, "first", "tanh", None),
    "DistilBertForSequenceClassification": (DISTIL, "first", "relu", None),
    "ElectraForSequenceClassification": (SIZES, "first", "gelu", None),
    "AlbertForSequenceClassification": (ALBERT, "first", "tanh", None),
    "DebertaV2ForSequenceClassification": (SIZES, "first", "gelu", None),
    "ModernBertForSequenceClassification": (SIZES, "first", "gelu", "layer"),
    # It runs a pooler besides, whose output nothing takes.
    "BigBirdForSequenceClassification": (SIZES | {"hidden_act": "gelu"}, "first", "gelu", None),
    "GPT2ForSequenceClassification": (GPT2, "last", None, "layer"),
    "LlamaForSequenceClassification": (SIZES, "last", None, "rms"),
    "Qwen3ForSequenceClassification": (
        SIZES | {"head_dim": 8, "num_key_value_heads": 2},
        "last",
        None,
        "rms",
    ),
}
PADDING = 1


def build(name: str, **more: Any) -> Any:
    model_class = getattr(hf, name)
    torch.manual_seed(1)
    given = {"vocab_size": VOCABULARY, "num_labels": LABELS, "pad_token_id": PADDING} | FAMILIES[name][0]
    model = model_class(model_class.config_class(**given | more)).eval()
    disturb(model, 1)
    return model


def hold_against(own: Any, store: ActivationStore, head: Head, sample: int) -> None:
    """A sample's states at all levels, and its logits, are the model's own."""
    for level in range(BLOCKS):
        theirs = own.hidden_states[level][0, 0].numpy()
        np.testing.assert_allclose(store.level(level)[sample], theirs, rtol=5e-3, atol=5e-3)
    logits = head.logits(torch.from_numpy(store.level(BLOCKS)[sample]))
    assert float((logits - own.logits[0]).abs().max()) < 0.02 * float(own.logits.std())


@pytest.mark.parametrize("name", FAMILIES)
def test_states_and_logits_are_the_models_own(name: str) -> None:
    model = build(name)
    transformer = Transformer(model)
    _, reads, activation, norm = FAMILIES[name]
    config = transformer.head.config
    assert (transformer.task, transformer.reads) == ("classification", reads)
    assert (config.activation, config.norm) == (activation, norm)
    tokens = torch.randint(5, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    tokens[1, 6:] = PADDING
    mask = (tokens != PADDING).long()
    rows, positions = torch.arange(2).repeat_interleave(9), torch.arange(9).repeat(2)
    states = transformer.states(tokens, rows, positions)
    with torch.inference_mode():
        own = model(tokens, attention_mask=mask, output_hidden_states=True)
    assert len(states) == len(own.hidden_states) == BLOCKS + 1
    for ours, theirs in zip(states[:-1], own.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours[mask.flatten() == 1], theirs[mask == 1], rtol=1e-4, atol=1e-4)
    assert transformer.read_positions(tokens).tolist() == ([0, 0] if reads == "first" else [8, 5])
    read = states[-1].view(2, 9, -1)[torch.arange(2), transformer.read_positions(tokens)]
    spread = float(own.logits.std())
    assert float((transformer.head.logits(read) - own.logits).abs().max()) < 1e-4 * spread
    live = LiveHead(transformer)
    trained = cap_logits(live.features(read), live.last_map())
    assert float((trained - own.logits).abs().max()) < 1e-4 * spread


def test_a_text_alone_is_read_at_its_last_token_even_if_that_is_padding_elsewhere() -> None:
    """Where the end token pads, a model of transformers reads the token before a text's end token."""
    model = build("LlamaForSequenceClassification")
    transformer = Transformer(model)
    text = torch.tensor([[7, 9, 11, PADDING]])
    at = transformer.read_positions(text)
    logits = transformer.head.logits(transformer.states(text, torch.tensor([0]), at)[-1])
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(text).logits, rtol=1e-4, atol=1e-4)


def test_half_precision_is_read_too() -> None:
    for name in ("BertForSequenceClassification", "LlamaForSequenceClassification"):
        assert Transformer(build(name).to(torch.bfloat16)).head.vocabulary == LABELS


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("BertForSequenceClassification", {"num_labels": 1}, "a model of 1 label, a regression given"),
        (
            "BertForSequenceClassification",
            {"problem_type": "multi_label_classification"},
            "a model whose problem_type is 'multi_label_classification' given, accepted is a classifier",
        ),
        ("ModernBertForSequenceClassification", {"classifier_pooling": "mean"}, "not a mean over positions"),
        ("LlamaForSequenceClassification", {"pad_token_id": None}, "looked for pad_token_id"),
    ],
)
def test_what_predicts_no_single_label_is_refused_in_a_line(
    name: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as refused:
        Transformer(build(name, **more))
    assert "\n" not in str(refused.value)


def test_an_encoder_decoder_that_classifies_is_refused() -> None:
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 2) | {"d_model": 32, "vocab_size": 50}
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    model = hf.BartForSequenceClassification(hf.BartConfig(**sizes, **heads))
    with pytest.raises(ModelError, match="an encoder-decoder that classifies given, accepted is"):
        Transformer(model)


def save(folder: Path, name: str = "BertForSequenceClassification", **more: Any) -> Path:
    """A random classifier whose labels are good, bad and neither, with a tokenizer of words."""
    names = ("good", "bad", "neither")
    known = {"id2label": dict(enumerate(names)), "label2id": {of: at for at, of in enumerate(names)}}
    model = build(name, **known | more)
    roles = ("unk_token", "pad_token", "cls_token", "sep_token")
    special = {role: f"[{role.removesuffix('_token').upper()}]" for role in roles}
    word_tokenizer(special, "[CLS] $A [SEP]").save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def test_the_stages_read_a_sample_of_each_text(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    describe(tmp_path / "m.json", tmp_path / "h.safetensors", source=str(folder), device="cpu")
    described = read_description(tmp_path / "m.json")
    assert (described.task, described.vocabulary, described.causal) == ("classification", LABELS, False)
    known = sizes_from_configuration(str(folder))
    assert known == {name: getattr(described, name) for name in known}
    texts = [sentence for document in documents(4) for sentence in document]
    table = pd.DataFrame({"sentence_id": range(20), "document": [f"d#{at}" for at in range(20)]})
    labels = (["good", "bad", "bad", "neither"] * 5)[:20]
    table = table.assign(sentence=texts, label=labels, split="validation")
    write_table(tmp_path / "texts.parquet", table)
    options = ActivationOptions(positions=4, skip_first=True)
    inputs = {"sentences": tmp_path / "texts.parquet", "description": tmp_path / "m.json"}
    place = {"split": "validation", "shard": 0, "shards": 1, "seed": 0, "device": "cpu"}
    extract_shard(tmp_path / "0.zarr", **inputs, **place, options=options, batch_tokens=60)
    store = ActivationStore([tmp_path / "0.zarr"])
    assert (store.samples, store.levels) == (20, BLOCKS + 1)
    sentences = store.of_samples("sentence")
    numbers = [["good", "bad", "neither"].index(labels[at]) for at in sentences]
    np.testing.assert_array_equal(store.labels(), numbers)
    # precision@k of all labels: they are all kept, though activations.top_k is 64.
    assert store.of_samples("top_tokens").shape == (20, LABELS)
    model, tokenizer = load_model(str(folder), device="cpu").model, hf.AutoTokenizer.from_pretrained(folder)
    head = Head.load(tmp_path / "h.safetensors")
    assert head_flops(head) == 2 * (32 * 32 + 32 * LABELS)
    for sample, sentence in enumerate(sentences):
        with torch.inference_mode():
            encoded = tokenizer(texts[sentence], return_tensors="pt")
            own = model(**encoded, output_hidden_states=True)
        hold_against(own, store, head, sample)
        assert store.of_samples("top_tokens")[sample, 0] == int(own.logits.argmax())
    # Without labels it runs as well, and knows none.
    write_table(tmp_path / "texts.parquet", table.drop(columns="label"))
    extract_shard(tmp_path / "1.zarr", **inputs, **place, options=options, batch_tokens=60)
    assert ActivationStore([tmp_path / "1.zarr"]).labels() is None
    write_table(tmp_path / "texts.parquet", table.assign(label=["good"] * 7 + ["awful"] * 13))
    with pytest.raises(CorpusError, match="d#7: the label 'awful' given, the model knows 0 to 2, or good"):
        extract_shard(tmp_path / "2.zarr", **inputs, **place, options=options)
    write_table(tmp_path / "texts.parquet", table.assign(label=[2] * 7 + [3] * 13))
    with pytest.raises(CorpusError, match="d#7: the label 3 given, the model knows 0 to 2, or good, bad"):
        extract_shard(tmp_path / "2.zarr", **inputs, **place, options=options)
    write_table(tmp_path / "texts.parquet", table.assign(target="x"))
    with pytest.raises(CorpusError, match="a classifier of texts, which takes texts"):
        extract_shard(tmp_path / "2.zarr", **inputs, **place, options=options)
    assert not (tmp_path / "2.zarr").exists()


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "DistilBertForSequenceClassification"])
def test_the_two_parts_of_a_pair_are_given_as_the_tokenizer_gives_them(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "model", name, vocab_size=VOCABULARY + 1)  # the tokenizer adds a mask
    words = hf.AutoTokenizer.from_pretrained(folder).get_vocab()
    # BERT's tokenizer says which part a token is of, DistilBERT's does not.
    getattr(hf, name.replace("ForSequenceClassification", "Tokenizer"))(vocab=words).save_pretrained(folder)
    typed = name.startswith("Bert")
    describe(tmp_path / "m.json", tmp_path / "h.safetensors", source=str(folder), device="cpu")
    first = [sentence for document in documents(3) for sentence in document]
    # Of several lengths, so that some are padded.
    second = [" ".join(text.split()[at % 3 :]) for at, text in enumerate(reversed(first))]
    table = pd.DataFrame({"sentence_id": range(15), "document": [f"d#{at}" for at in range(15)]})
    table = table.assign(sentence=first, text_pair=second, label=1, split="validation")
    write_table(tmp_path / "texts.parquet", table)
    inputs = {"sentences": tmp_path / "texts.parquet", "description": tmp_path / "m.json"}
    place = {"split": "validation", "shard": 0, "shards": 1, "seed": 0, "device": "cpu"}
    # The longest pairs are cut, the longer text of each first.
    options = ActivationOptions(max_tokens=29)
    extract_shard(tmp_path / "0.zarr", **inputs, **place, options=options, batch_tokens=100)
    store = ActivationStore([tmp_path / "0.zarr"])
    model, head = load_model(str(folder), device="cpu").model, Head.load(tmp_path / "h.safetensors")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    cut = 0
    for sample, at in enumerate(store.of_samples("sentence")):
        pair = {"truncation": True, "max_length": 29, "return_tensors": "pt"}
        encoded = tokenizer(first[at], second[at], **pair)
        assert ("token_type_ids" in encoded) == typed
        cut += encoded["input_ids"].shape[1] == 29
        with torch.inference_mode():
            own = model(**encoded, output_hidden_states=True)
        hold_against(own, store, head, sample)
    assert 0 < cut < 15
