"""Sampled positions, and extraction end to end on the tiny models, causal and masked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stage_files import describe_as

from onejump.base.amounts.logits import LOGITS_TOGETHER
from onejump.base.errors import ActivationError, CorpusError, ModelError
from onejump.base.files import write_table
from onejump.data.shard_layout import SAMPLE_ARRAYS
from onejump.data.shard_writer import StoreOptions
from onejump.data.store import ActivationStore
from onejump.models.activations import ActivationOptions, extract, extract_shard
from onejump.models.head import Head, HeadConfig
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.logit_parts import summarise_logits
from onejump.models.prompts import Prompt, batches, make_prompts, pad, sample_positions, shard_sentences
from onejump.models.source_files import model_digest
from onejump.models.transformer import Transformer

Only = Callable[[Path], list[str]]
MaskedFolder = Callable[[str], Path]
FAMILIES = ["bert", "roberta"]
EXACT = StoreOptions(keepbits=None)


@pytest.fixture
def transformer(tiny_model_folder: Path) -> Transformer:
    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture
def corpus(write_documents: Callable[..., Path], tmp_path: Path) -> pd.DataFrame:
    folder = write_documents(tmp_path / "documents", count=12, sentences=5)
    texts = [path.read_text().strip().split(". ") for path in sorted(folder.iterdir())]
    sentences = [sentence.rstrip(".") + "." for text in texts for sentence in text]
    splits = ["training"] * 40 + ["validation"] * 20
    return pd.DataFrame({"sentence_id": range(100, 160), "split": splits, "sentence": sentences})


@given(
    length=st.integers(0, 40),
    sentence=st.integers(0, 2**40),
    seed=st.integers(0, 2**31),
    positions=st.integers(1, 50),
    skip_first=st.booleans(),
)
def test_positions_are_distinct_and_in_range(
    length: int, sentence: int, seed: int, positions: int, skip_first: bool
) -> None:
    options: dict[str, Any] = {"seed": seed, "positions": positions, "skip_first": skip_first}
    drawn = sample_positions(length, sentence, **options).tolist()
    available = range(1 if skip_first else 0, length)
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(available)
    assert len(drawn) == min(positions, len(available))
    assert sample_positions(length, sentence, **options).tolist() == drawn


def test_positions_are_spread_evenly_and_differ_by_seed_and_sentence() -> None:
    drawn = np.array([int(sample_positions(8, sentence, seed=3)[0]) for sentence in range(4000)])
    counts = np.bincount(drawn, minlength=8)
    assert (np.abs(counts - 500) < 5 * np.sqrt(500 * 7 / 8)).all()
    other = np.array([int(sample_positions(8, sentence, seed=4)[0]) for sentence in range(4000)])
    assert 0.08 < (drawn == other).mean() < 0.17


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 200))
def test_batches_keep_all_prompts_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    lengths = sorted(lengths, reverse=True)
    prompts = [Prompt(i, [i + 1] * n, np.array([n - 1])) for i, n in enumerate(lengths)]
    cut = list(batches(prompts, batch_tokens))
    assert [prompt for batch in cut for prompt in batch] == prompts
    for batch in cut:
        tokens, rows, positions = pad(batch)
        assert tokens.numel() <= batch_tokens or len(batch) == 1
        assert tokens[rows, positions].tolist() == [prompt.sentence + 1 for prompt in batch]


def direct(transformer: Transformer, tokenizer: Any, sentence: str, position: int) -> tuple[np.ndarray, Any]:
    """States (levels, H) and final logits of a plain pass over the whole sentence."""
    before: list[torch.Tensor] = []
    hook = transformer.model.model.norm.register_forward_pre_hook(lambda _, a: before.append(a[0]))
    with torch.inference_mode():
        tokens = torch.tensor([tokenizer(sentence)["input_ids"]])
        out = transformer.model(tokens, output_hidden_states=True)
    hook.remove()
    states = torch.stack([*(h[0, position] for h in out.hidden_states[:-1]), before[0][0, position]])
    return states.numpy(), (out.logits[0, position], int(tokens[0, position]))


@pytest.mark.parametrize(("store", "bound"), [(StoreOptions(), 2**-11), (EXACT, 0.0)])
def test_the_store_holds_what_a_plain_pass_gives(
    store: StoreOptions,
    bound: float,
    transformer: Transformer,
    tiny_model_folder: Path,
    corpus: pd.DataFrame,
    tmp_path: Path,
) -> None:
    tokenizer = load_tokenizer(str(tiny_model_folder))
    prompts = make_prompts(corpus, tokenizer, seed=5, positions=2)
    extract(transformer, prompts, tmp_path / "s.zarr", batch_tokens=64, top_k=7, store=store)
    found = ActivationStore([tmp_path / "s.zarr"])
    assert (found.levels, found.samples, found.hidden) == (5, 120, 32)
    states = np.stack([found.level(level) for level in range(5)])
    kept = {name: found.of_samples(name) for name in SAMPLE_ARRAYS}
    text = dict(zip(corpus["sentence_id"], corpus["sentence"], strict=True))
    assert sorted(kept["sentence"].tolist()) == sorted([*text, *text])
    for i in range(found.samples):
        sentence, position = int(kept["sentence"][i]), int(kept["position"][i])
        length = len(tokenizer(text[sentence])["input_ids"])
        assert position in sample_positions(length, sentence, seed=5, positions=2)
        expected, (logits, token) = direct(transformer, tokenizer, text[sentence], position)
        assert kept["token"][i] == token
        np.testing.assert_array_less(
            np.abs(states[:, i] - expected), bound * 1.001 * np.abs(expected) + 2e-5 * np.abs(expected).max()
        )
        top = logits.topk(7)
        assert kept["top_tokens"][i].tolist() == top.indices.tolist()
        np.testing.assert_allclose(kept["top_logits"][i], top.values, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(kept["logsumexp"][i], logits.logsumexp(-1), rtol=1e-4)


def test_the_last_levels_states_before_are_those_of_the_positions_before(
    transformer: Transformer, tiny_model_folder: Path, corpus: pd.DataFrame, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_model_folder))
    prompts = make_prompts(corpus, tokenizer, seed=5, positions=3)
    for name, previous in (("without", False), ("with", True)):
        extract(
            transformer, prompts, tmp_path / name, batch_tokens=64, top_k=7, store=EXACT, previous=previous
        )
    without, kept = (ActivationStore([tmp_path / name]) for name in ("without", "with"))
    assert (kept.levels, kept.keeps_previous, without.keeps_previous) == (5, True, False)
    for level in range(5):
        np.testing.assert_array_equal(kept.level(level), without.level(level))
    np.testing.assert_array_equal(kept.of_samples("top_logits"), without.of_samples("top_logits"))
    text = dict(zip(corpus["sentence_id"], corpus["sentence"], strict=True))
    before, firsts = kept.with_previous().level(2)[:, 32:], 0
    for i, (sentence, position) in enumerate(
        zip(kept.of_samples("sentence").tolist(), kept.of_samples("position").tolist(), strict=True)
    ):
        if position == 0:
            firsts += 1
            assert not before[i].any()
            continue
        states, _ = direct(transformer, tokenizer, text[sentence], position - 1)
        np.testing.assert_allclose(before[i], states[-1], rtol=1e-4, atol=2e-5 * np.abs(states[-1]).max())
    assert 0 < firsts < kept.samples


def test_the_same_samples_in_any_number_of_shards(
    tiny_model_folder: Path, corpus: pd.DataFrame, tmp_path: Path
) -> None:
    digest = model_digest(tiny_model_folder)
    describe_as(tmp_path / "model.json", source=str(tiny_model_folder), model_digest=digest)
    write_table(tmp_path / "corpus.parquet", corpus)
    found = []
    for shards in (1, 3):
        paths = [tmp_path / f"{shards}-{shard}.zarr" for shard in range(shards)]
        for shard, path in enumerate(paths):
            extract_shard(
                path,
                tmp_path / "corpus.parquet",
                tmp_path / "model.json",
                split="training",
                shard=shard,
                shards=shards,
                seed=1,
                options=ActivationOptions(positions=2, skip_first=True, max_tokens=64, top_k=3, store=EXACT),
                device="cpu",
                batch_tokens=100,
            )
        store = ActivationStore(paths)
        assert len(store.shard_samples) == shards
        order = np.lexsort((store.of_samples("position"), store.of_samples("sentence")))
        ids = np.stack([store.of_samples(n)[order] for n in ("sentence", "position", "token")])
        found.append((ids, np.stack([store.level(level)[order] for level in range(5)])))
    (ids, states), (other_ids, other_states) = found
    np.testing.assert_array_equal(ids, other_ids)
    np.testing.assert_allclose(states, other_states, rtol=1e-4, atol=1e-4)
    assert set(ids[0]) == set(range(100, 140))  # training sentences, and no others
    assert ids[1].min() >= 1


def test_bfloat16_on_a_device_map(tiny_model_folder: Path, corpus: pd.DataFrame, tmp_path: Path) -> None:
    write_table(tmp_path / "corpus.parquet", corpus)
    found = {}
    for dtype, device_map in (("float32", None), ("bfloat16", None), ("bfloat16", "auto")):
        # Where the model stage found the weights need not exist any more.
        digest = model_digest(tiny_model_folder)
        describe_as(tmp_path / "model.json", source="elsewhere", model_digest=digest, dtype=dtype)
        path = tmp_path / f"{dtype}-{device_map}.zarr"
        extract_shard(
            path,
            tmp_path / "corpus.parquet",
            tmp_path / "model.json",
            split="validation",
            shard=0,
            shards=1,
            seed=1,
            options=ActivationOptions(positions=1, max_tokens=64, top_k=3, store=EXACT),
            device="cpu",
            batch_tokens=100,
            device_map=device_map,
            weights=tiny_model_folder,
        )
        found[dtype, device_map] = ActivationStore([path]).shard(0)
    single, half, spread = found.values()
    np.testing.assert_array_equal(half, spread)
    assert np.linalg.norm(half - single) < 0.02 * np.linalg.norm(single)
    as_stored = torch.from_numpy(half)
    torch.testing.assert_close(as_stored.bfloat16().float(), as_stored, rtol=0, atol=0)


@given(st.integers(1, 30), st.integers(1, 8))
def test_shards_part_the_split(sentences: int, shards: int) -> None:
    splits = ["training" if i % 3 else "validation" for i in range(sentences)]
    table = pd.DataFrame({"sentence_id": range(sentences), "split": splits})
    parts = [shard_sentences(table, "training", s, shards)["sentence_id"].tolist() for s in range(shards)]
    assert sorted(itertools.chain(*parts)) == [i for i in range(sentences) if i % 3]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def some_prompts() -> list[Prompt]:
    return [Prompt(7, [5, 6, 7], np.array([2])), Prompt(8, [8, 9], np.array([1]))]


@pytest.mark.parametrize(("block", "level"), [(0, 1), (2, 3)])
def test_what_is_not_finite_is_refused(
    block: int, level: int, transformer: Transformer, tmp_path: Path, only: Only
) -> None:
    with torch.no_grad():
        transformer.blocks[block].mlp.down_proj.weight[3, 4] = float("nan")
    with pytest.raises(ActivationError, match=rf"non-finite.*level {level}, sentence 7, position 2"):
        extract(transformer, some_prompts(), tmp_path / "out" / "s.zarr", top_k=3)
    assert only(tmp_path / "out") == []


def test_an_old_shard_outlives_a_failed_run(transformer: Transformer, tmp_path: Path, only: Only) -> None:
    extract(transformer, some_prompts(), tmp_path / "out" / "s.zarr", top_k=3)
    before = ActivationStore([tmp_path / "out" / "s.zarr"]).level(2)
    with torch.no_grad():
        transformer.blocks[1].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(ActivationError):
        extract(transformer, some_prompts(), tmp_path / "out" / "s.zarr", top_k=3)
    assert only(tmp_path / "out") == ["s.zarr"]
    np.testing.assert_array_equal(ActivationStore([tmp_path / "out" / "s.zarr"]).level(2), before)


def test_activations_of_100_000_pass_the_default_store_and_no_float16(
    transformer: Transformer, tmp_path: Path, only: Only
) -> None:
    with torch.no_grad():
        transformer.model.get_input_embeddings().weight[[5, 7, 9], 3] = 1e5
    tokens, rows, positions = pad(some_prompts())
    expected = transformer.states(tokens, rows, positions).numpy()
    assert np.abs(expected).max() > 65504
    extract(transformer, some_prompts(), tmp_path / "out" / "s.zarr", top_k=3)
    store = ActivationStore([tmp_path / "out" / "s.zarr"])
    found = np.stack([store.level(level) for level in range(5)])
    assert (np.abs(found / expected - 1) < 1e-3).all()
    with pytest.raises(ActivationError, match=r"sentence 7, position 2 is too large for float16.*65504"):
        extract(
            transformer,
            some_prompts(),
            tmp_path / "out" / "t.zarr",
            top_k=3,
            store=StoreOptions(dtype="float16"),
        )
    assert only(tmp_path / "out") == ["s.zarr"]


def test_values_that_few_mantissa_bits_would_round_to_infinity_are_refused(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    transformer = load_model(str(tiny_model_folder), device="cpu")
    with torch.no_grad():
        transformer.model.get_input_embeddings().weight[[5, 7, 9], 3] = 64_800
    path, store = tmp_path / "s.zarr", StoreOptions(dtype="float16", keepbits=10)
    extract(transformer, some_prompts(), path, top_k=3, store=store)
    assert ActivationStore([path]).level(0).max() == 64_800
    with pytest.raises(
        ActivationError, match=r"too large for float16 with 4 mantissa bits \(largest: 63488\)"
    ):
        extract(transformer, some_prompts(), path, top_k=3, store=replace(store, keepbits=4))


def test_sentences_without_a_token_to_sample(tiny_model_folder: Path) -> None:
    table = pd.DataFrame({"sentence_id": [1, 2], "sentence": ["clock", "boat"]})
    with pytest.raises(CorpusError, match="none of the 2 sentences"):
        make_prompts(table, load_tokenizer(str(tiny_model_folder)), seed=0, skip_first=True)


def test_long_sentences_are_cut(tiny_model_folder: Path, corpus: pd.DataFrame) -> None:
    tokenizer = load_tokenizer(str(tiny_model_folder))
    prompts = make_prompts(corpus, tokenizer, seed=0, positions=99, max_tokens=4)
    assert {len(prompt.tokens) for prompt in prompts} == {4}
    assert all(prompt.positions.tolist() == [0, 1, 2, 3] for prompt in prompts)


@pytest.fixture
def masked_tokenizer(tiny_masked_folder: MaskedFolder) -> Any:
    return load_tokenizer(str(tiny_masked_folder("bert")))


def test_special_tokens_are_sampled_where_asked_for_only(masked_tokenizer: Any, corpus: pd.DataFrame) -> None:
    """A causal model's tokenizer that puts a start and an end token around each sentence."""
    for special_tokens in (False, True):
        for skip_first in (False, True):
            prompts = make_prompts(
                corpus,
                masked_tokenizer,
                seed=0,
                positions=99,
                special_tokens=special_tokens,
                skip_first=skip_first,
            )
            for prompt in prompts:
                text = corpus.set_index("sentence_id")["sentence"][prompt.sentence]
                length = len(masked_tokenizer(text)["input_ids"])
                first, last = (0, length) if special_tokens else (1, length - 1)
                assert prompt.positions.tolist() == list(range(first + skip_first, last))


