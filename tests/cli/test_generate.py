"""onejump generate: what it prints for which prompt, and how it ends."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from onejump.base.errors import GateError, OneJumpError
from onejump.cli.main import main
from onejump.exits.gates import Patience, TopProbability
from onejump.runtime import loading
from onejump.runtime.decoding import Decoding

PROMPT = "The old farmer counted the green boat"
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{% if message.role == 'system' %}winter {% else %}warm {% endif %}{{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}river{% endif %}"
)

FORWARD = ("--gate", "top-probability:0.0", "--levels", 0, "--drafts", 1)
"""A draft of each token, before any block."""


def run(*arguments: object, text: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["generate", *map(str, arguments)], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def own(folder: Path, prompt: str, tokens: int, **options: Any) -> tuple[list[int], str]:
    """What transformers itself generates: tokens and text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt", **options)["input_ids"]
    found = model.generate(given, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    new = found[0, given.shape[1] :].tolist()
    return new, tokenizer.decode(new, skip_special_tokens=True)


@pytest.fixture
def chat_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with a chat template."""
    folder = tmp_path / "chat"
    shutil.copytree(tiny_model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_verified_text_is_the_full_models_own(tiny_model_folder: Path, kept_jump: Path) -> None:
    tokens, text = own(tiny_model_folder, PROMPT, 20)
    assert run(tiny_model_folder, kept_jump, PROMPT, "--max-new-tokens", 20) == (0, text + "\n", "")
    status, printed, said = run(tiny_model_folder, kept_jump, PROMPT, "--max-new-tokens", 20, "--json")
    assert (status, said) == (0, "")
    record = json.loads(printed)
    assert (record["tokens"], record["text"], record["prompt"]) == (tokens, text, PROMPT)
    assert (record["interrupted"], record["mode"], record["levels"]) == (False, "verified", 4)
    assert record["gate"]["levels"] == [1, 3]
    assert set(record["exit_levels"]) <= {1, 3, 4}
    assert record["drafted"] > 0


def test_without_a_jump_every_token_goes_through_all_blocks(tiny_model_folder: Path) -> None:
    tokens, text = own(tiny_model_folder, PROMPT, 9)
    plain = ["--max-new-tokens", 9, "--color", "always"]
    assert run(tiny_model_folder, "-p", PROMPT, *plain) == (0, text + "\n", "")
    _, printed, _ = run(tiny_model_folder, "-p", PROMPT, *plain, "--json")
    record = json.loads(printed)
    assert (record["tokens"], record["gate"], record["drafted"]) == (tokens, None, 0)
    assert set(record["exit_levels"]) == {4}


def test_drafts_from_the_text_leave_the_text_as_it_is(tiny_model_folder: Path, kept_jump: Path) -> None:
    _, text = own(tiny_model_folder, f"{PROMPT} {PROMPT}", 20)
    asked = (f"{PROMPT} {PROMPT}", "--recall", 1, "--drafts", 2, "--max-new-tokens", 20)
    status, printed, said = run(tiny_model_folder, kept_jump, *asked, "--stats")
    assert (status, printed) == (0, text + "\n")
    record = json.loads(run(tiny_model_folder, kept_jump, *asked, "--json")[1])
    assert 0 < record["recalled"] < record["drafted"]
    assert f"recalled   {record['recalled_kept']} of {record['recalled']} accepted" in said


def test_the_prompt_comes_from_the_argument_a_file_or_a_pipe(
    tiny_model_folder: Path, kept_jump: Path, tmp_path: Path
) -> None:
    expected = (0, own(tiny_model_folder, PROMPT, 5)[1] + "\n", "")
    where, options = (tiny_model_folder, kept_jump), ("--max-new-tokens", 5)
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"\xef\xbb\xbf" + PROMPT.encode() + b"\r\n")
    assert run(*where, PROMPT, *options) == expected
    assert run(*where, "--file", file, *options) == expected
    assert run(*where, *options, text=PROMPT + "\n") == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{model}", "{jump}", "a", "-p", "b"], "several prompts given, one is accepted"),
        (["{model}", "{jump}"], "standard input: the prompt is empty"),
        (["{model}", "{jump}", "-f", "{missing}"], "no: the file cannot be read (No such file or directory)"),
        (["{model}", "{jump}", "-f", "{binary}"], "the prompt is no UTF-8 text (byte 1)"),
        (["{model}", "./nowhere/x", "a"], "./nowhere/x: no such folder"),
        (["./nowhere/x", "{jump}", "a"], "./nowhere/x: the model could not be loaded"),
        (["auto", "{jump}", "a"], "its model came from a folder, 'tiny-llama'"),
        (["auto", "-p", "a"], "model 'auto' given without a jump"),
        (["{model}", "-p", "a", "--gate", "95%"], "--gate or --levels given without JUMP"),
        (["{model}", "{jump}", "a", "--gate", "80%"], "the calibrated gates of the jump (95%, 99%)"),
        (
            ["{model}", "{jump}", "a", "--levels", "1,2"],
            "level 2 given, the gate 95% has thresholds for 1, 3",
        ),
        (["{model}", "{jump}", "a", "--gate", "margin:0.5"], "without levels"),
        (["{model}", "{jump}", "a", "--system", "b"], "--system given, but the model has no chat template"),
        (["{model}", "-p", "a", "--device", "gpu"], "device: 'gpu' given, accepted are auto, cpu"),
        (["{model}", "-p", "a", "--device", "cuda:99"], "device: 'cuda:99' given, accepted are auto, cpu"),
        (["{missing}.gguf", "-p", "a"], "no such GGUF file"),
        (
            ["{model}", "{forward}", "a"],
            "JUMP has no calibrated gate: give one, such as --gate top-probability",
        ),
        (["{model}", "{forward}", "a", *FORWARD, "--mode", "copied"], "accepted are verified and trusted"),
        (["{model}", "{jump}", "a", "--candidates", "2"], "--candidates 2 given without --drafts"),
        (
            ["{model}", "{jump}", "a", "--recall", "2", "--recalled", "2"],
            "--recalled 2 given without --drafts",
        ),
        (
            ["{model}", "{jump}", "a", "--drafts", "1", "--recalled", "2"],
            "--recalled 2 given without --recall",
        ),
        (["{model}", "{jump}", "a", "--drafts", "0", "--candidates", "2"], "given with --drafts 0"),
        (
            ["{model}", "{jump}", "a", "--drafts", "1", "--candidates", "2", "--mode", "trusted"],
            "--candidates 2 given with --mode trusted, accepted with verified",
        ),
        (["{model}", "-p", "a", "--drafts", "1"], "--drafts 1 given without JUMP or --recall"),
        (
            ["{model}", "-p", "a", "--drafts", "1", "--candidates", "2", "--recall", "1"],
            "--candidates 2 given without JUMP",
        ),
        (
            ["{model}", "{jump}", "a", "--recall", "1", "--mode", "trusted"],
            "recall: 1 given with the mode trusted",
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr(
    tiny_model_folder: Path,
    kept_jump: Path,
    kept_forward: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    (tmp_path / "binary").write_bytes(b"a\xff")
    names = {"model": tiny_model_folder, "jump": kept_jump, "binary": tmp_path / "binary"}
    names["forward"] = kept_forward
    status, printed, told = run(*(str(part).format(**names, missing=tmp_path / "no") for part in arguments))
    assert (status, printed) == (1, "")
    assert told.startswith("Error: ")
    assert said in told
    assert told.count("\n") == 1


def test_wrong_levels_are_told_with_those_accepted(tiny_model_folder: Path, kept_jump: Path) -> None:
    status, _, said = run(tiny_model_folder, kept_jump, "a", "--levels", "1;3")
    assert (status, "'1;3' given, accepted are whole numbers with commas: 3,8" in said) == (2, True)


def test_the_chat_template_is_used_unless_raw_is_asked_for(chat_folder: Path, kept_jump: Path) -> None:
    def text(*options: object) -> str:
        status, printed, said = run(chat_folder, kept_jump, PROMPT, "--max-new-tokens", 6, *options)
        assert (status, said) == (0, "")
        return printed.removesuffix("\n")

    templated = f"warm {PROMPT} river"
    assert text() == own(chat_folder, templated, 6, add_special_tokens=False)[1]
    asked = f"winter bread {templated}"
    assert text("--system", "bread") == own(chat_folder, asked, 6, add_special_tokens=False)[1]
    assert text("--raw") == own(chat_folder, PROMPT, 6)[1]
    assert len({text(), text("--system", "bread"), text("--raw")}) == 3
    _, _, said = run(chat_folder, kept_jump, PROMPT, "--raw", "--system", "bread")
    assert said == "Error: --system given, but --raw leaves the chat template out\n"


def test_sampling_is_repeated_by_its_seed(tiny_model_folder: Path, kept_jump: Path) -> None:
    def text(*options: object) -> str:
        return run(tiny_model_folder, kept_jump, PROMPT, "--max-new-tokens", 12, *options)[1]

    greedy = text()
    hot = ("--temperature", 1.5, "--seed")
    assert text("--temperature", 0, "--seed", 1) == greedy
    assert text(*hot, 1) == text(*hot, 1) != greedy
    assert text(*hot, 1) != text(*hot, 2)
    # Of no probability is only the most likely token left.
    assert text(*hot, 1, "--top-p", 1e-9) == greedy
    assert text("--top-p", 0.99, "--seed", 1) != greedy


@pytest.mark.parametrize("mode", ["verified", "trusted", "copied"])
def test_the_statistics_are_those_of_the_record(tiny_model_folder: Path, kept_jump: Path, mode: str) -> None:
    gate = ("--gate", "top-probability:0.03", "--levels", "2", "--drafts", 3)
    options = ("--mode", mode, "--max-new-tokens", 30, *gate)
    _, printed, said = run(tiny_model_folder, kept_jump, PROMPT, *options, "--json", "--stats")
    record = json.loads(printed)
    early = sum(level < 4 for level in record["exit_levels"])
    assert early == record["exit_levels"].count(2) > 0
    count = len(record["tokens"])
    assert f"tokens     {count} in " in said
    assert f"exits      {early} of {count} tokens ({early / count:.0%}): {early} at level 2\n" in said
    assert f"blocks     {record['blocks']:.1f} for each token" in said
    assert ("agreement" in said) == (mode != "copied")
    assert ("drafts" in said) == (record["drafted"] > record["accepted"]) == (mode == "verified")
    saved = 1 - record["flops"] / record["plain_flops"]
    assert f"({abs(saved):.0%} {'saved' if saved > 0 else 'more'})" in said


def test_exit_levels_are_coloured_where_colours_are_asked_for(
    tiny_model_folder: Path, kept_jump: Path
) -> None:
    options = ("--max-new-tokens", 12, "--mode", "trusted")
    _, plain, _ = run(tiny_model_folder, kept_jump, PROMPT, *options)
    _, coloured, _ = run(tiny_model_folder, kept_jump, PROMPT, *options, "--color", "always")
    assert "\x1b[" not in plain
    assert "\x1b[38;5;16;48;5;208m" in coloured
    assert coloured.startswith("exit at level ")


def test_ctrl_c_keeps_what_was_generated(
    tiny_model_folder: Path, kept_jump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    round_of = Decoding._round

    def interrupted(self: Decoding, *arguments: Any) -> None:
        round_of(self, *arguments)
        rounds.append(1)
        if len(rounds) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Decoding, "_round", interrupted)
    before = signal.getsignal(signal.SIGINT)
    where = (tiny_model_folder, kept_jump, PROMPT, "--max-new-tokens", 60)
    status, printed, said = run(*where)
    assert (status, said) == (130, "Stopped by Ctrl-C.\n")
    _, whole = own(tiny_model_folder, PROMPT, 60)
    assert whole.startswith(printed.removesuffix("\n"))
    assert 3 <= len(printed.split()) < len(whole.split())
    rounds.clear()
    status, printed, _ = run(*where, "--json")
    record = json.loads(printed)
    assert (status, record["interrupted"]) == (130, True)
    assert len(record["tokens"]) == len(record["exit_levels"]) < 60
    assert signal.getsignal(signal.SIGINT) is before


def test_a_gguf_file_is_unpacked_once(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        unpacked.append(folder)
        shutil.copytree(tiny_model_folder, folder)

    monkeypatch.setattr(loading, "convert_gguf", convert)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "m.gguf"
    file.write_bytes(b"1")
    expected = (0, own(tiny_model_folder, PROMPT, 5)[1] + "\n", "")
    for _ in range(2):
        assert run(file, "-p", PROMPT, "--max-new-tokens", 5) == expected
    assert [folder.parent for folder in unpacked] == [tmp_path / "cache/onejump"]
    file.write_bytes(b"22")
    assert run(file, "-p", PROMPT, "--max-new-tokens", 5) == expected
    assert len(set(unpacked)) == 2


def test_gates_are_read_from_text() -> None:
    calibrated = {"95%": TopProbability({3: 0.5, 8: 0.4})}

    def read(text: str, levels: tuple[int, ...] | None = None) -> Any:
        return loading.gate_from_text(text, calibrated=calibrated, levels=levels, blocks=10)

    assert read("none") is None
    assert read("95%") == calibrated["95%"]
    assert read("95%", (8,)) == TopProbability({8: 0.4})
    assert read("top-probability:0.25", (8, 3)) == TopProbability({3: 0.25, 8: 0.25})
    assert read("patience:2", (3, 4)) == Patience({3: 2, 4: 2})
    assert read("top-probability:0.25,0.5", (8, 3)) == TopProbability({3: 0.5, 8: 0.25})
    for wrong, levels in (
        ("margin:x", (1,)),
        ("margin:2", (1,)),
        ("patience:1.5", (1,)),
        ("margin:0.5", (10,)),
        ("margin:0.5,0.4", (1,)),
        ("margin:0.5,", (1, 2)),
    ):
        with pytest.raises(GateError):
            read(wrong, levels)
    with pytest.raises(OneJumpError, match="calibrated gates of the jump"):
        read("spread:1", (1,))


def test_half_precision_runs(tiny_model_folder: Path, kept_jump: Path) -> None:
    arguments = (tiny_model_folder, kept_jump, PROMPT, "--dtype", "bfloat16", "--max-new-tokens", 5, "--json")
    status, printed, _ = run(*arguments)
    assert status == 0
    assert len(json.loads(printed)["tokens"]) == 5
    assert torch.get_default_dtype() == torch.float32


def test_a_forward_jump_drafts_before_any_block(tiny_model_folder: Path, kept_forward: Path) -> None:
    """The gate at level 0, several candidates, and drafts that the text gives: the text stays as it is."""
    prompt = f"{PROMPT} {PROMPT}"
    tokens, text = own(tiny_model_folder, prompt, 24)
    records = []
    for asked in ((), ("--candidates", 4), ("--recall", 1, "--recalled", 2)):
        options = (tiny_model_folder, kept_forward, prompt, "--max-new-tokens", 24, *FORWARD, *asked)
        status, printed, said = run(*options, "--stats")
        assert (status, printed) == (0, text + "\n")
        record = json.loads(run(*options, "--json")[1])
        assert record["tokens"] == tokens
        assert set(record["exit_levels"]) == {0, 4}
        passes = record["full_passes"]
        assert passes == 23 - record["accepted"]
        assert (
            f"passes     {passes} through all blocks for the 23 tokens behind the first: {23 / passes:.2f}"
            in said
        )
        records.append(record)
    one, wide, recalling = records
    assert one["gate"] == {"kind": "top-probability", "levels": [0], "thresholds": [0.0]}
    assert one["policy"] == {"drafts": 1, "width": 1, "levels": None, "recalled": 0}
    assert wide["policy"]["width"] == 4
    assert wide["accepted"] / wide["drafted"] > one["accepted"] / one["drafted"]
    assert (recalling["recall"], recalling["policy"]["recalled"]) == (1, 2)
    assert recalling["recalled"] > 0 == one["recalled"] == wide["recalled"]


def test_the_text_alone_drafts_without_a_jump(tiny_model_folder: Path) -> None:
    prompt = f"{PROMPT} {PROMPT}"
    _, text = own(tiny_model_folder, prompt, 20)
    asked = ("-p", prompt, "--max-new-tokens", 20, "--recall", 1, "--drafts", 0)
    assert run(tiny_model_folder, *asked, "--recalled", 3) == (0, text + "\n", "")
    counts = []
    for recalled in ((), ("--recalled", 3)):
        record = json.loads(run(tiny_model_folder, *asked, *recalled, "--json")[1])
        assert record["drafted"] == record["recalled"] > 0
        counts.append(record["recalled"])
    # Without --recalled, one draft in each round.
    assert counts[0] < counts[1]


def test_recalled_drafts_have_a_colour_though_no_gate_checks_level_0(tiny_model_folder: Path) -> None:
    asked = ("-p", f"{PROMPT} {PROMPT}", "--recall", 1, "--drafts", 1, "--max-new-tokens", 20)
    status, printed, _ = run(tiny_model_folder, *asked, "--color", "always")
    assert status == 0
    legend, text = printed.split("\n", 1)
    assert legend.startswith("exit at level \x1b[38;5;16;48;5;220m 0 \x1b[0m |")
    record = json.loads(run(tiny_model_folder, *asked, "--json")[1])
    assert text.count("\x1b[38;5;16;48;5;220m") == record["recalled_kept"] > 0
