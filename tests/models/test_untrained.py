"""Models that begin with random weights: they load like any other, and their tokenizer fits them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers as hf
from tiny_models import documents

from onejump.base.errors import CorpusError
from onejump.base.files import write_table
from onejump.models.loading import load_model
from onejump.models.model_stage import describe
from onejump.models.untrained import UntrainedOptions, make_untrained


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    texts = [sentence for document in documents(30) for sentence in document]
    table = pd.DataFrame({"sentence": texts[:60], "target": texts[60:120], "split": "training"})
    table.loc[50:, ["sentence", "split"]] = ["Qqq zzz.", "validation"]
    write_table(tmp_path / "pairs.parquet", table)
    return tmp_path / "pairs.parquet"


@pytest.mark.parametrize("architecture", ["pegasus", "marian", "bart", "t5"])
def test_an_untrained_model_is_one_like_any_other(architecture: str, sentences: Path, tmp_path: Path) -> None:
    options = UntrainedOptions(architecture, blocks=3, encoder_blocks=2, hidden=32, heads=4, vocabulary=150)
    for name in ("one", "two"):
        make_untrained(tmp_path / name, sentences, options=options, seed=3)
    one, two = (load_model(str(tmp_path / name), device="cpu") for name in ("one", "two"))
    assert (one.task, len(one.blocks), one.hidden) == ("seq2seq", 3, 32)
    assert all(
        torch.equal(first, second)
        for first, second in zip(one.model.parameters(), two.model.parameters(), strict=True)
    )
    describe(tmp_path / "m.json", tmp_path / "h.safetensors", source=str(tmp_path / "one"), device="cpu")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(tokenizer) == one.head.vocabulary <= 150
    text = "Our doctor counted the green boat near the river at night."
    tokens = tokenizer(text_target=text)["input_ids"]
    assert tokens[-1] == one.model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id in tokenizer("Q")["input_ids"]  # it saw no validation text


def test_a_corpus_without_targets_is_refused(sentences: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "texts.parquet", pd.read_parquet(sentences).drop(columns="target"))
    options = UntrainedOptions("t5", blocks=1, encoder_blocks=1, hidden=8, heads=2, vocabulary=50)
    with pytest.raises(CorpusError, match="a corpus without targets given, an encoder-decoder takes pairs"):
        make_untrained(tmp_path / "one", tmp_path / "texts.parquet", options=options, seed=0)
