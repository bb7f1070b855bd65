"""Extraction against a bare forward pass of the same batches, and against the plain way.

Bare: the model's body alone over the batches that extraction runs; no level is read, no head, no disk.
Plain: whole sentences in file order, padded, 32 at a time, with `output_hidden_states=True`, kept in memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from measure import DEFAULT, at_least, at_most, ratio, seconds

from onejump.models.activations import extract
from onejump.models.description import read_description
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.prompts import Prompt, batches, make_prompts, pad, sample_positions
from onejump.models.transformer import Transformer

SENTENCES, PLAIN_SENTENCES, ROUNDS, BATCH_TOKENS, PLAIN_BATCH = 1536, 256, 3, 4096, 32


def bare(transformer: Transformer, prompts: list[Prompt]) -> None:
    with torch.inference_mode():
        for batch in batches(prompts, BATCH_TOKENS):
            transformer.body(pad(batch)[0], use_cache=False)


def plain(transformer: Transformer, tokenizer: Any, sentences: pd.DataFrame) -> torch.Tensor:
    kept = []
    with torch.inference_mode():
        for start in range(0, len(sentences), PLAIN_BATCH):
            batch = sentences.iloc[start : start + PLAIN_BATCH]
            encoded = tokenizer(batch["sentence"].tolist(), padding=True, return_tensors="pt")
            lengths = encoded["attention_mask"].sum(1).tolist()
            ids = batch["sentence_id"].tolist()
            positions = torch.tensor(
                [int(sample_positions(n, i, seed=0)[0]) for n, i in zip(lengths, ids, strict=True)]
            )
            states = transformer.model(**encoded, output_hidden_states=True).hidden_states
            kept.append(torch.stack([level[torch.arange(len(batch)), positions] for level in states]))
    return torch.cat(kept, 1)


def main() -> None:
    description = read_description(DEFAULT / "smollm2-135m" / "model.json")
    corpus = pd.read_parquet(DEFAULT / "corpora" / "wikipedia-en.parquet")
    sentences = corpus[corpus["split"] == "training"].head(SENTENCES)
    tokenizer = load_tokenizer(description.source)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    transformer = load_model(description.source)
    with tempfile.TemporaryDirectory() as folder:

        def ours(prompts: list[Prompt]) -> None:
            extract(transformer, prompts, Path(folder, "shard.zarr"), batch_tokens=BATCH_TOKENS)

        prompts = make_prompts(sentences, tokenizer, seed=0)
        taken = seconds({"bare": lambda: bare(transformer, prompts), "ours": lambda: ours(prompts)}, ROUNDS)
        tokens = sum(len(prompt.tokens) for prompt in prompts)
        note = f"{SENTENCES} sentences, {tokens} tokens, {tokens / min(taken['ours']):.0f} tokens/s"
        at_most("extraction / bare forward pass", ratio(taken["ours"], taken["bare"]), 1.05, note)

        few = sentences.head(PLAIN_SENTENCES)
        few_prompts = make_prompts(few, tokenizer, seed=0)
        taken = seconds(
            {"plain": lambda: plain(transformer, tokenizer, few), "ours": lambda: ours(few_prompts)}, ROUNDS
        )
        note = f"{PLAIN_SENTENCES} sentences, {min(taken['plain']):.1f} s the plain way"
        at_least("plain way / extraction", ratio(taken["plain"], taken["ours"]), 2, note)


if __name__ == "__main__":
    main()
