"""Pieces of words, as tokenizers of each family are built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_models import word_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from onejump.models.pieces import KINDS, describe_pieces, family_of, kinds_of

TEXT = [
    "The old farmer counted the green boats near the river.",
    "A young teacher painted two heavy stones, happily; a farmer's boating was unhappily unfinished.",
    "Farming, teaching and painting (in the garden) are happiness.",
]


def trained(tokenizer: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>"]
    return trained(
        tokenizer, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=special)
    )


def sentencepiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return trained(
        tokenizer, trainers.UnigramTrainer(vocab_size=90, special_tokens=["<unk>"], unk_token="<unk>")
    )


def llama() -> PreTrainedTokenizerFast:
    """SentencePiece as Llama has it: no pre-tokenizer, spaces become marks in the normalizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=100, special_tokens=["<unk>"]))


def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return trained(tokenizer, trainers.WordPieceTrainer(vocab_size=100, special_tokens=["<unk>"]))


def ends_marked() -> PreTrainedTokenizerFast:
    """Pieces that say where a word ends, as those of CLIP and XLM do."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(vocab_size=62, special_tokens=["<unk>"], end_of_word_suffix="</w>")
    return trained(tokenizer, trainer)


FAMILIES: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], str]] = {
    "byte-level": (byte_level, "byte-level BPE"),
    "metaspace": (sentencepiece, "SentencePiece"),
    "llama": (llama, "SentencePiece"),
    "wordpiece": (wordpiece, "WordPiece"),
    "ends": (ends_marked, "BPE"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_word_has_one_initial_piece(family: str) -> None:
    make, name = FAMILIES[family]
    tokenizer = make()
    assert family_of(tokenizer) == name
    pieces = describe_pieces(tokenizer, len(tokenizer) + 3)
    assert len(pieces) == len(tokenizer) + 3
    assert not pieces["word"][-3:].any(), "beyond the tokenizer there are no pieces"
    assert not pieces["word"][0], "a special token is no piece"
    for text in ["a farmer counted happily boats", "the teacher painted stones near the garden"]:
        words = text.split()
        ids = np.array(tokenizer(f"a {text}")["input_ids"])
        skipped = len(tokenizer("a")["input_ids"])
        kinds = kinds_of(pieces, ids[skipped:], ids[skipped - 1 : -1])
        # The first letters of the words, from the offsets that the tokenizer itself tells.
        expected = [len(tokenizer(f"a {' '.join(words[: n + 1])}")["input_ids"]) for n in range(len(words))]
        starts = [0, *(place - skipped for place in expected[:-1])]
        # A mark of a space that stands alone is no piece of the word behind it.
        tokens = tokenizer.convert_ids_to_tokens(ids[skipped:].tolist())
        starts = [place + (tokens[place] in ("Ġ", "▁")) for place in starts]
        assert (kinds == 0).nonzero()[0].tolist() == starts
        assert (kinds == 2).tolist() == [token in ("Ġ", "▁") for token in tokens]
        assert 1 in kinds, "the vocabulary is too large to show a continuation"


def test_punctuation_is_no_piece_and_a_word_behind_it_begins() -> None:
    tokenizer = byte_level()
    pieces = describe_pieces(tokenizer, len(tokenizer))
    ids = np.array(tokenizer("a boat (river), a\nboat")["input_ids"])
    kinds = [KINDS[kind] for kind in kinds_of(pieces, ids[1:], ids[:-1])]
    told = list(zip(tokenizer.convert_ids_to_tokens(ids.tolist())[1:], kinds, strict=True))
    text = "".join(token for token, _ in told)
    assert text == "Ġboat" + "Ġ(river),ĠaĊboat"
    assert [kind for token, kind in told if not any(map(str.isalpha, token.strip("ĠĊ")))] == ["other"] * sum(
        not any(map(str.isalpha, token.strip("ĠĊ"))) for token, _ in told
    )
    begun = [
        "".join(t for t, _ in told[: i + 1]) for i, (_, kind) in enumerate(told) if kind == "word-initial"
    ]
    assert len(begun) == 4, told  # boat, river, a, boat


def test_whole_words_are_words() -> None:
    tokenizer = word_tokenizer({"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"})
    assert family_of(tokenizer) == "whole words"
    pieces = describe_pieces(tokenizer, 200)
    ids = np.array(tokenizer("The old farmer counted the green boat .")["input_ids"])
    assert kinds_of(pieces, ids[1:], ids[:-1]).tolist() == [0] * 6 + [2]
