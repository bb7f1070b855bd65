from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import onejump
from onejump import fingerprint as module
from onejump.fingerprint import fingerprint

PACKAGE = Path(onejump.__file__).parent


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {
        "a": '"""Words."""\nfrom onejump.b import f\n\ndef g():\n    """More."""\n    return f()\n',
        "b": "from onejump import c\n\ndef f():\n    return c.h()\n",
        "c": "def h():\n    return 1\n",
        "d": "X = 1\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    return tmp_path


def changed(package: Path, name: str, old: str, new: str) -> str:
    module._tree.cache_clear()
    module._meaning.cache_clear()
    before = fingerprint("a")
    path = package / f"{name}.py"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    module._tree.cache_clear()
    module._meaning.cache_clear()
    return "changed" if fingerprint("a") != before else "same"


def test_what_is_imported_counts_however_far_away(package: Path) -> None:
    assert changed(package, "c", "return 1", "return 2") == "changed"


def test_what_is_not_imported_does_not_count(package: Path) -> None:
    assert changed(package, "d", "1", "2") == "same"


@pytest.mark.parametrize(("old", "new"), [("Words", "Others"), ("More", "Less"), ("def", "# why\ndef")])
def test_words_and_layout_do_not_count(package: Path, old: str, new: str) -> None:
    assert changed(package, "a", old, new) == "same"


def test_importing_any_module_needs_no_network_and_the_package_no_torch() -> None:
    modules = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise RuntimeError('network at import time')\n"
        "socket.socket.connect = refuse\n"
        "import onejump, onejump.cli, onejump.study, onejump.fingerprint\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        + "".join(f"import onejump.{name}\n" for name in modules)
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_pickled_and_nothing_evaluated() -> None:
    for path in PACKAGE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("import pickle", "torch.load", "torch.save", "eval(", "exec(", "allow_pickle"):
            assert forbidden not in text.replace(".eval()", ""), f"{forbidden} in {path.name}"


def test_data_files_count(package: Path) -> None:
    style = package / "look.mplstyle"
    style.write_text("lines.linewidth: 1", encoding="utf-8")
    thin = fingerprint("d", data=["look.mplstyle"])
    style.write_text("lines.linewidth: 2", encoding="utf-8")
    assert fingerprint("d", data=["look.mplstyle"]) not in (thin, fingerprint("d"))
