"""A kept jump as a folder: what comes back, which models it fits, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import onejump
from onejump.base.checksum import PLACEHOLDER, stamp
from onejump.base.errors import DamagedFileError, FormatError, ModelError, OneJumpError, OutdatedFileError
from onejump.base.files import read_table
from onejump.exits.gates import Margin, TopProbability
from onejump.exits.learned_gate import Learned
from onejump.models.head import Head
from onejump.models.source_files import file_digest
from onejump.models.transformer import Transformer
from onejump.runtime.artefact import OneJump
from onejump.shortcuts.results import load_shortcuts

METHODS = ("one-jump", "joint", "ojfa", "ojfa-distilled-surprisal")


@pytest.fixture(scope="module")
def kept(studied: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each kept jump of the study."""
    folder = tmp_path_factory.mktemp("kept")
    for method in METHODS:
        jump = OneJump.from_study(studied, method)
        figures = {"selected.png": b"\x89PNG of a test"}
        OneJump(jump.config, jump.shortcut, figures=figures).save_pretrained(folder / method)
    return {method: folder / method for method in METHODS}


@pytest.fixture
def folder(kept: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a kept jump, to damage."""
    return Path(shutil.copytree(kept["one-jump"], tmp_path / "jump"))


@pytest.mark.parametrize("method", METHODS)
def test_a_jump_comes_back_bit_for_bit(
    kept: dict[str, Path], studied: Path, tmp_path: Path, method: str
) -> None:
    loaded = onejump.OneJump.from_pretrained(kept[method])
    assert loaded.config == OneJump.from_study(studied, method).config
    head, of_the_study = Head.load(studied.parent / "head.safetensors"), load_shortcuts(studied, method)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    assert list(loaded.levels) == [0, 1, 2, 3]
    for level in loaded.levels:
        expected = head.logits(of_the_study.at(level)(states))
        assert torch.equal(head.logits(loaded.at(level)(states)), expected)
    assert loaded.shortcut.level == of_the_study.selected
    with pytest.raises(OneJumpError, match="level 4 given, 0 to 3 accepted"):
        loaded.at(4)
    loaded.save_pretrained(tmp_path / "again")
    for file in kept[method].rglob("*.*"):
        assert (tmp_path / "again" / file.relative_to(kept[method])).read_bytes() == file.read_bytes()


def test_a_kept_jump_predicts_as_well_as_its_study_says(
    kept: dict[str, Path], studied: Path, tiny: Callable[..., Transformer]
) -> None:
    """On the study's validation samples, counted here in a loop over samples."""
    store = onejump.ActivationStore([studied / "activations/validation-0.zarr"])
    model = tiny()
    for method in METHODS:
        jump = OneJump.from_pretrained(kept[method])
        jump.check_fits(model)
        last = torch.from_numpy(store.level(4))
        for level in jump.levels:
            states = torch.from_numpy(store.level(level))
            hits, surprise = 0.0, 0.0
            for state, final in zip(states, last, strict=True):
                token = int(model.head.logits(final).argmax())
                logits = model.head.logits(jump.at(level)(state)).double()
                hits += int(logits.argmax()) == token
                surprise -= float(logits.log_softmax(-1)[token])
            assert jump.config.scores["precision@1"][level] == pytest.approx(hits / len(states))
            assert jump.config.scores["surprisal"][level] == pytest.approx(surprise / len(states), rel=1e-4)


def test_what_a_jump_says_of_itself_is_what_the_study_found(kept: dict[str, Path], studied: Path) -> None:
    config = OneJump.from_pretrained(kept["ojfa"]).config
    evaluation = read_table(studied / "evaluation.parquet")
    selected = json.loads((studied / "selection.json").read_text(encoding="utf-8"))
    assert (config.level, config.kind, config.rank) == (selected["jump"], "n-njtc", 3)
    for metric in ("precision@1", "surprisal", "kl", "r2"):
        rows = evaluation.query("method == 'ojfa' and metric == @metric").sort_values("level")
        assert config.scores[metric] == rows["value"].tolist()
        assert config.compared["ojfa"][metric] == pytest.approx(rows["value"].mean())
    assert config.samples == 96
    assert config.compared["n-njtc"]["numbers"] == 4 * config.compared["ojfa"]["numbers"] == 4 * 320
    assert (config.study, config.model, config.corpus) == ("tiny", "tiny-llama", "random")
    assert (config.base_model, config.revision) == ("tiny-llama", None), "no place on this machine"
    assert config.versions["torch"] == torch.__version__


# Which models fit.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_same_model_fits_in_every_precision(
    kept: dict[str, Path], tiny: Callable[..., Transformer], dtype: str
) -> None:
    OneJump.from_pretrained(kept["one-jump"]).check_fits(tiny(dtype))


