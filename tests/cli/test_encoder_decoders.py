"""onejump generate and onejump bench with an encoder-decoder: the prompt is the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from click.testing import CliRunner
from families import disturb
from tiny_models import word_tokenizer

from onejump.cli.main import main
from onejump.models.loading import load_model
from onejump.runtime.artefact import OneJump
from onejump.runtime.jump_config import JumpConfig
from onejump.runtime.weight_hash import weight_hashes
from onejump.shortcuts.kinds.njtc import NJTC

SOURCES = ("The old farmer counted the green boat", "My neighbour found", "A quiet boy painted a small clock")
TOKENIZER = word_tokenizer({"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}, "$A </s>")


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random Marian, which asks for four beams as those on the hub do, and a jump of it."""
    folder = tmp_path_factory.mktemp("marian")
    sizes: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 3, "d_model": 32, "vocab_size": 200}
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    tokens = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": None, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    config = hf.MarianConfig(**sizes, **tokens, max_position_embeddings=64, forced_eos_token_id=2)
    model = hf.MarianMTModel(config).eval()
    disturb(model, 4)
    model.generation_config.update(num_beams=4, bad_words_ids=[[1]], max_length=40, decoder_start_token_id=1)
    model.generation_config.update(forced_eos_token_id=2, eos_token_id=2, pad_token_id=1)
    model.save_pretrained(folder / "marian")
    TOKENIZER.save_pretrained(folder / "marian")
    transformer = load_model(str(folder / "marian"), device="cpu")
    directions, _ = torch.linalg.qr(torch.randn(32, 28, generator=torch.Generator().manual_seed(3)))
    shortcut = NJTC(directions, directions.T)
    config = JumpConfig(
        method="ojfa",
        kind=shortcut.kind,
        rank=28,
        level=2,
        base_model="marian",
        architecture="MarianMTModel",
        causal=False,
        task="seq2seq",
        blocks=3,
        hidden=32,
        vocabulary=200,
        norm=None,
        unembedding=weight_hashes(transformer.head.unembedding, "float32"),
        study="tiny",
        model="marian",
        corpus="random",
        gates={"95%": {"kind": "top-probability", "levels": [1, 2], "thresholds": [0.05, 0.03]}},
    )
    OneJump(config, shortcut).save_pretrained(folder / "jump")
    return folder / "marian", folder / "jump"


def own(folder: Path, source: str, tokens: int) -> list[int]:
    """What transformers itself writes, without beams."""
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder)
    given = TOKENIZER(source, return_tensors="pt")["input_ids"]
    found: list[int] = model.generate(given, max_new_tokens=tokens, num_beams=1)[0, 1:].tolist()
    return found


def test_a_source_is_translated_as_the_model_itself_does(marian: tuple[Path, Path]) -> None:
    for source in SOURCES:
        status, printed, said = run("generate", *marian, source, "--max-new-tokens", 12, "--json")
        assert (status, said) == (0, "")
        record = json.loads(printed)
        assert record["tokens"] == own(marian[0], source, 12)
        assert record["drafted"] > 0
    text = TOKENIZER.decode(own(marian[0], SOURCES[0], 12), skip_special_tokens=True)
    assert run("generate", *marian, SOURCES[0], "--max-new-tokens", 12) == (0, text + "\n", "")


@pytest.mark.parametrize("batch", [1, 2])
def test_ways_to_translate_are_compared(marian: tuple[Path, Path], tmp_path: Path, batch: int) -> None:
    file = tmp_path / "sources.txt"
    file.write_text("\n".join(SOURCES), encoding="utf-8")
    options = ("--prompts", file, "--max-new-tokens", 10, "--batch", batch, "--json")
    status, printed, said = run("bench", *marian, *options)
    assert (status, said) == (0, "")
    found = json.loads(printed)
    for method in ("model.generate", "plain", "verified"):
        assert (found["methods"][method]["same"], found["methods"][method]["texts"]) == (3, 3)
    assert found["methods"]["copied"]["blocks"] < 3
    assert found["methods"]["trusted"]["agreement"] is not None
    tokens = [sum(len(own(marian[0], source, 10)) for source in SOURCES)]
    assert [sum(r["tokens"] for r in found["runs"] if r["method"] == "plain")] == tokens
