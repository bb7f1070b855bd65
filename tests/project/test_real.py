"""The real default model on real text: what extraction keeps, evaluation makes of it, and exits generate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from projects import ROOT
from random_exits import padded
from torch import Tensor

from onejump.base.files import read_table
from onejump.data.store import ActivationStore
from onejump.exits.gates import TopProbability
from onejump.models.activations import extract
from onejump.models.description import read_description
from onejump.models.head import Head
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.passes import PartialPasses
from onejump.models.prompts import Prompt, make_prompts
from onejump.models.transformer import Transformer
from onejump.runtime.cost_model import Fixed
from onejump.runtime.early_exit import EarlyExit
from onejump.scoring.evaluation import evaluate
from onejump.shortcuts.kinds.identity import Identity

DEFAULT = ROOT / "results" / "default"
MODEL = DEFAULT / "smollm2-135m"
CORPUS = DEFAULT / "corpora" / "wikipedia-en.parquet"
SENTENCES = 24
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 2}

pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("real"),
    pytest.mark.skipif(not (MODEL.exists() and CORPUS.exists()), reason="`make test` fetches model and text"),
]


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return load_model(read_description(MODEL / "model.json").source, device="cpu")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(read_description(MODEL / "model.json").source)


@pytest.fixture(scope="module")
def sentences() -> pd.DataFrame:
    corpus = read_table(CORPUS)
    return corpus[corpus["split"] == "validation"].head(SENTENCES)


@pytest.fixture(scope="module")
def store(
    transformer: Transformer,
    tokenizer: Any,
    sentences: pd.DataFrame,
    tmp_path_factory: pytest.TempPathFactory,
) -> ActivationStore:
    """The default store, of two positions a sentence, the first among them for one prompt."""
    prompts = make_prompts(sentences, tokenizer, seed=0, positions=2)
    prompts.append(Prompt(prompts[0].sentence, prompts[0].tokens[:1], np.array([0])))
    path = tmp_path_factory.mktemp("real") / "shard.zarr"
    extract(transformer, prompts, path, batch_tokens=256)
    return ActivationStore([path])


@pytest.fixture(scope="module")
def plain(
    transformer: Transformer, tokenizer: Any, sentences: pd.DataFrame, store: ActivationStore
) -> list[tuple[Tensor, Tensor]]:
    """Of each sample: all levels (L + 1, H) and the final logits (V,), from whole sentences, one by one."""
    texts = dict(zip(sentences["sentence_id"], sentences["sentence"], strict=True))
    model, found = transformer.model, {}
    last: list[Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, arguments: last.append(arguments[0]))
    with torch.inference_mode():
        for sentence, text in texts.items():
            last.clear()
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            # The last of hidden_states has passed the final norm, so the norm's own input stands in.
            found[sentence] = torch.cat([*out.hidden_states[:-1], last[0]]), out.logits[0]
    hook.remove()
    samples = zip(store.of_samples("sentence"), store.of_samples("position"), strict=True)
    return [(found[s][0][:, p], found[s][1][p]) for s, p in samples]


def each(store: ActivationStore, name: str) -> Iterator[Any]:
    return iter(store.of_samples(name))


def test_the_store_holds_what_whole_sentences_give(
    store: ActivationStore, plain: list[tuple[Tensor, Tensor]]
) -> None:
    assert store.samples > SENTENCES
    for level in range(store.levels):
        expected = torch.stack([levels[level] for levels, _ in plain]).numpy()
        found = store.level(level)
        # Rounding to 10 bits, and another order of summation in each forward pass.
        scale = np.linalg.norm(expected, axis=1, keepdims=True)
        assert (np.abs(found - expected) <= 2**-10 * np.abs(expected) + 1e-4 * scale).all(), level


def test_massive_activations_are_in_the_store(store: ActivationStore) -> None:
    assert np.abs(store.level(15)).max() > 10_000


def test_the_teacher_is_the_models_own(store: ActivationStore, plain: list[tuple[Tensor, Tensor]]) -> None:
    for (_, logits), tokens, values, normaliser in zip(
        plain,
        each(store, "top_tokens"),
        each(store, "top_logits"),
        each(store, "logsumexp"),
        strict=True,
    ):
        np.testing.assert_allclose(values, logits[tokens].numpy(), atol=2e-3)
        np.testing.assert_allclose(values, logits.topk(len(tokens)).values.numpy(), atol=2e-3)
        assert normaliser == pytest.approx(float(logits.logsumexp(0)), abs=2e-3)


def test_metrics_are_a_by_hand_computation_through_the_models_own_head(
    transformer: Transformer, store: ActivationStore, plain: list[tuple[Tensor, Tensor]]
) -> None:
    head = Head.load(MODEL / "head.safetensors")
    table = evaluate(store, head, {"identity": lambda _: Identity()}, precision_at=(1, 10))
    model = transformer.model
    for level in (0, 12, 29):
        hits: dict[str, list[float]] = {"precision@1": [], "precision@10": [], "surprisal": [], "kl": []}
        for states, logits in plain:
            with torch.inference_mode():
                early = model.lm_head(model.model.norm(states[level])).double().log_softmax(0)
            final = logits.double().log_softmax(0)
            top = int(early.argmax())
            hits["precision@1"].append(top == int(final.argmax()))
            hits["precision@10"].append(top in final.topk(10).indices.tolist())
            hits["surprisal"].append(-float(early[final.argmax()]))
            hits["kl"].append(float((final.exp() * (final - early)).sum()))
        for metric, values in hits.items():
            row = table[(table["level"] == level) & (table["metric"] == metric)]
            # A sample whose two best tokens are as good as equal may fall either way after rounding.
            slack = 1 / len(values) if metric.startswith("precision") else 5e-3 * np.mean(values)
            assert row["value"].item() == pytest.approx(float(np.mean(values)), abs=slack), (metric, level)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_of_the_default_model(
    tokenizer: Any,
    transformer: Transformer,
    sentences: pd.DataFrame,
    tmp_path: Path,
    dtype: str,
) -> None:
    half = load_model(read_description(MODEL / "model.json").source, dtype=dtype, device="cpu")
    # Rounding moves some of its logits by several times their spread, which is no reason to refuse it.
    assert PartialPasses(half).rows_differ
    prompts = make_prompts(sentences.head(6), tokenizer, seed=0, positions=2, max_tokens=24)
    surprisal = []
    for name, model in (("half", half), ("full", transformer)):
        extract(model, prompts, tmp_path / f"{name}.zarr", batch_tokens=256)
        store = ActivationStore([tmp_path / f"{name}.zarr"])
        table = evaluate(store, model.head, {"identity": lambda _: Identity()}, precision_at=(1,))
        surprisal.append(table[table["metric"] == "surprisal"]["value"].to_numpy())
    # Of a dozen samples, one whose two best tokens are as good as equal may fall either way.
    np.testing.assert_allclose(surprisal[0], surprisal[1], rtol=0.15)


# Drafts of the first level are mostly wrong, those of the last one mostly right.
EARLY = TopProbability({3: 0.4, 28: 0.0})
CASES = {
    "chains, alone": (Fixed(2), False, True),
    "chains, in a batch": (Fixed(2), True, False),
    "trees, alone": (Fixed(2, 4), False, False),
    "trees, in a batch": (Fixed(1, 4), True, True),
}


@pytest.fixture(scope="module")
def continued(
    transformer: Transformer, tokenizer: Any, sentences: pd.DataFrame
) -> list[tuple[list[int], list[int]]]:
    """Prompts of different lengths, and the new tokens of `model.generate`."""
    found = []
    for text, length in zip(sentences["sentence"].head(3), (9, 4, 14), strict=True):
        tokens = tokenizer(text, return_tensors="pt").input_ids[:, :length]
        own = transformer.model.generate(tokens, **GREEDY, attention_mask=torch.ones_like(tokens))
        found.append((tokens[0].tolist(), own[0, length:].tolist()))
    return found


@pytest.fixture(scope="module")
def engines(transformer: Transformer) -> dict[bool, EarlyExit]:
    return {
        is_packed: EarlyExit(transformer, Identity(), gate=EARLY, packed=is_packed)
        for is_packed in (False, True)
    }


@pytest.mark.parametrize("case", CASES)
def test_verified_text_is_the_models_own(
    continued: list[tuple[list[int], list[int]]], engines: dict[bool, EarlyExit], case: str
) -> None:
    policy, together, is_packed = CASES[case]
    exits = engines[is_packed]
    exits.policy = policy
    batches = [continued] if together else [[one] for one in continued[:2]]
    drafted = accepted = 0
    for batch in batches:
        tokens, mask = padded([torch.tensor([given]) for given, _ in batch])
        found = exits.generate(tokens, attention_mask=mask, **GREEDY)
        assert found.new_tokens == [own for _, own in batch]
        drafted, accepted = drafted + found.drafted, accepted + found.accepted
    assert 0 < accepted < drafted
