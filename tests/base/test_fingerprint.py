from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import onejump
from onejump.base import fingerprint as module
from onejump.base.fingerprint import fingerprint

PACKAGE = Path(onejump.__file__).parent


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {
        "a": '"""Words."""\nfrom onejump.b import f\n\ndef g():\n    """More."""\n    return f()\n',
        "b": "from onejump import c\n\ndef f():\n    return c.h()\n",
        "c": "def h():\n    return 1\n",
        "d": "X = 1\n",
        "inner/__init__": "",
        "inner/e": "Y = 1\n",
        "inner/f": "Z = 1\n",
        "takes_module": "from onejump.inner import e\n",
        "takes_name": "from onejump.inner.e import Y\n",
        "takes_plainly": "import onejump.inner.e\n",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    return tmp_path


def forget() -> None:
    module._tree.cache_clear()
    module._meaning.cache_clear()
    module._imports.cache_clear()


def changed(package: Path, name: str, old: str, new: str, *, of: str = "a") -> str:
    forget()
    before = fingerprint(of)
    path = package / f"{name}.py"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    forget()
    return "changed" if fingerprint(of) != before else "same"


def test_what_is_imported_counts_however_far_away(package: Path) -> None:
    assert changed(package, "c", "return 1", "return 2") == "changed"


def test_what_is_not_imported_does_not_count(package: Path) -> None:
    assert changed(package, "d", "1", "2") == "same"


@pytest.mark.parametrize(("old", "new"), [("Words", "Others"), ("More", "Less"), ("def", "# why\ndef")])
def test_words_and_layout_do_not_count(package: Path, old: str, new: str) -> None:
    assert changed(package, "a", old, new) == "same"


@pytest.mark.parametrize("of", ["takes_module", "takes_name", "takes_plainly", "inner.e"])
def test_a_module_inside_a_package_counts_and_its_neighbour_does_not(package: Path, of: str) -> None:
    assert changed(package, "inner/e", "1", "2", of=of) == "changed"
    assert changed(package, "inner/f", "1", "2", of=of) == "same"


@pytest.mark.parametrize("of", ["takes_module", "takes_name", "takes_plainly", "inner.e"])
def test_a_package_runs_before_its_modules_and_so_it_counts(package: Path, of: str) -> None:
    (package / "inner/__init__.py").write_text("from onejump.inner import f\n", encoding="utf-8")
    assert changed(package, "inner/f", "1", "2", of=of) == "changed"


def test_what_a_package_gives_under_its_own_name_counts(package: Path) -> None:
    (package / "inner/__init__.py").write_text("N = 1\n", encoding="utf-8")
    (package / "taker.py").write_text("from onejump.inner import N, e\n", encoding="utf-8")
    assert changed(package, "inner/__init__", "1", "2", of="taker") == "changed"
    assert changed(package, "inner/e", "1", "2", of="taker") == "changed"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from . import c\n", "relative import"),
        ("def f():\n    from .inner import e\n", "line 2: a relative import"),
        ("from onejump import Head\n", "Head imported from the package itself"),
        ("import onejump.nowhere\n", r"onejump\.nowhere: no such module"),
    ],
)
def test_an_import_that_cannot_be_followed_is_refused(package: Path, code: str, said: str) -> None:
    (package / "odd.py").write_text(code, encoding="utf-8")
    forget()
    with pytest.raises(ImportError, match=said):
        fingerprint("odd")


def test_importing_any_module_needs_no_network_and_the_package_no_torch() -> None:
    files = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    modules = {".".join(file.parts) for file in files if file.name != "__init__"}
    if importlib.util.find_spec("lm_eval") is None:  # an extra that developers need not have
        modules.remove("runtime.lm_eval")
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise RuntimeError('network at import time')\n"
        "socket.socket.connect = refuse\n"
        "import onejump, onejump.cli.main, onejump.study.reading, onejump.base.fingerprint\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        + "".join(f"import onejump.{name}\n" for name in sorted(modules))
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_of_the_package_is_there() -> None:
    assert dir(onejump) == sorted(onejump.__all__)
    for name in onejump.__all__:
        assert getattr(onejump, name).__module__.startswith("onejump.")


def test_nothing_is_pickled_and_nothing_evaluated() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("import pickle", "torch.load", "torch.save", "eval(", "exec(", "allow_pickle=True"):
            assert forbidden not in text.replace(".eval()", ""), f"{forbidden} in {path.name}"


def test_data_files_count(package: Path) -> None:
    style = package / "look.mplstyle"
    style.write_text("lines.linewidth: 1", encoding="utf-8")
    thin = fingerprint("d", data=["look.mplstyle"])
    style.write_text("lines.linewidth: 2", encoding="utf-8")
    assert fingerprint("d", data=["look.mplstyle"]) not in (thin, fingerprint("d"))


@pytest.mark.parametrize(
    ("stage", "edited"),
    [
        ("exits.measuring", ["experiments/early_exit", "exits/rules", "exits/sweep", "scoring/evaluation"]),
        ("scoring.evaluation", ["scoring/collection", "scoring/parameters", "scoring/scores"]),
        ("scoring.scores", ["scoring/selection", "scoring/evaluation", "scoring/analysis"]),
        ("experiments.sub_module_activations", ["experiments/sub_module_maps", "experiments/sub_modules"]),
        ("experiments.sub_module_maps", ["experiments/sub_module_activations", "experiments/sub_modules"]),
    ],
)
def test_what_uses_the_tables_of_a_stage_does_not_rerun_it(
    stage: str, edited: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(PACKAGE, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "_PACKAGE", copied)
    for name in edited:
        assert changed(copied, name, "from __future__", "X = 1\nfrom __future__", of=stage) == "same", name
    own = stage.replace(".", "/")
    assert changed(copied, own, "from __future__", "X = 1\nfrom __future__", of=stage) == "changed"
    forget()
