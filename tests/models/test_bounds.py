"""Folders of models that are hostile or damaged: each is refused in one line, in bounded time and memory."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onejump.base.errors import ModelError
from onejump.models.loading import load_model, load_tokenizer, sizes_from_configuration
from onejump.models.model_stage import describe


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama's folder, to be damaged."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def pickled(folder: Path) -> Path:
    """The same folder with its weights pickled."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_read_if_asked_for_only(folder: Path, tmp_path: Path) -> None:
    expected = load_model(str(folder), device="cpu").head.unembedding
    source = str(pickled(folder))
    with pytest.raises(ModelError, match=r"pickled \(pytorch_model.bin\).* allow_pickle: true") as error:
        load_model(source, device="cpu")
    assert "weights_only" not in str(error.value)
    assert torch.equal(load_model(source, device="cpu", allow_pickle=True).head.unembedding, expected)
    paths = tmp_path / "m.json", tmp_path / "h.safetensors"
    describe(*paths, source=source, device="cpu", allow_pickle=True)
    assert json.loads(paths[0].read_text(encoding="utf-8"))["allow_pickle"] is True


@pytest.mark.parametrize(
    ("allowed", "message"),
    [(False, r"no safetensors; .* allow_pickle: true"), (True, r"no file named .*safetensors, or .*\.bin")],
)
def test_a_folder_without_weights_is_named(allowed: bool, message: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=message):
        load_model(str(folder), device="cpu", allow_pickle=allowed)


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))])
def test_no_code_in_pickled_weights_is_run(save: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    pickled(folder)
    content = {"model.norm.weight": _Code(tmp_path / "was-run"), "model.embed_tokens.weight": bytes(100_000)}
    save(content, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights do not hold tensors only") as error:
        load_model(str(folder), device="cpu", allow_pickle=True)
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "was-run").exists()


def test_a_tokenizer_of_171_megabytes_is_refused(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(171_000_000)
    for load in (load_tokenizer, load_model):
        with pytest.raises(ModelError, match=r"tokenizer\.json: 171 MB given, .* at most 100 MB"):
            load(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 2**31}, r"num_hidden_layers of its configuration is 2147483648, .* 0 to 4096"),
        ({"num_hidden_layers": -1}, r"num_hidden_layers of its configuration is -1, accepted is 0 to 4096"),
        ({"num_hidden_layers": None}, "could not be loaded: .*num_hidden_layers"),
        ({"num_hidden_layers": "four"}, "could not be loaded: .*num_hidden_layers"),
        ({"hidden_size": -32}, "could not be loaded: "),
        ({"num_attention_heads": 0}, "could not be loaded: "),
        (
            {"model_type": "vit"},
            r"none of the type 'vit'",
        ),
        ({"model_type": "nonsense"}, "could not be loaded: .*nonsense"),
        (
            {"model_type": "qwen2_moe", "num_experts": 2**31},
            r"num_experts of its configuration is 214748",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    change: dict[str, Any], message: str, folder: Path
) -> None:
    path = folder / "config.json"
    configuration = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(configuration | change), encoding="utf-8")
    for read in (sizes_from_configuration, lambda source: load_model(source, device="cpu")):
        with pytest.raises(ModelError, match=message) as error:
            read(str(folder))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 700


def test_a_configuration_of_more_than_the_weights_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    configuration = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(configuration | {"hidden_size": 2**22}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"describes a model of \d+ parameters, the weights beside it have"):
        load_model(str(folder), device="cpu")
    assert sizes_from_configuration(str(folder))["hidden"] == 2**22


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "null", "\0", '"llama"'])
def test_a_configuration_that_is_no_json_object_is_refused(content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    for read in (sizes_from_configuration, lambda source: load_model(source, device="cpu")):
        with pytest.raises(ModelError, match="could not be loaded: ") as error:
            read(str(folder))
        assert "\n" not in str(error.value)
