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

from onejump.cli.main import main

SOURCES = ("The old farmer counted the green boat", "My neighbour found", "A quiet boy painted a small clock")


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def own(folder: Path, source: str, tokens: int, **options: Any) -> list[int]:
    """What transformers itself writes, without beams."""
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder)
    given = hf.AutoTokenizer.from_pretrained(folder)(source, return_tensors="pt")["input_ids"]
    found: list[int] = model.generate(given, max_new_tokens=tokens, num_beams=1, **options)[0, 1:].tolist()
    return found


def test_a_source_is_translated_as_the_model_itself_does(tiny_marian: tuple[Path, Path]) -> None:
    for source in SOURCES:
        status, printed, said = run("generate", *tiny_marian, source, "--max-new-tokens", 12, "--json")
        assert (status, said) == (0, "")
        record = json.loads(printed)
        assert record["tokens"] == own(tiny_marian[0], source, 12)
        assert record["drafted"] > 0
    text = hf.AutoTokenizer.from_pretrained(tiny_marian[0]).decode(
        own(tiny_marian[0], SOURCES[0], 12), skip_special_tokens=True
    )
    assert run("generate", *tiny_marian, SOURCES[0], "--max-new-tokens", 12) == (0, text + "\n", "")


@pytest.mark.parametrize("batch", [1, 2])
def test_ways_to_translate_are_compared(tiny_marian: tuple[Path, Path], tmp_path: Path, batch: int) -> None:
    file = tmp_path / "sources.txt"
    file.write_text("\n".join(SOURCES), encoding="utf-8")
    options = ("--prompts", file, "--max-new-tokens", 10, "--batch", batch, "--json")
    status, printed, said = run("bench", *tiny_marian, *options)
    assert (status, said) == (0, "")
    found = json.loads(printed)
    for method in ("model.generate", "plain", "verified"):
        assert (found["methods"][method]["same"], found["methods"][method]["texts"]) == (3, 3)
    assert found["methods"]["copied"]["blocks"] < 3
    assert found["methods"]["trusted"]["agreement"] is not None
    tokens = [sum(len(own(tiny_marian[0], source, 10)) for source in SOURCES)]
    assert [sum(r["tokens"] for r in found["runs"] if r["method"] == "plain")] == tokens


@pytest.fixture(scope="module")
def mbart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mBART-50, without a language to write in."""
    folder = tmp_path_factory.mktemp("mbart")
    tokenizer = hf.MBart50Tokenizer()
    sizes: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 3, "d_model": 32}
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    torch.manual_seed(0)
    model = hf.MBartForConditionalGeneration(hf.MBartConfig(**sizes, vocab_size=len(tokenizer))).eval()
    disturb(model, 5)
    model.generation_config.update(decoder_start_token_id=2, forced_eos_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_text_is_written_in_the_language_that_is_asked_for(mbart: Path) -> None:
    asked = ("generate", mbart, "-p", "a b", "--max-new-tokens", 6, "--json")
    seen = []
    for language in ("de_DE", "fr_XX"):
        token = hf.AutoTokenizer.from_pretrained(mbart).convert_tokens_to_ids(language)
        status, printed, said = run(*asked, "--target-language", language)
        assert (status, said) == (0, "")
        seen.append(json.loads(printed)["tokens"])
        assert seen[-1] == own(mbart, "a b", 6, forced_bos_token_id=token)
        assert seen[-1][0] == token
    assert seen[0][1:] != seen[1][1:]


def test_languages_are_named_where_they_have_to_be(mbart: Path, tiny_marian: tuple[Path, Path]) -> None:
    status, printed, said = run("generate", mbart, "-p", "a")
    assert (status, printed) == (1, "")
    assert "name the target language (--target-language), one of af_ZA, ar_AR" in said
    assert (
        "language 'German' given, accepted is"
        in run("generate", mbart, "-p", "a", "--target-language", "German")[2]
    )
    for command in ("generate", "lens"):
        status, _, said = run(
            command,
            "--model" if command == "lens" else tiny_marian[0],
            *((tiny_marian[0], "a", "--target", "b") if command == "lens" else ("-p", "a")),
            "--source-language",
            "en_XX",
        )
        assert (status, said.count("\n")) == (1, 1)
        assert "language 'en_XX' given, but the tokenizer of the model marks no languages" in said


def test_the_lens_reads_a_target_in_its_language(mbart: Path) -> None:
    languages = ("--source-language", "fr_XX", "--target-language", "de_DE")
    status, printed, said = run("lens", "a b", "--model", mbart, "--target", "a", *languages)
    assert (status, said) == (0, "")
    # The decoder takes the end token, by which it starts, then the language.
    assert printed.splitlines()[1].split()[:2] == ["</s>", "de_DE"]
    said = run("lens", "a b", "--model", mbart, *languages)[2]
    assert "no target given, but the model is an encoder-decoder: give the text" in said
