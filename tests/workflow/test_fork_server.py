"""The program that stands in for `python` in the other tests here does what `python` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

SCRIPT = """\
import atexit, os, sys, threading
atexit.register(print, "last")
threading.Timer(0.1, print, ["behind"]).start()
print(sys.argv[1:], __name__, os.getcwd(), os.environ["COLOUR"], sys.path[:2], "onejump" in sys.modules)
print(input(), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("", "given"),
        ("sys.exit()", "given"),
        ("sys.exit(3)", "given"),
        ("sys.exit('enough')", "enough"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("sys.stdout.flush(); os.kill(os.getpid(), 15)", "given"),
    ],
)
def test_a_process_by_fork_is_like_one_of_python(
    quick_python: Path, tmp_path: Path, ending: str, said: str
) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/some.py").write_text(SCRIPT + ending)
    runs = [
        subprocess.run(
            [program, "scripts/some.py", "a b", "-c"],
            cwd=tmp_path,
            env={"COLOUR": "green", "PYTHONPATH": "library"},
            input="given\n",
            capture_output=True,
            text=True,
        )
        for program in (sys.executable, quick_python)
    ]
    own, forked = runs
    assert (forked.returncode, forked.stdout) == (own.returncode, own.stdout)
    # Tracebacks differ in what calls the script.
    for run in runs:
        assert run.stderr.startswith("given\n")
        assert run.stderr.endswith(f"{said}\n")


def test_a_module_by_fork_is_that_of_the_folder(quick_python: Path, tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("import sys\nprint(__name__, sys.argv[1:], __file__)\n")
    runs = [
        subprocess.run([program, "-m", "some", "x"], cwd=tmp_path, capture_output=True, text=True, check=True)
        for program in (sys.executable, quick_python)
    ]
    assert runs[0].stdout == runs[1].stdout == f"__main__ ['x'] {tmp_path}/some.py\n"