@pytest.mark.parametrize("top_k", [1, 7])
def test_logits_in_parts_are_those_of_all_at_once(top_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(
        HeadConfig("rms", 1e-5), torch.ones(8), torch.zeros(8), torch.randn(50, 8, generator=generator)
    )
    states = torch.randn(23, 8, generator=generator)
    seen: list[int] = []
    whole = Head.logits

    def counted(self: Head, some: torch.Tensor) -> torch.Tensor:
        seen.append(len(some))
        return whole(self, some)

    monkeypatch.setattr(Head, "logits", counted)
    monkeypatch.setitem(LOGITS_TOGETHER, "cpu", 50 * 5)
    values, tokens, logsumexp = summarise_logits(head, states, top_k)
    assert seen == [5, 5, 5, 5, 3]
    expected = head.features(states) @ head.unembedding.T
    torch.testing.assert_close(values, expected.topk(top_k).values)
    assert torch.equal(tokens, expected.topk(top_k).indices)
    torch.testing.assert_close(logsumexp, expected.double().exp().sum(-1).log().float())


@pytest.mark.parametrize("skip_first", [False, True])
def test_masked_prompts_are_whole_sentences_with_one_word_masked(
    skip_first: bool, masked_tokenizer: Any, corpus: pd.DataFrame
) -> None:
    options: dict[str, Any] = {"seed": 3, "positions": 2, "skip_first": skip_first, "masked": True}
    prompts = make_prompts(corpus, masked_tokenizer, **options)
    text = dict(zip(corpus["sentence_id"], corpus["sentence"], strict=True))
    drawn: dict[int, list[int]] = {sentence: [] for sentence in text}
    for prompt in prompts:
        assert prompt.tokens == masked_tokenizer(text[prompt.sentence])["input_ids"]
        (position,) = prompt.positions.tolist()
        assert (2 if skip_first else 1) <= position < len(prompt.tokens) - 1
        drawn[prompt.sentence].append(position)
        (run,), rows, positions = pad([prompt])
        differing = run != torch.tensor(prompt.tokens)
        assert differing.nonzero().tolist() == [[position]]
        assert int(run[position]) == masked_tokenizer.mask_token_id
        assert (rows.tolist(), positions.tolist()) == ([0], [position])
    assert all(len(set(positions)) == 2 for positions in drawn.values())
    first = min(position for positions in drawn.values() for position in positions)
    assert first == (2 if skip_first else 1)
    # In whatever company and order sentences come.
    again = [
        prompt
        for part in (corpus[40:], corpus[:40])
        for prompt in make_prompts(part, masked_tokenizer, **options)
    ]
    found = sorted((prompt.sentence, int(prompt.positions[0])) for prompt in again)
    assert found == sorted((sentence, p) for sentence, positions in drawn.items() for p in positions)


def test_special_tokens_are_never_masked(masked_tokenizer: Any) -> None:
    sentences = ["clock [MASK] unheardof boat [PAD]", "unheardof", "clock"]
    table = pd.DataFrame({"sentence_id": [1, 2, 3], "sentence": sentences})
    prompts = make_prompts(table, masked_tokenizer, seed=0, positions=99, masked=True)
    assert [(prompt.sentence, *prompt.positions.tolist()) for prompt in prompts] == [(1, 1), (1, 4), (3, 1)]
    with pytest.raises(CorpusError, match="none of the 2 sentences"):
        make_prompts(table[1:], masked_tokenizer, seed=0, skip_first=True, masked=True)


def test_long_masked_sentences_are_cut_before_their_closing_token(
    masked_tokenizer: Any, corpus: pd.DataFrame
) -> None:
    prompts = make_prompts(corpus, masked_tokenizer, seed=0, positions=99, max_tokens=5, masked=True)
    assert {len(prompt.tokens) for prompt in prompts} == {5}
    assert {prompt.tokens[0] for prompt in prompts} == {masked_tokenizer.cls_token_id}
    assert {prompt.tokens[-1] for prompt in prompts} == {masked_tokenizer.sep_token_id}
    assert {int(prompt.positions[0]) for prompt in prompts} == {1, 2, 3}
    assert len(prompts) == 3 * len(corpus)


def test_masked_prompts_need_a_mask(tiny_model_folder: Path, corpus: pd.DataFrame) -> None:
    with pytest.raises(ModelError, match="no mask token"):
        make_prompts(corpus, load_tokenizer(str(tiny_model_folder)), seed=0, masked=True)


def test_a_masked_model_has_no_token_before(tiny_masked_folder: MaskedFolder, tmp_path: Path) -> None:
    transformer = load_model(str(tiny_masked_folder(FAMILIES[0])), device="cpu")
    with pytest.raises(ModelError, match=r"one-forward: \w+ForMaskedLM given.* predicts token after token"):
        extract(transformer, [Prompt(0, [5, 6], np.array([1]))], tmp_path / "s.zarr", previous=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_store_holds_what_a_plain_pass_over_each_masked_sentence_gives(
    family: str, tiny_masked_folder: MaskedFolder, corpus: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tiny_masked_folder(family)
    write_table(tmp_path / "corpus.parquet", corpus)
    digest = model_digest(folder)
    describe_as(tmp_path / "model.json", source=str(folder), model_digest=digest, task="masked")
    extract_shard(
        tmp_path / "s.zarr",
        tmp_path / "corpus.parquet",
        tmp_path / "model.json",
        split="training",
        shard=0,
        shards=1,
        seed=1,
        options=ActivationOptions(positions=2, max_tokens=64, top_k=7, store=EXACT),
        device="cpu",
        batch_tokens=300,
    )
    found = ActivationStore([tmp_path / "s.zarr"])
    assert (found.levels, found.samples, found.hidden) == (5, 80, 32)
    states = found.shard(0)
    kept = {name: found.of_samples(name) for name in SAMPLE_ARRAYS}
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), device="cpu").model
    text = dict(zip(corpus["sentence_id"], corpus["sentence"], strict=True))
    lengths = set()
    for i in range(found.samples):
        encoded = tokenizer(text[int(kept["sentence"][i])], return_tensors="pt")
        position = int(kept["position"][i])
        tokens = encoded["input_ids"][0]
        lengths.add(len(tokens))
        assert kept["token"][i] == tokens[position]
        assert tokens[position] not in tokenizer.all_special_ids
        tokens[position] = tokenizer.mask_token_id
        with torch.inference_mode():
            out = model(**encoded, output_hidden_states=True)
        expected = torch.stack([level[0, position] for level in out.hidden_states]).numpy()
        np.testing.assert_allclose(states[:, i], expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        top = out.logits[0, position].topk(7)
        assert kept["top_tokens"][i].tolist() == top.indices.tolist()
        np.testing.assert_allclose(kept["top_logits"][i], top.values, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(kept["logsumexp"][i], out.logits[0, position].logsumexp(-1), rtol=1e-4)
    assert len(lengths) > 1  # so that there was padding
