"""`onejump show`: what it prints of a kept jump, and how it refuses what is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from onejump.cli.main import main
from onejump.exits.gates import TopProbability
from onejump.runtime.artefact import OneJump

MEASURED = {
    "agreement": 0.951,
    "agreement_stderr": 0.0042,
    "blocks": 3.25,
    "blocks_saved": 0.1875,
    "flops_saved": 0.175,
    "flops_saved_stderr": 0.021,
    "n": 1234.0,
}


def test_what_a_jump_is_fits_a_terminal(studied: Path, tmp_path: Path) -> None:
    jump = OneJump.from_study(studied, "ojfa")
    jump.with_gates({"95%": TopProbability({1: 0.5})}, {"95%": MEASURED}).save_pretrained(tmp_path / "j")
    result = CliRunner().invoke(main, ["show", str(tmp_path / "j")])
    assert (result.exit_code, result.stderr) == (0, "")
    config = jump.config
    for line in (
        "ojfa: the selected jump (One-Jump-Fits-All): of all n-njtc jumps, that of the best score",
        f"  map       n-njtc, rank 3, fitted to level {config.level}, 320 numbers",
        "  sizes     L = 4 blocks, H = 32, V = 200, final norm rms, LlamaForCausalLM",
        "  study     tiny: tiny-llama on random",
        f"        2{config.scores['precision@1'][2]:>14.3f}{config.scores['surprisal'][2]:>14.3f}",
        "      95%  top-probability at level 1",
        "           agreement 95.1% ± 0.4%, blocks saved 18.8%, FLOPs saved 17.5% ± 2.1%, 1,234 tokens",
    ):
        assert line in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_a_forward_jump_says_which_gate_it_takes(kept_forward: Path) -> None:
    result = CliRunner().invoke(main, ["show", str(kept_forward)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "and reads the last level's state" in " ".join(result.stdout.split())
    assert result.stdout.endswith(
        "  gates: none is calibrated; give thresholds, such as --gate top-probability:0.1 --levels 0\n"
    )
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_what_is_no_jump_is_one_line(studied: Path) -> None:
    result = CliRunner().invoke(main, ["show", str(studied)])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {studied}: no kept jump in it (no config.json)\n"


def test_a_jump_is_loaded_without_what_only_a_study_needs(studied: Path, tmp_path: Path) -> None:
    OneJump.from_study(studied).save_pretrained(tmp_path / "j")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['snakemake', 'matplotlib', 'datasets', 'zarr']))\n"
        "import onejump; print(onejump.OneJump.from_pretrained(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "j")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "OneJump(one-jump, rank 3, for tiny-llama (L = 4, H = 32))\n", done.stderr
