"""Agreement inside of blocks and exits between them, against plain loops in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import disturb
from stage_files import describe_as
from tiny_models import documents
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from onejump.base.errors import OneJumpError
from onejump.base.files import read_table, write_table
from onejump.data.document_roles import assign_documents
from onejump.exits.oracle import oracle_exits
from onejump.experiments.sub_layers import (
    compare_exits,
    measure_sub_layers,
    measures,
    read_sub_layers,
    thinned,
)
from onejump.models.activations import ActivationOptions
from onejump.models.prompts import Prompt
from onejump.models.source_files import model_digest
from onejump.models.transformer import Transformer

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 97,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
COMPUTE: dict[str, Any] = {"device": "cpu", "device_map": None, "batch_tokens": 64}


def llama(dtype: torch.dtype = torch.float32) -> Transformer:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    disturb(model, 4)
    return Transformer(model.to(dtype))


def some_prompts(count: int = 12, mask: int | None = None) -> list[Prompt]:
    generator = np.random.default_rng(0)
    lengths = sorted(generator.integers(3, 11, size=count), reverse=True)
    return [
        Prompt(number, generator.integers(3, 97, size=length).tolist(), np.array([length - 1]), mask)
        for number, length in enumerate(lengths)
    ]


def loop_over_llama(transformer: Transformer, prompts: list[Prompt]) -> pd.DataFrame:
    """Agreement, overlap and changes by a loop over samples: the states by hooks, the head in float64."""
    model = transformer.model.double()
    norm, unembedding = model.model.norm, model.lm_head.weight
    rows: list[tuple[int, str, str, float]] = []
    for prompt in prompts:
        seen: dict[tuple[int, str], torch.Tensor] = {}
        handles = []
        for number, block in enumerate(model.model.layers, start=1):
            for module, state in ((block.self_attn, "attention"), (block.mlp, "feed-forward")):
                handles.append(
                    module.register_forward_hook(
                        lambda _, __, out, key=(number, state), seen=seen: seen.update(
                            {key: (out[0] if isinstance(out, tuple) else out)[0, -1]}
                        )
                    )
                )
        with torch.inference_mode():
            states = model(torch.tensor([prompt.tokens]), output_hidden_states=True).hidden_states
        for handle in handles:
            handle.remove()
        stream = states[0][0, -1]
        seen[0, "level"] = stream
        for number in (1, 2, 3):
            seen[number, "middle"] = stream + seen[number, "attention"]
            stream = seen[number, "level"] = seen[number, "middle"] + seen[number, "feed-forward"]
        with torch.inference_mode():
            best = {key: (unembedding @ norm(state)).topk(10).indices.tolist() for key, state in seen.items()}
        final = best[3, "level"]
        for (block, state), tokens in best.items():
            rows.append((block, state, "agreement", float(tokens[0] == final[0])))
            rows.append((block, state, "overlap", len(set(tokens) & set(final)) / 10))
            if (block - 1, state) in best:
                rows.append((block, state, "changes", float(tokens[0] != best[block - 1, state][0])))
    model.float()
    table = pd.DataFrame(rows, columns=["block", "state", "metric", "value"])
    return table.groupby(["block", "state", "metric"]).mean()


def test_measures_are_those_of_a_loop_over_samples() -> None:
    transformer, prompts = llama(), some_prompts()
    expected = loop_over_llama(transformer, prompts)
    read = read_sub_layers(transformer, prompts, batch_tokens=40)
    table = measures(read, read.sentences)
    found = table.set_index(["block", "state", "metric"])["value"].sort_index()
    pd.testing.assert_series_equal(found, expected["value"].sort_index())
    assert 0 < found[:, "middle", "agreement"].mean() < 1
    assert (found[3, "level"][["agreement", "overlap"]] == 1).all()
    assert (table["n"] == len(prompts)).all()
    # One sample in each document: the usual standard error of a mean.
    one = table[(table["block"] == 2) & (table["state"] == "middle") & (table["metric"] == "agreement")]
    share = float(one["value"].iloc[0])
    assert float(one["stderr"].iloc[0]) == pytest.approx((share * (1 - share) / (len(prompts) - 1)) ** 0.5)


def test_the_probability_is_that_of_the_models_own_head() -> None:
    transformer, prompts = llama(), some_prompts()
    read = read_sub_layers(transformer, prompts)
    for sample, prompt in enumerate(prompts):
        with torch.inference_mode():
            logits = transformer.model(torch.tensor([prompt.tokens])).logits[0, -1].double()
        assert read.final.tokens[sample, 0] == logits.argmax()
        assert read.final.probability[sample] == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)


def test_a_masked_model_is_read_at_its_masked_token() -> None:
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SIZES))
    disturb(model, 4)
    transformer, prompts = Transformer(model), some_prompts(mask=2)
    read = read_sub_layers(transformer, prompts, top=5, batch_tokens=40)
    for sample, prompt in enumerate(prompts):
        tokens = torch.tensor([prompt.tokens])
        tokens[0, prompt.positions] = 2
        with torch.inference_mode():
            logits = model(tokens).logits[0, int(prompt.positions[0])]
        assert read.final.tokens[sample].tolist() == logits.topk(5).indices.tolist()
    assert {state for _, state in read.places} == {"level", "middle", "attention", "feed-forward"}


def test_half_precision_reads_about_the_same() -> None:
    prompts = some_prompts(40)
    reads = [read_sub_layers(llama(dtype), prompts) for dtype in (torch.float32, torch.bfloat16)]
    tables = [measures(read, read.sentences).set_index(["block", "state", "metric"]) for read in reads]
    assert tables[0].index.equals(tables[1].index)
    assert (tables[0]["value"] - tables[1]["value"]).abs().max() < 0.2


def test_an_all_knowing_gate_exits_at_the_first_and_at_the_stable_place() -> None:
    hits = np.array([[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], bool)
    first, stable = oracle_exits(hits)
    assert first.tolist() == [1, 0, 4, 0, 2]
    assert stable.tolist() == [3, 0, 4, 4, 2]


def exits_by_loop(
    depths: list[float], hits: np.ndarray, probability: np.ndarray, threshold: float, levels: int
) -> tuple[float, float]:
    """Agreement and blocks of a fixed threshold, from level 1 on, sample after sample."""
    agreed, blocks = [], []
    for of_sample, sure in zip(hits, probability, strict=True):
        exit_at = [i for i, depth in enumerate(depths) if depth >= 1 and sure[i] >= threshold]
        agreed.append(bool(of_sample[exit_at[0]]) if exit_at else True)
        blocks.append(depths[exit_at[0]] if exit_at else float(levels))
    return float(np.mean(agreed)), float(np.mean(blocks))


def test_exits_are_those_of_a_loop_over_samples() -> None:
    transformer = llama()
    held_out, validation = (
        read_sub_layers(transformer, prompts) for prompts in (some_prompts(120), some_prompts(60))
    )
    documents_of = held_out.sentences, validation.sentences
    table = compare_exits(
        held_out, validation, documents_of, rules=["fixed", "per-level"], targets=[0.95, 0.5], from_level=1
    )
    assert table["exits"].tolist() == 6 * ["blocks"] + 6 * ["half-blocks"]
    assert table["gate"].tolist() == 2 * ["first", "stable", *2 * ["fixed"], *2 * ["per-level"]]
    places = {
        "blocks": [(b, "level") for b in range(3)],
        "half-blocks": [
            (0, "level"),
            (1, "middle"),
            (1, "level"),
            (2, "middle"),
            (2, "level"),
            (3, "middle"),
        ],
    }
    for between, of_exits in places.items():
        assert validation.exits(between) == of_exits
        depths = [block - 0.5 * (state == "middle") for block, state in of_exits]
        final = validation.places[3, "level"].tokens[:, 0]
        hits = np.stack([validation.places[place].tokens[:, 0] == final for place in of_exits], 1)
        sure = np.stack([validation.places[place].probability for place in of_exits], 1)
        rows = table[table["exits"] == between]
        for target in (0.95, 0.5):
            row = rows[(rows["gate"] == "fixed") & (rows["target"] == target)].iloc[0]
            agreement, blocks = exits_by_loop(depths, hits, sure, row["threshold"], 3)
            assert row["agreement"] == pytest.approx(agreement)
            assert row["blocks"] == pytest.approx(blocks)
            assert row["saved"] == pytest.approx(1 - blocks / 3)
            assert row["reached"]
        oracle = table[(table["exits"] == between) & (table["gate"] == "first")].iloc[0]
        first = [next((d for d, hit in zip(depths, of, strict=True) if hit), 3.0) for of in hits]
        assert oracle["blocks"] == pytest.approx(np.mean(first))
        assert oracle["agreement"] == 1
    # More places to exit at: an oracle saves at least as much.
    saved = table[table["gate"] == "first"].set_index("exits")["saved"]
    assert saved["half-blocks"] >= saved["blocks"]
    few = compare_exits(
        validation,
        validation,
        (documents_of[1], documents_of[1]),
        rules=["fixed"],
        targets=[0.95],
        from_level=1,
    )
    refused = few[few["gate"] == "fixed"]
    assert refused["note"].str.contains("there are 60 held-out samples").all()
    assert not refused["reached"].any()
    assert (refused["saved"] == 0).all()


def test_parallel_blocks_have_no_half() -> None:
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))
    disturb(model, 4)
    read = read_sub_layers(Transformer(model), some_prompts())
    assert {state for _, state in read.places} == {"level", "both"}
    of = read.sentences
    table = compare_exits(read, read, (of, of), rules=["fixed"], targets=[0.5], from_level=1)
    assert set(table["exits"]) == {"blocks"}


def test_positions_are_thinned_evenly() -> None:
    prompts = [Prompt(i, list(range(9)), np.arange(2, 8)) for i in range(5)]
    some = thinned(prompts, 10)
    assert sum(len(prompt.positions) for prompt in some) == 10
    assert {prompt.sentence for prompt in some} == set(range(5))
    whole = thinned(prompts, 1000)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(whole, prompts, strict=True))
    assert [len(prompt.positions) for prompt in thinned(prompts[:2], 1)] == [1]


@pytest.fixture
def study(tiny_model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What the stage is given: a described model and a corpus of 300 and 60 sentences."""
    sentences = [sentence for document in documents(72) for sentence in document]
    table = pd.DataFrame({"sentence": sentences, "sentence_id": range(100, 460)})
    table["document"] = [f"d{i // 5}" for i in range(360)]
    table["split"] = ["training"] * 300 + ["validation"] * 60
    write_table(tmp_path / "corpus.parquet", table)
    assign_documents(
        tmp_path / "roles.parquet", tmp_path / "corpus.parquet", stopping=0.1, thresholds=0.5, seed=0
    )
    describe_as(
        tmp_path / "model.json", source=str(tiny_model_folder), model_digest=model_digest(tiny_model_folder)
    )
    given = {
        name: tmp_path / f"{file}"
        for name, file in (
            ("sentences", "corpus.parquet"),
            ("documents", "roles.parquet"),
            ("description", "model.json"),
        )
    }
    return {**given, "seed": 3, "options": ActivationOptions(), **COMPUTE}


def test_the_stage(study: dict[str, Any], tmp_path: Path) -> None:
    table, exits = tmp_path / "table.parquet", tmp_path / "exits.parquet"
    measure_sub_layers(table, exits, samples=110, model="tiny", corpus="stories", **study)
    found = read_table(table)
    assert list(found) == ["model", "corpus", "block", "state", "metric", "value", "stderr", "n", "documents"]
    assert set(found["metric"]) == {"agreement", "overlap", "changes"}
    assert (found["n"] == 60).all()
    assert (found["documents"] == 12).all()
    compared = read_table(exits)
    assert set(compared["exits"]) == {"blocks", "half-blocks"}
    assert set(compared["gate"]) == {"first", "stable", "fixed", "per-level"}
    assert (compared["held_out_n"] == 110).all()
    assert (compared["model"] == "tiny").all()
    assert compared[compared["gate"] == "fixed"]["reached"].all()
    with pytest.raises(OneJumpError, match=r"sub-layers\.top: 201 given, 1 to V = 200 accepted"):
        measure_sub_layers(table, exits, top=201, model="tiny", corpus="stories", **study)
