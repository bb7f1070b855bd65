"""The wheel, as somebody installs it who never runs the workflow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from projects import ROOT

from onejump.shortcuts.files import save_shortcut
from onejump.shortcuts.kinds.n_njtc import NNJTC

# What only the workflow and its figures need.
NOT_INSTALLED = ("snakemake", "matplotlib", "plotly", "datasets", "lm_eval", "gradio")

USE = """
import importlib, json, pkgutil, sys

wheel, model_folder, jump_file, *missing = sys.argv[1:]
# As if they were not installed: an import raises, and whoever asks whether they are there is told no.
sys.modules.update(dict.fromkeys(missing))
sys.path.insert(0, wheel)
import onejump, torch
from click.testing import CliRunner
from onejump.cli.main import main

commands = {
    " ".join(command): (result.exit_code, result.output)
    for command in (["--help"], ["check", "study.yaml"], ["run", "study.yaml"])
    for result in [CliRunner().invoke(main, command)]
}
not_imported = {}
for module in pkgutil.walk_packages(onejump.__path__, "onejump."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        not_imported[module.name] = str(error)
assert onejump.__file__.startswith(wheel), onejump.__file__
model = onejump.load_model(model_folder)
tokens = torch.tensor([[5, 6, 7, 8]])
states = model.states(tokens, torch.tensor([0]), torch.tensor([3]))
jump = onejump.load_shortcut(jump_file)
logits = model.head.logits(jump(states[2]))
print(json.dumps({
    "logits": logits.tolist(),
    "states": states[2].tolist(),
    "commands": commands,
    "not_imported": not_imported,
}))
"""

STUDY = """\
study: mine
models: {m: {hub: some/model}}
corpora: {c: {path: text.txt, training: 10, validation: 5}}
shortcuts: {n-njtc: {}}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("onejump-*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_everything_of_the_library_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    sources = ROOT / "src"
    expected = {
        str(path.relative_to(sources))
        for path in (sources / "onejump").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    assert {name for name in found if ".dist-info/" not in name} == expected
    about = next(wheel.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    needed = [
        line for line in about.splitlines() if line.startswith("Requires-Dist:") and "extra" not in line
    ]
    assert not [line for line in needed for name in NOT_INSTALLED if name in line]


def test_the_wheel_loads_a_model_and_a_jump_without_the_extras(
    wheel: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "text.txt").write_text("Words.", encoding="utf-8")
    torch.manual_seed(0)
    down, up = torch.randn(32, 3), torch.randn(3, 32)
    saved = NNJTC(down, up, torch.ones(32), torch.zeros(32), torch.zeros(32), torch.ones(32))
    save_shortcut(tmp_path / "jump.safetensors", saved, {})
    command = [sys.executable, "-I", "-c", USE, str(wheel), str(tiny_model_folder)]
    command += [str(tmp_path / "jump.safetensors"), *NOT_INSTALLED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)

    # The walk goes into no package that cannot be imported.
    assert said["not_imported"] == {
        "onejump.app.web": "the local page needs gradio: pip install 'onejump[app]'",
        "onejump.figures": "drawing figures needs matplotlib: pip install 'onejump[plots]'",
        "onejump.runtime.lm_eval": "the evaluation harness is missing: pip install 'onejump[eval]'",
    }
    status, printed = said["commands"]["--help"]
    assert (status, printed.partition("\n")[0]) == (0, "Usage: main [OPTIONS] COMMAND [ARGS]...")
    status, printed = said["commands"]["check study.yaml"]
    assert (status, printed[:23]) == (0, "The study mine is valid")
    assert said["commands"]["run study.yaml"] == [
        1,
        "Error: running a study needs Snakemake: pip install 'onejump[workflow]'\n",
    ]

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with torch.inference_mode():
        states = model(torch.tensor([[5, 6, 7, 8]]), output_hidden_states=True).hidden_states[2][0, 3]
        expected = model.lm_head(model.model.norm(states / (1 + 1e-5) ** 0.5 @ down @ up))
    torch.testing.assert_close(torch.tensor(said["states"][0]), states)
    torch.testing.assert_close(torch.tensor(said["logits"][0]), expected, rtol=1e-4, atol=1e-4)