def changed(folder: Path, target: Path, change: Callable[[Any], None]) -> Transformer:
    """The tiny model with a change, saved and loaded."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        change(model)
    model.save_pretrained(target)
    return onejump.load_model(str(target), device="cpu")


def test_a_fine_tuned_model_is_refused_unless_it_is_allowed(
    kept: dict[str, Path], tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jump = OneJump.from_pretrained(kept["one-jump"])
    tuned = changed(tiny_model_folder, tmp_path / "m", lambda model: model.lm_head.weight.mul_(1 + 1e-6))
    expected = jump.config.unembedding["float32"]
    with pytest.raises(ModelError) as refused:
        jump.check_fits(tuned)
    said = str(refused.value)
    assert "\n" not in said
    assert f"unembedding: float32:{expected} expected, float32:" in said
    assert said.endswith("If that is meant, say allow_other_weights=True")
    with caplog.at_level(logging.WARNING):
        jump.check_fits(tuned, allow_other_weights=True)
    assert expected in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "L: 4 expected, 3 found"),
        ({"hidden_size": 64}, "H: 32 expected, 64 found"),
    ],
)
def test_a_model_of_other_sizes_is_never_accepted(
    kept: dict[str, Path], tiny_model_folder: Path, changes: dict[str, int], said: str
) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(tiny_model_folder, **changes)
    other = Transformer(LlamaForCausalLM(config))
    jump = OneJump.from_pretrained(kept["one-jump"])
    with pytest.raises(ModelError, match=said):
        jump.check_fits(other, allow_other_weights=True)


def test_another_family_is_told_by_every_value_that_differs(kept: dict[str, Path]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    other = Transformer(GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=32, n_head=4, vocab_size=97)))
    with pytest.raises(ModelError, match="V: 200 expected, 97 found; norm: rms expected, layer found"):
        OneJump.from_pretrained(kept["ojfa"]).check_fits(other)


def test_another_revision_is_refused(kept: dict[str, Path], tiny: Callable[..., Transformer]) -> None:
    jump = OneJump.from_pretrained(kept["joint"])
    jump.shortcut.model_digest = "commit:abc"
    published = OneJump(replace(jump.config, model_digest="commit:abc", revision="abc"), jump.shortcut)
    model = tiny()
    published.check_fits(model)  # loaded from a folder: its commit is not known
    model.model.config._commit_hash = "abc"
    published.check_fits(model)
    model.model.config._commit_hash = "def"
    with pytest.raises(ModelError, match="digest: commit:abc expected, commit:def found"):
        published.check_fits(model)
    jump.check_fits(model)  # a digest of files cannot be compared with a commit


# What is refused.


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change config.json and give it a checksum that is right."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content | {"checksum": PLACEHOLDER}), encoding="utf-8")
    stamp(path)


def test_a_file_that_was_changed_by_hand_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"rank": 3', '"rank": 4'), encoding="utf-8")
    with pytest.raises(DamagedFileError, match=r"config\.json: damaged \(its checksum differs\): fetch the"):
        OneJump.from_pretrained(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hidden", 10**12, "config.hidden: 1000000000000 given, accepted is less than or equal to 1000000"),
        ("blocks", -1, "config.blocks: -1 given, accepted is greater than or equal to 1"),
        ("blocks", 5, "scores.precision@1: 4 values given, one for each of the levels 0 to 4 is accepted"),
        ("rank", 33, "rank: 33 given, accepted is 1 to H = 32"),
        ("rank", 2, r"down: shape \(32, 3\) given, \(32, 2\) expected"),
        ("level", 4, "level: 4 given, accepted is 0 to 3"),
        ("norm", "batch", "config.norm: 'batch' given, accepted is 'rms' or 'layer'"),
        ("corpus", "\x1b[2Jhello", "config.corpus: '.x1b.2Jhello' given, accepted is"),
        ("surprise", 1, "config.surprise is not a key that is accepted"),
        ("kind", "n-njtc", r"offset: shape \(4, 3\) given, \(3,\) expected for the sizes that config\.json"),
        ("kind", "quantum", r"offset: shape \(4, 3\) given"),
        ("model_digest", "sha256:1", "model_digest: 'sha256:4fadca"),
        ("unembedding", {}, "config.unembedding: {} given, accepted is"),
        ("scores", {"kl": [0.0, 0.0, 0.0, float("nan")]}, "accepted is a finite number"),
        ("gates", {"95%": {"kind": "magic", "levels": [], "thresholds": []}}, "kind 'magic' given"),
        ("gates", {"95%": {"kind": "margin", "levels": [4], "thresholds": [0.5]}}, "level 4 given, accepted"),
        (
            "onejump",
            {"kind": "jump", "format": 2},
            "format 2 of the kind 'jump' found, .* update onejump, or",
        ),
        (
            "onejump",
            {"kind": "head", "format": 1},
            "a file of the kind 'jump' was expected, its kind is 'head'",
        ),
        ("onejump", None, "the configuration of another program"),
        ("weights", "abc", "its SHA-256 is .*, that of the tensors which jump/config.json describes is abc"),
        ("weights", 3, "weights: 3 given, accepted is a SHA-256"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_one_line(
    folder: Path, key: str, value: Any, said: str
) -> None:
    rewritten(folder / "config.json", lambda content: content.update({key: value}))
    with pytest.raises(OneJumpError, match=said) as refused:
        OneJump.from_pretrained(folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_folder_of_an_older_onejump_is_refused(folder: Path) -> None:
    rewritten(folder / "config.json", lambda content: content.update(onejump={"kind": "jump", "format": 0}))
    with pytest.raises(
        OutdatedFileError, match="an older one wrote this file: fetch the jump's folder again"
    ):
        OneJump.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"model_type": "llama"}'])
def test_a_configuration_of_any_content_is_refused_in_one_line(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(OneJumpError, match=r"config\.json: ") as refused:
        OneJump.from_pretrained(folder)
    assert "\n" not in str(refused.value)


def test_an_oversized_file_is_not_read(folder: Path) -> None:
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(2_000_000_000)  # a hole: it takes no space
    with pytest.raises(FormatError, match=r"model\.safetensors: 2000\.0 MB given, a jump .* at most 1\.0 MB"):
        OneJump.from_pretrained(folder)
    with (folder / "config.json").open("r+b") as file:
        file.truncate(20_000_000)
    with pytest.raises(FormatError, match=r"20 MB given, a configuration of at most 10 MB is accepted"):
        OneJump.from_pretrained(folder)


def test_tensors_are_refused_before_they_are_read(folder: Path) -> None:
    """The header alone says that they have a petabyte."""
    header = {"down": {"dtype": "F32", "shape": [32, 2**43], "data_offsets": [0, 4 * 32 * 2**43]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(DamagedFileError, match="not a readable safetensors file"):
        OneJump.from_pretrained(folder)


def test_every_damaged_byte_of_the_tensors_is_noticed(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 25, dtype=int):
        weights.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(OneJumpError):
            OneJump.from_pretrained(folder)
    weights.write_bytes(whole[:-10])
    with pytest.raises(DamagedFileError):
        OneJump.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(OneJumpError, match=r"model\.safetensors: no such file"):
        OneJump.from_pretrained(folder)


def test_the_tensors_of_another_jump_are_refused(folder: Path, kept: dict[str, Path]) -> None:
    """Each is whole, but the two do not belong together."""
    other = OneJump.from_pretrained(kept["one-jump"])
    moved = type(other.shortcut).restore(
        {name: tensor + 1 for name, tensor in other.shortcut.state_dict().items()}, other.shortcut.config()
    )
    moved.model_digest = other.config.model_digest
    OneJump(other.config, moved).save_pretrained(folder / "other")
    shutil.copy(folder / "other" / "model.safetensors", folder)
    with pytest.raises(DamagedFileError, match="its SHA-256 is "):
        OneJump.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eps": -1.0}, "eps: -1.0 given, accepted is a number from 0 on"),
        ({"eps": "tiny"}, "eps: 'tiny' given"),
        ({"norm": "group"}, "norm: 'group' given, accepted is rms, layer or null"),
    ],
)
def test_impossible_constants_are_refused(kept: dict[str, Path], change: dict[str, Any], said: str) -> None:
    jump = OneJump.from_pretrained(kept["one-jump"])
    for name, value in change.items():
        setattr(jump.shortcut, name, value)
    with pytest.raises(OneJumpError, match=said):
        OneJump(jump.config, jump.shortcut)


def test_a_jump_that_predicts_no_number_is_refused(kept: dict[str, Path]) -> None:
    jump = OneJump.from_pretrained(kept["joint"])
    jump.shortcut.variance.fill_(-1.0)
    with pytest.raises(OneJumpError, match="its prediction from level 0 is not finite"):
        OneJump(jump.config, jump.shortcut)


def test_a_full_matrix_is_no_jump_to_keep(kept: dict[str, Path]) -> None:
    from onejump.shortcuts.kinds.jtc import JTC

    config = replace(OneJump.from_pretrained(kept["joint"]).config, kind="jtc")
    with pytest.raises(OneJumpError, match="kind 'jtc' given, accepted is a low-rank jump"):
        OneJump(config, JTC(torch.eye(32)))


def test_what_is_no_folder_of_a_jump_is_named(
    folder: Path, tmp_path: Path, studied: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, said in {
        str(tmp_path): rf"no kept jump in it \(no config\.json\); below it: {folder}$",
        "jump/config.json": "the folder of a kept jump was expected, this is a file",
        "jump/nowhere": "jump/nowhere: no such folder",
        "./nowhere": r"\./nowhere: no such folder",
        "/nowhere/at/all": "no such folder",
        str(tiny_model_folder): r"config\.json: the configuration of another program",
    }.items():
        with pytest.raises(OneJumpError, match=said):
            OneJump.from_pretrained(name)
    with pytest.raises(OneJumpError, match="revision 'v1' given, but this is a folder"):
        OneJump.from_pretrained(folder, revision="v1")
    with pytest.raises(OneJumpError, match="method 'jtc' given, but the study fitted distilled, joint, "):
        OneJump.from_study(studied, "jtc")
    with pytest.raises(OneJumpError, match="has a shortcut for each level: accepted is one whose one map"):
        OneJump.from_study(studied, "n-njtc")
    for method in ("ojfa-normalised", "arbitrary"):
        with pytest.raises(OneJumpError, match="accepted is one whose one map serves all levels"):
            OneJump.from_study(studied, method)


def test_a_folder_that_was_written_in_part_is_refused(
    kept: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(kept["joint"], tmp_path / "jump"))
    jump = OneJump.from_pretrained(kept["one-jump"])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onejump.runtime.artefact.write_config", stop)
    with pytest.raises(KeyboardInterrupt):
        jump.save_pretrained(folder)
    with pytest.raises(OneJumpError, match=r"no kept jump in it \(no config\.json\)"):
        OneJump.from_pretrained(folder)
    (tmp_path / "file").touch()
    with pytest.raises(OneJumpError, match="file: cannot be written"):
        jump.save_pretrained(tmp_path / "file")


# Gates.


def test_calibrated_gates_come_back(kept: dict[str, Path], tmp_path: Path) -> None:
    jump = OneJump.from_pretrained(kept["one-jump"])
    assert not jump.gates
    gates = {"99%": TopProbability({1: 0.9, 3: 0.75}), "90%": Margin({2: 0.5})}
    measured = {"99%": {"agreement": 0.991, "blocks": 3.25, "blocks_saved": 0.1875, "n": 1234.0}}
    jump.with_gates(gates, measured).save_pretrained(tmp_path / "gated")
    loaded = OneJump.from_pretrained(tmp_path / "gated")
    assert dict(loaded.gates) == gates
    assert loaded.config.measured == measured
    assert "| 99% | top-probability | 1, 3 | 99.1% | 3.2 | 18.8% | 1,234 |" in loaded.card
    assert loaded.figures == jump.figures


def test_a_learned_gate_comes_back_and_fits_its_jump_only(kept: dict[str, Path], tmp_path: Path) -> None:
    jump = OneJump.from_pretrained(kept["one-jump"])
    rank = jump.config.rank
    gate = Learned({1: 0.75}, {1: [0.5, 1.0, *(0.1 * number for number in range(rank))]})
    jump.with_gates({"95%": gate}, {"95%": {"agreement": 0.96, "guarantee": 0.9}}).save_pretrained(tmp_path)
    loaded = OneJump.from_pretrained(tmp_path)
    assert dict(loaded.gates) == {"95%": gate}
    assert "| 95% | learned | 1 | 96.0% |" in loaded.card
    with pytest.raises(OneJumpError, match=rf"gate 95% was fitted to 1 coordinates, the jump has {rank}"):
        jump.with_gates({"95%": Learned({1: 0.75}, {1: [0, 1, 2]})})


def test_nothing_is_pickled(kept: dict[str, Path]) -> None:
    for folder in kept.values():
        found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*"))
        assert found == ["README.md", "config.json", "figures/selected.png", "model.safetensors"]
        assert load_file(folder / "model.safetensors")
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert content["weights"] == file_digest(folder / "model.safetensors")
