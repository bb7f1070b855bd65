"""Encoder-decoders that write in several languages begin a text as their own targets begin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_models import word_tokenizer

from onejump.base.errors import ModelError
from onejump.models.languages import language_token, set_languages, write_in_target_language
from onejump.models.loading import load_tokenizer
from onejump.models.pairs import decoder_inputs

SIZES = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "d_model": 16,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def m2m100(folder: Path) -> Any:
    sentencepiece = pytest.importorskip("sentencepiece")
    (folder / "text").write_text("the green boat\nthe old farmer\n", encoding="utf-8")
    names = {"unk_id": 3, "bos_id": 0, "pad_id": 1, "eos_id": 2, "pad_piece": "<pad>"}
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "spm"), vocab_size=18, minloglevel=2, **names
    )
    made = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    pieces = {made.id_to_piece(number): number for number in range(len(made))}
    (folder / "vocabulary.json").write_text(json.dumps(pieces), encoding="utf-8")
    return hf.M2M100Tokenizer(str(folder / "vocabulary.json"), str(folder / "spm.model"))


# A tokenizer, its class of models, and what it calls French and German.
KINDS: dict[str, tuple[Callable[[Path], Any], str, tuple[str, str]]] = {
    "mbart": (lambda _: hf.MBartTokenizer(), "MBart", ("fr_XX", "de_DE")),
    "mbart50": (lambda _: hf.MBart50Tokenizer(), "MBart", ("fr_XX", "de_DE")),
    "nllb": (lambda _: hf.NllbTokenizer(), "M2M100", ("fra_Latn", "deu_Latn")),
    "m2m100": (m2m100, "M2M100", ("fr", "de")),
}


@pytest.fixture(params=list(KINDS))
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, str, str]:
    """A random model, its tokenizer without a target language, and two languages."""
    make, family, (french, german) = KINDS[request.param]
    make(tmp_path).save_pretrained(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer"))
    torch.manual_seed(0)
    config = getattr(hf, f"{family}Config")(**SIZES, **HEADS, vocab_size=400)
    model = getattr(hf, f"{family}ForConditionalGeneration")(config).eval()
    model.generation_config.update(
        decoder_start_token_id=2, forced_bos_token_id=None, forced_eos_token_id=None
    )
    return model, tokenizer, french, german


def test_a_text_begins_as_a_target_of_the_language(writer: tuple[Any, Any, str, str]) -> None:
    model, tokenizer, french, german = writer
    for source, language in ((french, german), (german, french)):
        set_languages(tokenizer, {"src_lang": source, "tgt_lang": language})
        write_in_target_language(model, tokenizer)
        given = tokenizer("a", return_tensors="pt")
        token = language_token(tokenizer, source)
        assert token in given["input_ids"][0].tolist()
        assert tokenizer.convert_ids_to_tokens(token).strip("_") == source
        labels = tokenizer(text_target="a")["input_ids"]
        begin = [*decoder_inputs(model, labels), labels[-1]]
        begin = begin[: begin.index(language_token(tokenizer, language)) + 1]
        made = model.generate(**given, max_new_tokens=3, num_beams=1)[0].tolist()
        assert made[: len(begin)] == begin


def test_languages_are_kept_with_a_tokenizer(writer: tuple[Any, Any, str, str], tmp_path: Path) -> None:
    _, tokenizer, french, german = writer
    set_languages(tokenizer, {"src_lang": german, "tgt_lang": french})
    tokenizer.save_pretrained(tmp_path / "kept")
    kept = load_tokenizer(str(tmp_path / "kept"))
    assert (kept.src_lang, kept.tgt_lang) == (german, french)
    assert kept("a")["input_ids"] == tokenizer("a")["input_ids"]


def test_without_a_target_language_it_says_which_there_are(writer: tuple[Any, Any, str, str]) -> None:
    model, tokenizer, french, german = writer
    with pytest.raises(ModelError, match=r"writes in several languages: name the target language") as error:
        write_in_target_language(model, tokenizer)
    assert len(str(error.value)) < 900
    # The model says it by itself: of many languages into one, say.
    model.generation_config.forced_bos_token_id = language_token(tokenizer, german)
    write_in_target_language(model, tokenizer)
    assert model.generation_config.forced_bos_token_id == language_token(tokenizer, german)
    for key in ("src_lang", "tgt_lang"):
        with pytest.raises(ModelError, match=f"language 'german' given, accepted is .*{french[:2]}"):
            set_languages(tokenizer, {key: "german"})


def test_a_tokenizer_without_languages_takes_none() -> None:
    tokenizer = word_tokenizer({"unk_token": "<unk>"})
    set_languages(tokenizer, {})
    with pytest.raises(
        ModelError, match=r"language 'de' given, but the tokenizer of the model marks no lang"
    ):
        set_languages(tokenizer, {"tgt_lang": "de"})
