"""Generated texts against the model's own choice for every token, one text at a time and without a cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from stage_files import describe_as
from tiny_models import documents, word_tokenizer
from transformers import AutoTokenizer

from onejump.base.errors import CorpusError, ModelError, OneJumpError
from onejump.base.files import read_json, read_table, write_table
from onejump.data.corpus import SUMMARY
from onejump.data.document_roles import assign_documents
from onejump.data.generated_texts import collect_texts
from onejump.data.mixture import Part, mix_corpora
from onejump.data.shard_writer import StoreOptions
from onejump.data.store import ActivationStore
from onejump.models.activations import ActivationOptions, extract_shard
from onejump.models.loading import load_model
from onejump.models.source_files import model_digest
from onejump.runtime.decoding import Decoding
from onejump.runtime.generated_corpus import GenerationOptions, as_beginning, generate_texts, in_template

TEXTS = {"training": 24, "validation": 8}
OPTIONS = GenerationOptions(prompt_tokens=5, new_tokens=14, greedy=0.5, temperature=0.8, top_p=0.7)


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    """Two sentences of each of 20 documents, of which some are longer than a prompt may be."""
    rows = [
        (f"document-{number}", sentence, "training" if number < 15 else "validation")
        for number, sentences in enumerate(documents(20, 2))
        for sentence in sentences
    ]
    table = pd.DataFrame(rows, columns=["document", "sentence", "split"])
    return table.assign(sentence_id=range(len(rows)))


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, prompts: pd.DataFrame
) -> Callable[..., Path]:
    """written(...): a folder with the texts of the tiny model, as the stages write them."""

    def make(shards: int = 2, batch_tokens: int = 4096, options: GenerationOptions = OPTIONS) -> Path:
        folder = tmp_path_factory.mktemp("generated")
        digest = model_digest(tiny_model_folder)
        describe_as(folder / "model.json", source=str(tiny_model_folder), model_digest=digest)
        write_table(folder / "prompts.parquet", prompts)
        paths = []
        for split, wanted in TEXTS.items():
            for shard in range(shards):
                paths.append(folder / f"{split}-{shard}.parquet")
                generate_texts(
                    paths[-1],
                    folder / "prompts.parquet",
                    folder / "model.json",
                    split=split,
                    shard=shard,
                    shards=shards,
                    wanted=wanted,
                    options=options,
                    seed=3,
                    device="cpu",
                    batch_tokens=batch_tokens,
                )
        collect_texts(folder / "corpus.parquet", folder / "corpus.json", paths)
        return folder

    return make


@pytest.fixture(scope="module")
def folder(written: Callable[..., Path]) -> Path:
    return written()


@pytest.fixture(scope="module")
def texts(folder: Path) -> pd.DataFrame:
    return read_table(folder / "corpus.parquet")


@pytest.fixture(scope="module")
def logits_of(tiny_model_folder: Path) -> Callable[[list[int]], torch.Tensor]:
    """The logits (length, V) of the model for one sequence, in float64 and without a cache."""
    model: Any = load_model(str(tiny_model_folder), device="cpu").model.double()

    def logits(tokens: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([tokens]), use_cache=False).logits[0]

    return logits


def test_each_token_is_the_models_own_choice(texts: pd.DataFrame, logits_of: Callable[..., Any]) -> None:
    greedy, drawn, likeliest = 0, 0, 0
    for text in texts.itertuples():
        tokens, first = text.tokens.tolist(), text.prompt_tokens
        probabilities = (logits_of(tokens) / OPTIONS.temperature).softmax(-1)
        for place in range(first, len(tokens)):
            predicted = probabilities[place - 1]
            if text.greedy:
                greedy += 1
                assert predicted.argmax() == tokens[place]
            else:
                drawn += 1
                likeliest += int(predicted.argmax() == tokens[place])
                likelier = predicted[predicted > predicted[tokens[place]]].sum()
                assert likelier < OPTIONS.top_p + 1e-6, "a token outside of the nucleus was drawn"
    assert min(greedy, drawn) > 100
    assert likeliest < 0.9 * drawn


def test_drawn_tokens_have_the_probabilities_of_the_nucleus(
    texts: pd.DataFrame, logits_of: Callable[..., Any]
) -> None:
    """The cumulative probability up to a drawn token, at a random point of its own, is uniform."""
    generator = np.random.default_rng(0)
    found = []
    for text in texts[~texts["greedy"]].itertuples():
        tokens = text.tokens.tolist()
        for place in range(text.prompt_tokens, len(tokens)):
            predicted = (logits_of(tokens[:place])[-1] / OPTIONS.temperature).softmax(-1)
            ordered, order = predicted.sort(descending=True)
            kept = ordered.cumsum(0) - ordered < OPTIONS.top_p
            nucleus = ordered * kept / (ordered * kept).sum()
            rank = int((order == tokens[place]).nonzero())
            found.append(float(nucleus[:rank].sum() + generator.random() * nucleus[rank]))
    counts = np.histogram(found, bins=5, range=(0, 1))[0]
    expected = len(found) / 5
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # chi-squared, 4 degrees of freedom, p = .001


def test_a_text_ends_at_the_end_token_or_after_the_most_tokens(texts: pd.DataFrame) -> None:
    lengths = []
    for text in texts.itertuples():
        new = text.tokens[text.prompt_tokens :].tolist()
        lengths.append(len(new))
        assert 2 not in new[:-1], "</s>"
        assert len(new) == OPTIONS.new_tokens or new[-1] == 2
        assert text.prompt_tokens <= 1 + OPTIONS.prompt_tokens
    assert min(lengths) < OPTIONS.new_tokens == max(lengths)


def test_the_table_is_that_of_a_corpus(texts: pd.DataFrame, prompts: pd.DataFrame, folder: Path) -> None:
    assert texts["sentence_id"].tolist() == list(range(sum(TEXTS.values())))
    assert texts["split"].tolist() == ["training"] * 24 + ["validation"] * 8
    given = prompts.set_index("sentence_id").loc[texts["prompt_id"]]
    assert given["document"].tolist() == texts["document"].tolist()
    assert given["split"].tolist() == texts["split"].tolist()
    assert [*prompts["sentence_id"][:24], *prompts["sentence_id"][30:38]] == texts["prompt_id"].tolist()
    for sentence, prompt in zip(given["sentence"], texts["prompt"], strict=True):
        assert prompt.removeprefix("<s> ").split() == sentence.replace(".", " .").split()[:5]
    described = read_json(folder / "corpus.json", SUMMARY)
    assert described["training"] == {"sentences": 24, "documents": 12, "largest_share": round(1 / 12, 6)}


def test_texts_do_not_depend_on_shards_and_batches(written: Callable[..., Path], texts: pd.DataFrame) -> None:
    for shards, batch_tokens in ((1, 100_000), (3, 45)):
        other = read_table(written(shards, batch_tokens) / "corpus.parquet")
        pd.testing.assert_frame_equal(other, texts)


def test_a_sample_is_where_a_generated_token_was_predicted(
    folder: Path, texts: pd.DataFrame, tiny_model_folder: Path, logits_of: Callable[..., Any]
) -> None:
    stores = {}
    for positions in (4, 100):
        options = ActivationOptions(positions=positions, skip_first=True, top_k=3, max_tokens=7)
        path = folder / f"{positions}.zarr"
        given = {"split": "training", "shard": 0, "shards": 1, "seed": 1, "device": "cpu", "batch_tokens": 99}
        extract_shard(path, folder / "corpus.parquet", folder / "model.json", options=options, **given)
        stores[positions] = ActivationStore([path])
    table = texts.set_index("sentence_id")
    new = texts["tokens"].map(len) - texts["prompt_tokens"]
    of_training = new[texts["split"] == "training"]
    assert stores[4].samples == of_training.clip(upper=4).sum()
    assert stores[100].samples == of_training.sum()
    for store in stores.values():
        kept = {name: store.of_samples(name) for name in ("sentence", "position", "token", "top_tokens")}
        assert len(set(zip(kept["sentence"], kept["position"], strict=True))) == store.samples
        for sentence, position, token, top in zip(*kept.values(), strict=True):
            text = table.loc[sentence]
            assert text["prompt_tokens"] - 1 <= position < len(text["tokens"]) - 1
            assert token == text["tokens"][position]
            if text["greedy"]:
                assert top[0] == text["tokens"][position + 1]
    # The state that predicted the first generated token belongs to the prompt's last one.
    store = stores[100]
    firsts = {
        (row.sentence_id, row.prompt_tokens - 1) for row in texts[texts["split"] == "training"].itertuples()
    }
    found = zip(store.of_samples("sentence"), store.of_samples("position"), strict=True)
    assert firsts <= {(int(sentence), int(position)) for sentence, position in found}


def test_a_mixture_runs_sentences_and_generated_texts_as_they_are(
    folder: Path, tiny_model_folder: Path, logits_of: Callable[..., Any]
) -> None:
    paths = [folder / "prompts.parquet", folder / "corpus.parquet"]
    table, summary = folder / "mixed.parquet", folder / "mixed.json"
    parts = [Part("plain", 1, "plain"), Part("told", 2, "plain")]
    mix_corpora(table, summary, paths, parts=parts, training=24, validation=6)
    given = {"split": "training", "shard": 0, "shards": 1, "seed": 1, "device": "cpu", "batch_tokens": 99}
    options = ActivationOptions(positions=5, top_k=3)
    extract_shard(folder / "m.zarr", table, folder / "model.json", options=options, **given)
    store, texts = ActivationStore([folder / "m.zarr"]), read_table(table).set_index("sentence_id")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    kept = {name: store.of_samples(name) for name in ("sentence", "position", "token", "top_tokens")}
    for sentence, position, token, top in zip(*kept.values(), strict=True):
        text = texts.loc[sentence]
        tokens = tokenizer(text["sentence"])["input_ids"]
        if text["part"] == "told":
            assert position >= text["prompt_tokens"] - 1
            tokens = text["tokens"].tolist()
        assert token == tokens[position]
        assert top[0] == int(logits_of(tokens[: position + 1])[-1].argmax())
    assert set(texts.loc[np.unique(kept["sentence"]), "part"]) == {"plain", "told"}
    assert len(np.unique(kept["sentence"])) == 24


def test_roles_are_drawn_by_the_documents_of_the_prompts(folder: Path, texts: pd.DataFrame) -> None:
    path = folder / "documents.parquet"
    assign_documents(path, folder / "corpus.parquet", stopping=0.2, thresholds=0.2, seed=0)
    roles = read_table(path)
    assert roles.groupby("document")["role"].nunique().max() == 1
    assert roles.groupby(texts["document"])["document"].nunique().max() == 1
    assert set(roles["role"]) == {"fit", "stopping", "thresholds", "validation"}


def test_another_models_texts_are_refused(folder: Path, tmp_path: Path) -> None:
    describe_as(tmp_path / "model.json", source="other")
    with pytest.raises(OneJumpError, match=r"corpus\.parquet belong to different models"):
        extract_shard(
            tmp_path / "0.zarr",
            folder / "corpus.parquet",
            tmp_path / "model.json",
            split="training",
            shard=0,
            shards=1,
            seed=0,
            options=ActivationOptions(store=StoreOptions()),
        )


def test_a_generation_that_is_stopped_leaves_no_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Decoding, "_round", stop)
    given = {"split": "training", "shard": 0, "shards": 1, "wanted": 4, "options": OPTIONS, "seed": 0}
    with pytest.raises(KeyboardInterrupt):
        generate_texts(
            tmp_path / "texts.parquet",
            folder / "prompts.parquet",
            folder / "model.json",
            device="cpu",
            **given,
        )
    assert not (tmp_path / "texts.parquet").exists()


@pytest.mark.parametrize(
    ("known", "options", "wanted", "error", "said"),
    [
        ({"task": "masked"}, OPTIONS, 4, ModelError, "a masked language model given"),
        ({}, OPTIONS, 31, CorpusError, "prompts: 30 training sentences given, 31 texts"),
        ({}, GenerationOptions(new_tokens=125), 4, ModelError, "holds at most 128: lower new_tokens"),
    ],
)
def test_what_cannot_be_generated_is_one_line(
    folder: Path,
    tiny_model_folder: Path,
    tmp_path: Path,
    known: dict[str, Any],
    options: GenerationOptions,
    wanted: int,
    error: type[OneJumpError],
    said: str,
) -> None:
    digest = model_digest(tiny_model_folder)
    describe_as(tmp_path / "model.json", source=str(tiny_model_folder), model_digest=digest, **known)
    with pytest.raises(error, match=said) as refused:
        generate_texts(
            tmp_path / "texts.parquet",
            folder / "prompts.parquet",
            tmp_path / "model.json",
            split="training",
            shard=0,
            shards=1,
            wanted=wanted,
            options=options,
            seed=0,
            device="cpu",
        )
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "texts.parquet").exists()


def test_a_prompt_is_cut_and_begins_as_the_tokenizer_begins_a_text() -> None:
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    sentence = "The old farmer counted the green boat near the river before the rain ."
    for around in ("<s> $A", "<s> $A </s>", None):
        tokenizer = word_tokenizer(special, around)
        whole, cut = (tokenizer.decode(as_beginning(sentence, tokenizer, most)) for most in (99, 3))
        start = "<s> " if around else ""
        assert (whole, cut) == (start + sentence, f"{start}The old farmer")


def test_a_chat_template_takes_the_prompt_as_a_users_message() -> None:
    tokenizer = word_tokenizer({"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}, "<s> $A")
    tokenizer.chat_template = (
        "<s>{% for m in messages %}{{ m['role'] == 'user' and 'in' or 'at' }} {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} ,{% endif %}"
    )
    for most, message in ((99, "The old farmer counted ."), (3, "The old farmer")):
        tokens = in_template("The old farmer counted .", tokenizer, most)
        assert tokenizer.decode(tokens) == f"<s> in {message} ,"
    tokenizer.chat_template = "{{ raise_exception('system first') }}"
    with pytest.raises(ModelError, match=r"its chat template .*system first.*: choose chat_template: false"):
        in_template("The old farmer .", tokenizer, 3)


def test_the_template_is_used_if_there_is_one_and_the_study_wants_it(
    tiny_model_folder: Path, tmp_path: Path, prompts: pd.DataFrame
) -> None:
    model = tmp_path / "chatting"
    shutil.copytree(tiny_model_folder, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "<s>{{ messages[0]['content'] }} , ,"
    tokenizer.save_pretrained(model)
    describe_as(tmp_path / "model.json", source=str(model), model_digest=model_digest(model))
    write_table(tmp_path / "prompts.parquet", prompts)
    endings = []
    for wanted in (True, False):
        generate_texts(
            tmp_path / "texts.parquet",
            tmp_path / "prompts.parquet",
            tmp_path / "model.json",
            split="validation",
            shard=0,
            shards=1,
            wanted=2,
            options=GenerationOptions(chat_template=wanted, prompt_tokens=5, new_tokens=2),
            seed=0,
            device="cpu",
        )
        endings.append(read_table(tmp_path / "texts.parquet")["prompt"].str.endswith(" , ,").tolist())
    assert endings == [[True, True], [False, False]]
