"""The command `onejump lens`, on a tiny model and its kept jump."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from onejump.cli.main import main
from onejump.lens.trajectory import Trajectory
from onejump.models.loading import load_model, load_tokenizer
from onejump.runtime.artefact import OneJump

PROMPT = "The old farmer counted two heavy stones"


def lens(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["lens", *map(str, arguments), "--device", "cpu"], input=stdin)


def test_files_hold_what_the_library_gives(tiny_model_folder: Path, kept_jump: Path, tmp_path: Path) -> None:
    names = ("lens.html", "lens.csv", "lens.parquet", "lens.png", "lens.pdf", "lens.svg")
    outputs = [argument for name in names for argument in ("-o", tmp_path / name)]
    done = lens(PROMPT, "--model", tiny_model_folder, "--jump", kept_jump, "-k", "4", *outputs)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(tmp_path / name) for name in names]
    assert lines[0].endswith(" MB")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    jump = OneJump.from_pretrained(kept_jump)
    expected = Trajectory.from_prompt(
        load_model(str(tiny_model_folder), device="cpu"),
        load_tokenizer(str(tiny_model_folder)),
        PROMPT,
        ["identity", jump],
        k=4,
        gate={"ojfa": jump.gates["95%"]},
    ).to_pandas()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "lens.parquet"), expected, check_dtype=False)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "lens.csv")[["prediction", "probability", "place"]],
        expected[["prediction", "probability", "place"]],
        check_dtype=False,
    )
    with Image.open(tmp_path / "lens.png") as image:
        assert image.size[0] > 500
    assert (tmp_path / "lens.pdf").read_bytes()[:4] == b"%PDF"


def test_without_a_file_it_prints_a_table(tiny_model_folder: Path, kept_jump: Path) -> None:
    done = lens("--model", tiny_model_folder, "--jump", kept_jump, "--last", "2", stdin=PROMPT + "\n")
    assert done.exit_code == 0, done.output
    heading, tokens, *levels, legend = done.output.splitlines()
    assert heading.startswith("tiny-llama, ojfa: ")
    assert tokens.split() == ["·heavy", "·stones"]
    assert [line.split()[0] for line in levels] == ["4", "3", "2", "1", "0"]
    assert "the gate lets the token exit" in legend
    plain = lens(PROMPT, "--model", tiny_model_folder)
    assert plain.exit_code == 0, plain.output
    assert plain.output.startswith("tiny-llama, identity: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PROMPT], "no model given: give --model"),
        (["", "--model", "MODEL"], "PROMPT: the prompt is empty"),
        ([PROMPT, "--model", "MODEL", "-o", "lens.docx"], "accepted is a file that ends in .html"),
        ([PROMPT, "--model", "MODEL", "--method", "jtc"], "--method given without --results"),
        ([PROMPT, "--model", "MODEL", "--gate", "95%"], "--gate or --levels given without --jump"),
        (
            [PROMPT, "--model", "MODEL", "--shortcut", "jtc"],
            "shortcut 'jtc' given, accepted is one",
        ),
        ([PROMPT, "--model", "MODEL", "--jump", "JUMP", "--gate", "42%"], "gate '42%' given"),
        ([PROMPT, "--jump", "JUMP"], "its model came from a folder"),
        ([PROMPT, "--model", "MODEL", "--jump", "FORWARD"], "one state at one level says: leave it out"),
        ([PROMPT, "--results", "nowhere"], "results/<study>/<model>/<corpus> was expected"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    tiny_model_folder: Path, kept_jump: Path, kept_forward: Path, arguments: list[str], message: str
) -> None:
    places = {"MODEL": str(tiny_model_folder), "JUMP": str(kept_jump), "FORWARD": str(kept_forward)}
    done = lens(*(places.get(argument, argument) for argument in arguments))
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert "Traceback" not in done.output
