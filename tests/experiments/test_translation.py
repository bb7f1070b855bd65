"""Texts whose tokens all exit at one level, against a plain loop and a model with fewer blocks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers as hf
from families import disturb
from stage_files import describe_as
from tiny_models import documents, word_tokenizer
from torch import nn

from onejump.base.errors import CorpusError, ModelError, OneJumpError
from onejump.base.files import write_table
from onejump.exits.gates import TopProbability
from onejump.experiments import translation as stage
from onejump.experiments.decoding_times import Decoding
from onejump.experiments.translation import FULL, exiting, measure_translation, translation, written
from onejump.figures.drawn.translation import draw
from onejump.figures.inputs import Inputs
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.translation import measure_translation_by_gates, translation_by_gates
from onejump.shortcuts.kinds.identity import Identity

SPECIAL = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
TOKENIZER = word_tokenizer(SPECIAL, "$A </s>")
SOURCES = [sentence for document in documents(4) for sentence in document][:6]


def build() -> Any:
    config = hf.MarianConfig(
        vocab_size=200,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        pad_token_id=1,
        eos_token_id=2,
        bos_token_id=None,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    model = hf.MarianMTModel(config).eval()
    disturb(model, 4)
    return model


def greedy(model: Any, source: str, new_tokens: int, change: Any = None) -> str:
    """Tokens one by one, without a cache: the last level's states are changed before the head."""
    given = torch.tensor([TOKENIZER(source)["input_ids"]])
    taken = [1]
    with torch.inference_mode():
        for _ in range(new_tokens):
            out = model(given, decoder_input_ids=torch.tensor([taken]), output_hidden_states=True)
            states = [level[0, -1] for level in out.decoder_hidden_states]
            logits = (
                model.lm_head(change(states)) + model.final_logits_bias[0] if change else out.logits[0, -1]
            )
            logits[1] = -torch.inf  # transformers never lets Marian write padding
            taken.append(int(logits.argmax()))
            if taken[-1] == 2:
                break
    return str(TOKENIZER.decode(taken, skip_special_tokens=True))


def test_the_full_model_writes_what_a_plain_loop_writes() -> None:
    model = build()
    model.generation_config.bad_words_ids = [[1]]
    found = written(Transformer(model), TOKENIZER, SOURCES, new_tokens=9, batch_tokens=20)
    assert found == [greedy(model, source, 9) for source in SOURCES]


@pytest.mark.parametrize("level", [0, 2])
def test_exits_put_the_jump_of_their_level_in_the_place_of_the_last_state(level: int) -> None:
    torch.manual_seed(2)
    jump = nn.Linear(32, 32)
    model = build()
    model.generation_config.bad_words_ids = [[1]]
    transformer = Transformer(model)
    with exiting(transformer, level, jump):
        found = written(transformer, TOKENIZER, SOURCES, new_tokens=9)
    assert found == [greedy(model, source, 9, lambda states: jump(states[level])) for source in SOURCES]
    assert found != written(transformer, TOKENIZER, SOURCES, new_tokens=9)


def test_a_natural_exit_is_a_model_with_fewer_blocks() -> None:
    model = build()
    cut = copy.deepcopy(model)
    cut.model.decoder.layers = cut.model.decoder.layers[:2]
    for each in (model, cut):
        each.generation_config.bad_words_ids = [[1]]
    transformer = Transformer(model)
    with exiting(transformer, 2, Identity()):
        found = written(transformer, TOKENIZER, SOURCES, new_tokens=9)
    assert found == [greedy(cut, source, 9) for source in SOURCES]
    assert found != written(transformer, TOKENIZER, SOURCES, new_tokens=9)


def test_steps_of_an_encoder_decoder_are_not_measured() -> None:
    with pytest.raises(ModelError, match="an encoder-decoder given, steps of a causal language model or"):
        Decoding(Transformer(build()), batch=1, context=8)


def test_bleu_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    transformer = Transformer(build())
    full = written(transformer, TOKENIZER, SOURCES, new_tokens=9)
    targets = [*full[:3], *SOURCES[3:]]
    identity = Identity()
    found = translation(
        transformer, TOKENIZER, SOURCES, targets, {"identity": lambda _: identity}, new_tokens=9
    ).set_index(["method", "level"])
    assert list(found.index) == [(FULL, 3), *(("identity", level) for level in range(3))]
    row = found.loc[FULL, 3]
    assert (row["same"], row["n"]) == (1.0, 6)
    assert row["bleu"] == sacrebleu.corpus_bleu(full, [targets]).score > 1
    with exiting(transformer, 1, identity):
        early = written(transformer, TOKENIZER, SOURCES, new_tokens=9)
    row = found.loc["identity", 1]
    assert row["chrf"] == sacrebleu.corpus_chrf(early, [targets]).score
    assert row["same"] == sum(one == other for one, other in zip(early, full, strict=True)) / 6


