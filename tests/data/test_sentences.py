"""What documents are cut into."""

from __future__ import annotations

import pytest

from onejump.data.sentences import paragraphs, sentences


def test_sentences_are_stripped_and_their_white_space_collapsed() -> None:
    assert list(sentences("One  line\n goes\ton. \n\n\u200d\u2060Next \u00adone!  ", "en")) == [
        "One line goes on.",
        "Next one!",
    ]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("CHAPTER I\n\nIt began at\nOxford. Then\nmore.", "en", ["It began at Oxford.", "Then more."]),
        ("It has one form:\n\nThis ends.\n\nIt is denoted by", "en", ["This ends."]),
        ('He said "no." It was (late.) Noted.[1][2]', "en", ['He said "no."', "It was (late.) Noted.[1][2]"]),
        (" = Heading = \n\nTokenised , as wikitext is . ", "en", ["Tokenised , as wikitext is ."]),
        ("今天很好。明天见！", "zh", ["今天很好。", "明天见！"]),
        ("สวัสดีครับ", "th", ["สวัสดีครับ"]),
        ("Τι κάνεις; Καλά είμαι.", "el", ["Τι κάνεις;", "Καλά είμαι."]),
    ],
)
def test_what_is_a_sentence(text: str, language: str, expected: list[str]) -> None:
    assert list(sentences(text, language)) == expected


def test_a_heading_before_an_unwrapped_paragraph_is_left_out() -> None:
    paragraph = "Before " + "and before " * 20 + "it was."
    text = f"Early era \n{paragraph}\nLater era\nShort end."
    assert list(sentences(text, "en")) == [paragraph, "Short end."]
    assert list(sentences(f"{paragraph[:-1]} a\nlower line.", "en")) == [f"{paragraph[:-1]} a lower line."]


@pytest.mark.parametrize("damage", ["\0", "\x1b", "\ud83d"])
def test_what_is_damaged_is_left_out_and_the_rest_kept(damage: str) -> None:
    assert list(sentences(f"One is whole. One is {damage} not. So is this.", "en")) == [
        "One is whole.",
        "So is this.",
    ]
    assert list(paragraphs(f"a = 1\n\nb = '{damage}'\n\n\tc = 2", "en")) == ["a = 1", "\tc = 2"]


@pytest.mark.parametrize("mark", ['"', "[", "[a]", ". ", "word ", "\n", " \n", "Mr. ", "("])
def test_a_line_of_megabytes_is_cut(mark: str) -> None:
    """Backtracking over it would take hours."""
    text = "A whole sentence.\n\n" + mark * (3_000_000 // len(mark)) + "a"
    assert "A whole sentence." in sentences(text, "en")
    assert "A whole sentence." in paragraphs(text, "en")


def test_paragraphs_keep_their_lines_and_indents() -> None:
    code = "import os\n\n\ndef first():\n    return os.name\n  \n\tdeep = 1\n\tdeeper = 2\n"
    assert list(paragraphs(code, "en")) == [
        "import os",
        "def first():\n    return os.name",
        "\tdeep = 1\n\tdeeper = 2",
    ]
