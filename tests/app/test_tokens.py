"""Texts for a page: the tokenizer's own text, each token named by its exit level, never read as HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from tiny_models import word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from onejump.app.tokens import COLOUR_RULES, TokenText
from onejump.runtime.streamer import COLOURS, SeesExits, Watches, step_of

WORDS = word_tokenizer({"unk_token": "<unk>", "eos_token": "</s>"})


class Read(HTMLParser):
    """The texts of a page, with the element around each and its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.found: list[tuple[str, str, dict[str, str | None]]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.found.append((data, *self.open[-1]))


def ids(*words: str) -> list[int]:
    return [int(WORDS.convert_tokens_to_ids(word)) for word in words]


def test_each_token_names_its_level_and_drafts_are_struck_through() -> None:
    text = TokenText(WORDS, 9, [6, 2, 4])
    assert isinstance(text, SeesExits)
    assert isinstance(text, Watches)
    text.exits(0, ids("green", "boat"), [2, 6], ids("clock"))
    text.exits(0, ids("river", "</s>"), [9, 4])
    text.end()
    found = Read(text.html()).found
    assert [(said.strip(), tag, about["title"]) for said, tag, about in found] == [
        ("green", "span", "exit at level 2 of 9"),
        ("clock", "del", "rejected draft: the full model said what follows"),
        ("boat", "span", "exit at level 6 of 9"),
        ("river", "span", "all 9 blocks"),
    ]
    assert [about.get("data-level") for _, _, about in found] == ["2", None, "6", None]
    assert [about.get("data-step") for _, _, about in found] == ["0", None, "5", None]
    assert text.text() == WORDS.decode(ids("green", "boat", "river"))
    assert text.exit_levels == [2, 6, 9, 4]


def test_what_a_model_writes_is_never_html() -> None:
    words = ["<unk>", "</div>", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&amp;"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    hostile = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    text = TokenText(hostile, 3, [1])
    text.exits(0, [1, 2, 3, 4], [1, 3, 1, 3], [2])
    found = Read(text.html()).found
    assert {tag for _, tag, _ in found} == {"span", "del"}
    assert "".join(said for said, tag, _ in found if tag == "span") == hostile.decode([1, 2, 3, 4])


def test_several_tokens_of_one_character_are_one_piece() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    text = TokenText(wrapped, 5, [1, 2])
    euro = wrapped("€").input_ids
    assert len(euro) == 3
    text.exits(0, [*euro, *wrapped("a").input_ids], [1, 2, 1, 1])
    assert [(piece.text, piece.level) for piece in text.pieces] == [("€", 2), ("a", 1)]


@pytest.mark.parametrize("levels", [[3], [1, 3], list(range(7)), list(range(30))])
def test_the_legend_has_every_level_and_a_colour_for_each_step(levels: list[int]) -> None:
    legend = TokenText(WORDS, 40, levels).legend()
    steps = {about["data-step"]: said for said, tag, about in Read(legend).found if tag == "span"}
    named = []
    for said in steps.values():
        first, _, last = said.partition("–")
        named += list(range(int(first), int(last or first) + 1))
    assert named == levels
    assert set(steps) == {str(step_of(level, levels)) for level in levels}
    assert all(f'[data-step="{step}"]' in COLOUR_RULES for step in range(len(COLOURS)))


def test_a_plain_run_has_no_legend() -> None:
    assert TokenText(WORDS, 40).legend() == ""
