"""What a streamer writes: the tokenizer's own text, coloured by exit level, and rejected drafts."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.generation.streamers import TextStreamer

from onejump.base.errors import OneJumpError
from onejump.runtime.streamer import COLOURS, ExitStreamer, Pieces, SeesExits, shows_colours

TEXT = "Früh raus, das ist 1 naïve €5-Idee 🙂!\nNächste Zeile:\t家は 大きい。"


def _bytes() -> PreTrainedTokenizerFast:
    """A token for each byte, and a few words: GPT-2's way."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("i", "s"), ("Ġ", "d"), ("a", "s"), ("Ġd", "as")]
    words = ["<end>", *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def _byte_fallback() -> PreTrainedTokenizerFast:
    """Words that begin with a mark for a space, and bytes for other characters: Llama 2's way."""
    words = ["<unk>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words += [*sorted({*TEXT.replace(" ", "")} - {*"€🙂家は大い。\n\t"}), "▁d", "▁da"]
    merges = [("▁", "d"), ("▁d", "a")]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")


TOKENIZERS = {"bytes": _bytes(), "byte fallback": _byte_fallback()}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def ids(tokenizer: Any, text: str = TEXT) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def coloured(text: str) -> list[tuple[int | None, str]]:
    """The background of each run of text, None where there is none."""
    runs: list[tuple[int | None, str]] = []
    colour: int | None = None
    for part in re.split(r"(\x1b\[[0-9;]*m)", text):
        if part == "\x1b[0m":
            colour = None
        elif part.startswith("\x1b"):
            background = re.fullmatch(r"\x1b\[38;5;16;48;5;(\d+)m", part)
            colour = int(background[1]) if background else -1
        elif part:
            runs.append((colour, part))
    return runs


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_are_the_text_that_the_tokenizer_decodes(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = ids(tokenizer)
    assert tokenizer.decode(tokens) == TEXT
    pieces = Pieces(tokenizer)
    given = [pieces.add(token) for token in tokens]
    assert "".join(given) + pieces.rest() == TEXT
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in given)
    assert "" in given  # the first bytes of a character give nothing yet
    assert all(pieces.add(token) == "" for token in ids(tokenizer, "€")[:-1])
    assert pieces.rest() != ""


@given(st.lists(st.integers(0, 260), max_size=30))
def test_pieces_of_any_bytes_are_the_text_that_the_tokenizer_decodes(tokens: list[int]) -> None:
    tokenizer = TOKENIZERS["bytes"]
    pieces = Pieces(tokenizer, skip_special_tokens=True)
    given = "".join(map(pieces.add, tokens)) + pieces.rest()
    assert given == tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_without_a_terminal_the_text_is_that_of_transformers_streamer(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = TOKENIZERS[name]
    prompt, tokens = ids(tokenizer, "das"), ids(tokenizer)
    for skip in (True, False):
        written = io.StringIO()
        ours = ExitStreamer(tokenizer, 4, file=written, skip_prompt=skip)
        theirs = TextStreamer(tokenizer, skip_prompt=skip, skip_special_tokens=True)
        for streamer in (ours, theirs):
            for _ in range(2):  # a streamer can be used again
                streamer.put(torch.tensor([prompt]))
                for token in [*tokens, tokenizer.eos_token_id]:
                    streamer.put(torch.tensor([token]))
                streamer.end()
        assert written.getvalue() == capsys.readouterr().out


def test_each_token_has_the_colour_of_its_level() -> None:
    tokenizer = TOKENIZERS["bytes"]
    written = Terminal()
    streamer = ExitStreamer(tokenizer, 9, levels=[2, 4, 6], file=written, legend=False)
    assert isinstance(streamer, SeesExits)
    streamer.put(torch.tensor([ids(tokenizer, "prompt")]))
    streamer.exits(0, ids(tokenizer, "is das"), [2, 4])
    streamer.exits(0, ids(tokenizer, "a"), [9])
    streamer.exits(0, ids(tokenizer, "b\nc"), [6, 6, 6])
    # Bytes of one character that exited at different levels: the latest one counts.
    streamer.exits(0, ids(tokenizer, "€")[:1], [4])
    streamer.exits(0, ids(tokenizer, "€")[1:], [2, 2])
    streamer.exits(0, ids(tokenizer, "ü"), [2, 9])
    streamer.end()
    early, middle, late = COLOURS[0], COLOURS[2], COLOURS[-1]
    assert coloured(written.getvalue()) == [
        *[(early, "is"), (middle, " das"), (None, "a"), (late, "b"), (None, "\n"), (late, "c")],
        *[(middle, "€"), (None, "ü\n")],
    ]


def test_rejected_drafts_stand_before_the_token_that_replaced_them() -> None:
    tokenizer = TOKENIZERS["bytes"]
    written = Terminal()
    streamer = ExitStreamer(tokenizer, 9, levels=[2], file=written, legend=False)
    streamer.put(torch.tensor([[1]]))
    streamer.exits(0, ids(tokenizer, "ab"), [2, 9], [*ids(tokenizer, " das\n"), tokenizer.eos_token_id])
    # A draft can be the rest of a character that has begun.
    streamer.exits(0, ids(tokenizer, "é")[:1], [9])
    streamer.exits(0, ids(tokenizer, "é")[1:], [9], ids(tokenizer, "è")[1:])
    streamer.end()
    assert coloured(written.getvalue()) == [
        *[(COLOURS[1], "a"), (-1, " das⏎<end>"), (None, "b"), (-1, "è"), (None, "é\n")],
    ]


def test_the_legend_has_every_colour_and_its_levels() -> None:
    def legend(levels: list[int] | None) -> list[tuple[int | None, str]]:
        written = Terminal()
        streamer = ExitStreamer(TOKENIZERS["bytes"], 30, levels=levels, file=written)
        streamer.put(torch.tensor([[1]]))
        return coloured(written.getvalue())

    runs = legend([3, 8])
    assert [text for _, text in runs] == [
        *["exit at level ", " 3 ", " ", " 8 ", " | no colour: all 30 blocks | ", "rejected draft", "\n"]
    ]
    assert [colour for colour, _ in runs] == [None, COLOURS[0], None, COLOURS[-1], None, -1, None]
    every = [text.strip() for colour, text in legend(None) if colour in COLOURS]
    assert every == ["0-4", "5-9", "10-14", "15-19", "20-24", "25-29"]
    assert legend([]) == []


def test_a_model_cannot_command_the_terminal() -> None:
    tokenizer = TOKENIZERS["bytes"]
    written = Terminal()
    streamer = ExitStreamer(tokenizer, 9, levels=[2], file=written, legend=False)
    tokens = ids(tokenizer, "a\x1b[2Jb\x9b\r\t")
    streamer.put(torch.tensor([[1]]))
    streamer.exits(0, tokens, [2] * len(tokens), ids(tokenizer, "\x1b]0;x\x07"))
    assert not set(plain(written.getvalue())) & {"\x1b", "\x9b", "\r", "\x07"}
    assert "a␛[2Jb" in plain(written.getvalue())


def test_colours_are_shown_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert (shows_colours(Terminal()), shows_colours(io.StringIO())) == (True, False)
    monkeypatch.setenv("TERM", "dumb")
    assert not shows_colours(Terminal())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert shows_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_colours(Terminal())


def test_a_batch_is_refused() -> None:
    streamer = ExitStreamer(TOKENIZERS["bytes"], 9)
    with pytest.raises(OneJumpError, match="given a batch of 2"):
        streamer.put(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(OneJumpError, match="given row 1"):
        streamer.exits(1, [3], [9])


def test_black_on_every_colour_is_readable_and_colours_differ_for_the_colour_blind() -> None:
    def light(channels: list[float]) -> list[float]:
        return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]

    def shown(index: int) -> torch.Tensor:
        steps = [0, 95, 135, 175, 215, 255]
        cube = index - 16
        return torch.tensor(
            light([steps[cube // 36] / 255, steps[cube // 6 % 6] / 255, steps[cube % 6] / 255])
        )

    # Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision
    # deficiency", 2009: no deuteranopia, protanopia, tritanopia.
    visions = [
        torch.eye(3),
        torch.tensor(
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
        ),
        torch.tensor(
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ]
        ),
        torch.tensor(
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
        ),
    ]
    to_xyz = torch.tensor(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.072175],
            [0.0193339, 0.119192, 0.9503041],
        ]
    )

    def lab(rgb: torch.Tensor) -> torch.Tensor:
        f = (to_xyz @ rgb.clamp(0, 1) / torch.tensor([0.95047, 1.0, 1.08883])).clamp_min(1e-9) ** (1 / 3)
        return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    for colour in COLOURS:
        assert ((to_xyz @ shown(colour))[1] + 0.05) / 0.05 > 5.5  # contrast of WCAG; 4.5 is called enough
    for vision, (one, other) in itertools.product(visions, itertools.combinations(COLOURS, 2)):
        assert (lab(vision @ shown(one)) - lab(vision @ shown(other))).norm() > 12  # 2 can just be seen


def test_text_that_is_tidied_later_is_not_lost() -> None:
    class Tidy:
        def decode(self, tokens: list[int]) -> str:
            return "".join(["word ", ".", "end"][token] for token in tokens).replace(" .", ".")

    pieces = Pieces(Tidy())
    assert [pieces.add(token) for token in (0, 1, 2)] == ["word ", ".", "end"]
