"""Tokens as text that can be read, for tokenizers whose pieces are bytes, words or parts of words."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from onejump.lens.texts import Readable, visible

TEXT = 'Über naïve "cafés" 東京 🗼\n\tfor i in range(3):\n    print(i) '


def byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(["the moon the moon is is"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def sentence_piece() -> Any:
    """Llama 2's way: a mark for a space, and bytes for what is unknown."""
    pieces = ["<unk>", "a", "▁a", "▁the", "▁moon", "s", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_pieces_of_bytes_show_characters_or_their_bytes() -> None:
    tokenizer = byte_level()
    readable = Readable(tokenizer)
    shown = dict(zip(tokenizer(TEXT)["input_ids"], readable(tokenizer(TEXT)["input_ids"]), strict=True))
    ids = tokenizer.convert_tokens_to_ids
    assert shown[ids("Ċ")] == "⏎"
    assert shown[ids("ĉ")] == "⇥"
    assert shown[ids("Ġ")] == "·"
    assert shown[ids("i")] == "i"
    # The first byte of "Ü", alone.
    assert shown[ids("Ã")] == "\\xc3"
    assert readable(tokenizer(" moon")["input_ids"]) == ["·moon"]
    assert readable([ids("<|end|>"), len(tokenizer) + 3]) == ["<|end|>", f"[{len(tokenizer) + 3}]"]


def test_pieces_with_a_mark_for_a_space() -> None:
    tokenizer = sentence_piece()
    ids = tokenizer.convert_tokens_to_ids
    readable = Readable(tokenizer)
    assert readable([ids("▁moon"), ids("s"), ids("<0x0A>"), ids("<0xE6>")]) == ["·moon", "s", "⏎", "<0xE6>"]


def test_whole_words_and_parts_of_words() -> None:
    words = word_tokenizer({"unk_token": "<unk>"})
    assert Readable(words)(words("the river")["input_ids"]) == ["·the", "·river"]
    pieces = {"[UNK]": 0, "a": 1, "un": 2, "##happy": 3}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert Readable(wrapped)([2, 3]) == ["·un", "happy"]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (" a b", "·a·b"),
        ("\r\n", "␍⏎"),
        ("\u00a0\u200b\u202e", "\\u00a0\\u200b\\u202e"),
        ("\U000e0001", "\\U000e0001"),
        ("東京é🗼", "東京é🗼"),
    ],
)
def test_every_character_is_seen(text: str, seen: str) -> None:
    assert visible(text) == seen
