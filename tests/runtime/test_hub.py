"""A kept jump on the Hugging Face hub: no test leaves this machine.

Uploads go to a stand-in for the hub's API object (`huggingface_hub.HfApi`), which keeps what it is given.
Downloads are those of the hub's own client, from a small server on this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from local_hub import local_hub

from onejump.base.errors import OneJumpError
from onejump.runtime.artefact import OneJump

COMMIT = "c0ffee" + 34 * "0"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of all repositories of the stand-in."""
    repositories = tmp_path / "hub"

    class FakeApi:
        """In place of `huggingface_hub.HfApi`: keeps a folder that is uploaded."""

        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, repositories / repo_id)
            return f"https://hub/{repo_id}/commit/{COMMIT}"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    with local_hub(repositories, COMMIT) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        pattern = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield repositories


def test_a_jump_goes_to_the_hub_and_comes_back(studied: Path, hub: Path, tmp_path: Path) -> None:
    made = OneJump.from_study(studied)
    jump = OneJump(made.config, made.shortcut, figures={"selected.png": b"\x89PNG"})
    assert jump.push_to_hub("user/jump") == f"https://hub/user/jump/commit/{COMMIT}"
    uploaded = {str(f.relative_to(hub / "user/jump")) for f in hub.rglob("*") if f.is_file()}
    assert uploaded == {"README.md", "config.json", "model.safetensors", "figures/selected.png"}
    (hub / "user/jump/large.bin").write_bytes(b"not asked for")
    fetched = OneJump.from_pretrained("user/jump", cache_dir=tmp_path / "cache")
    assert fetched.config == jump.config
    assert fetched.card == jump.card
    assert fetched.figures == jump.figures
    states = fetched.shortcut.state_dict()
    assert all(tensor.equal(states[name]) for name, tensor in jump.shortcut.state_dict().items())
    assert not list((tmp_path / "cache").rglob("*.bin"))
    assert (
        OneJump.from_pretrained(
            "user/jump", revision=COMMIT, cache_dir=tmp_path / "cache", local_files_only=True
        ).config
        == jump.config
    )


def test_what_is_no_jump_on_the_hub_is_one_line(hub: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    shutil.copytree(tiny_model_folder, hub / "user/model")
    cache = tmp_path / "cache"
    for name, said in {
        "user/nothing": "user/nothing: no such folder, and it could not be fetched from the hub (404 ",
        "user/model": "config.json: the configuration of another program, that of a kept jump was expected",
    }.items():
        with pytest.raises(OneJumpError) as refused:
            OneJump.from_pretrained(name, cache_dir=cache)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not list(cache.rglob("model.safetensors")), "a model is not fetched to find that it is no jump"
    with pytest.raises(OneJumpError, match="user/none: no such folder, and it could not be fetched"):
        OneJump.from_pretrained("user/none", cache_dir=cache, local_files_only=True)


def test_an_upload_that_fails_is_one_line(studied: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to\nthe hub")

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.upload_folder", refuse)
    with pytest.raises(OneJumpError, match=r"^user/jump: could not be uploaded .* \(no route to the hub\)$"):
        OneJump.from_study(studied, "joint").push_to_hub("user/jump")