def test_texts_by_gates_are_those_of_the_decode_loop() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    transformer = Transformer(build())
    shortcut = Identity()
    found = translation_by_gates(
        transformer, TOKENIZER, SOURCES, SOURCES, {"identity": lambda _: shortcut}, [0.1, 0.5], new_tokens=9
    ).set_index(["mode", "threshold"])
    full = written(transformer, TOKENIZER, SOURCES, new_tokens=9)
    for mode in ("trusted", "copied"):
        gate = TopProbability({1: 0.5, 2: 0.5})
        engine = EarlyExit(transformer, shortcut, gate=gate, mode=mode, packed=False)
        alone = [
            engine.generate(torch.tensor([TOKENIZER(source)["input_ids"]]), max_new_tokens=9)
            for source in SOURCES
        ]
        texts = [TOKENIZER.decode(one.new_tokens[0], skip_special_tokens=True) for one in alone]
        levels = [level for one in alone for level in one.exit_levels[0][1:]]
        row = found.loc[mode, 0.5]
        assert row["bleu"] == sacrebleu.corpus_bleu(texts, [SOURCES]).score
        assert row["level"] == sum(levels) / len(levels) < 3
        assert row["same"] == sum(map(str.__eq__, texts, full)) / 6 < 1
    assert found.loc["copied", 0.5]["blocks"] < 3


def test_the_stage_writes_a_table_and_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu")
    build().save_pretrained(tmp_path / "marian")
    TOKENIZER.save_pretrained(tmp_path / "marian")
    describe_as(tmp_path / "model.json", source=str(tmp_path / "marian"), task="seq2seq", blocks=3)
    monkeypatch.setattr("onejump.models.loading.check_model_files", lambda *_: None)
    pairs = pd.DataFrame({"sentence": SOURCES, "target": SOURCES, "split": "validation"})
    write_table(tmp_path / "pairs.parquet", pairs)

    options: dict[str, Any] = {
        "methods": {"identity": "identity"},
        "pairs": 4,
        "new_tokens": 6,
        "device": "cpu",
    }
    options |= {"model": "m", "corpus": "c"}

    def measure(sentences: str) -> None:
        files = (tmp_path / sentences, [], [], tmp_path / "model.json")
        measure_translation(tmp_path / "table.parquet", *files, **options)

    def measure_by_gates(sentences: str) -> None:
        files = (tmp_path / sentences, [], [], tmp_path / "model.json")
        measure_translation_by_gates(tmp_path / "gates.parquet", *files, thresholds=[0.1, 0.4], **options)

    measure("pairs.parquet")
    measure_by_gates("pairs.parquet")
    found = pd.read_parquet(tmp_path / "table.parquet")
    assert found["n"].unique() == [4]
    assert set(found["level"]) == {0, 1, 2, 3}
    tables = {"translation": tmp_path / "table.parquet", "translation_gates": tmp_path / "gates.parquet"}
    figure = draw(Inputs("translation", tables))
    (bleu, chrf, by_gates) = figure.axes
    assert (bleu.get_ylabel(), chrf.get_ylabel(), by_gates.get_ylabel()) == ("BLEU", "chrF", "BLEU")
    gates = pd.read_parquet(tmp_path / "gates.parquet")
    assert list(zip(gates["mode"], gates["threshold"], strict=True)) == [
        *(("trusted", one) for one in (0.1, 0.4)),
        *(("copied", one) for one in (0.1, 0.4)),
    ]
    assert (
        list(by_gates.lines[1].get_ydata())
        == gates[gates["mode"] == "copied"].sort_values("level")["bleu"].tolist()
    )
    assert list(bleu.lines[0].get_ydata()) == found.loc[found["method"] == "identity", "bleu"].tolist()
    write_table(tmp_path / "texts.parquet", pairs.drop(columns="target"))
    with pytest.raises(CorpusError, match="a corpus without targets given, translation takes pairs"):
        measure("texts.parquet")


def test_a_study_puts_its_prefix_before_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build().save_pretrained(tmp_path / "marian")
    TOKENIZER.save_pretrained(tmp_path / "marian")
    about = {
        "source": str(tmp_path / "marian"),
        "task": "seq2seq",
        "blocks": 3,
        "pairs": {"prefix": "river "},
    }
    describe_as(tmp_path / "model.json", **about)
    monkeypatch.setattr("onejump.models.loading.check_model_files", lambda *_: None)
    pairs = pd.DataFrame({"sentence": SOURCES, "target": SOURCES, "split": "validation"})
    write_table(tmp_path / "pairs.parquet", pairs)
    where = {"device": "cpu", "device_map": None}
    given = stage.load_translated(
        tmp_path / "pairs.parquet", [], [], tmp_path / "model.json", None, methods={}, pairs=2, **where
    )
    assert given.sources == [f"river {source}" for source in SOURCES[:2]]


def test_without_sacrebleu_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(OneJumpError, match=r"BLEU needs sacrebleu: pip install 'onejump\[pairs\]'"):
        stage.translation(Transformer(build()), TOKENIZER, SOURCES, SOURCES, {}, new_tokens=2)
