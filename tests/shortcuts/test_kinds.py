"""Shortcuts as modules, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from onejump.base.by_name import module_names
from onejump.base.errors import OneJumpError
from onejump.base.tensors import write_tensors
from onejump.models.head import NormKind
from onejump.shortcuts.files import (
    SHORTCUT,
    ShortcutFolder,
    kind_named,
    load_shortcut,
    save_shortcut,
    save_shortcuts,
    shortcut_path,
)
from onejump.shortcuts.kinds.affine import Affine
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.identity import Identity
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.kinds.njtc import NJTC
from onejump.shortcuts.kinds.one_forward import OneForward
from onejump.shortcuts.kinds.one_jump import OneJump
from onejump.shortcuts.kinds.residual import Residual
from onejump.shortcuts.kinds.shortlist import Shortlist
from onejump.shortcuts.shortcut import LowRank, Shortcut

H, R, LEVELS = 12, 3, 4
KINDS = module_names("shortcuts.kinds")


def shortcut_of(kind: str, hidden: int = H, rank: int = R, seed: int = 0) -> Shortcut:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    down, up = normal(hidden, rank), normal(rank, hidden)
    vectors = (normal(hidden), normal(hidden), 100 * normal(hidden), 10 ** normal(hidden))
    return {
        "identity": lambda: Identity(),
        "jtc": lambda: JTC(normal(hidden, hidden)),
        "njtc": lambda: NJTC(down, up),
        "n-njtc": lambda: NNJTC(down, up, *vectors),
        "affine": lambda: Affine(normal(hidden, hidden), normal(hidden), "layer", 1e-5),
        "residual": lambda: Residual(NNJTC(down, up, *vectors)),
        "distilled": lambda: Distilled(down, normal(rank), up, normal(hidden), "rms", 1e-6),
        "one-jump": lambda: OneJump(
            *(down, normal(LEVELS, rank), up, normal(hidden)),
            *("layer", 1e-5),
            scale=normal(LEVELS, hidden),
        ),
        "one-forward": lambda: OneForward(
            *(normal(2 * hidden, rank), normal(LEVELS, rank), up, normal(hidden)),
            *("layer", 1e-5),
            scale=normal(LEVELS, 2 * hidden),
        ),
        "shortlist": lambda: Shortlist(
            OneJump(down, normal(LEVELS, rank), up, normal(hidden), "layer", 1e-5),
            normal(LEVELS, 2),
            3,
            OneJump(
                *(normal(hidden, 2), normal(LEVELS, 2), normal(2, hidden), normal(hidden), "layer", 1e-5),
                mix=normal(LEVELS, 2, 2),
            ),
        ),
    }[kind]()


def width_of(shortcut: Shortcut) -> int:
    """How many numbers a shortcut reads."""
    return 2 * H if shortcut.reads_previous else H


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_back_the_same_bits(kind: str, tmp_path: Path) -> None:
    shortcut = shortcut_of(kind)
    path = tmp_path / "level-03.safetensors"
    save_shortcut(path, shortcut, {"level": 3})
    loaded = load_shortcut(path)
    assert type(loaded) is type(shortcut)
    assert isinstance(loaded, nn.Module)
    assert loaded.state_dict().keys() == shortcut.state_dict().keys()
    for name, tensor in shortcut.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert loaded.config() == shortcut.config()
    states = torch.randn(LEVELS, 5, width_of(shortcut), generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(states), shortcut(states))
    assert loaded(states).shape == (LEVELS, 5, H)
    save_shortcut(path, loaded, {"level": 3})  # a second trip changes nothing either
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, shortcut.state_dict()[name])


def test_a_module_follows_dtype_and_sits_in_others() -> None:
    shortcut = shortcut_of("n-njtc")
    model = nn.Sequential(shortcut, nn.Linear(H, 2)).double()
    assert model(torch.zeros(1, H, dtype=torch.float64)).dtype == torch.float64
    assert not list(shortcut.parameters())  # nothing for an optimiser to move by accident


def test_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(H, R, generator=generator), torch.randn(R, H, generator=generator)
    matrix = torch.randn(H, H, generator=generator)
    states = 3 + 2 * torch.randn(50, H, generator=generator)
    assert torch.equal(Identity()(states), states)
    torch.testing.assert_close(JTC(matrix)(states), states @ matrix)
    torch.testing.assert_close(NJTC(a, b)(states), states @ a @ b, rtol=1e-4, atol=1e-4)
    # torch's own BatchNorm, in evaluation mode, is the reference for n-njtc.
    norm = nn.BatchNorm1d(H, momentum=None)
    norm(states)
    norm.eval()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(H, generator=generator))
        norm.bias.copy_(torch.randn(H, generator=generator))
        expected = norm(states) @ a @ b
    assert norm.running_mean is not None
    assert norm.running_var is not None
    shortcut = NNJTC(a, b, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    torch.testing.assert_close(shortcut(states), expected, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_orthonormal_rows_change_no_prediction(seed: int, rank: int) -> None:
    generator = np.random.default_rng(seed)
    down, up = generator.normal(size=(6, rank)), generator.normal(size=(rank, 6))
    states = generator.normal(size=(7, 6))
    shortcut = NJTC(torch.from_numpy(down), torch.from_numpy(up))
    basis = shortcut.up.double().numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-6)
    predicted = shortcut(torch.from_numpy(states).float()).numpy()
    np.testing.assert_allclose(predicted, states @ down @ up, atol=1e-4)
    reduced = shortcut.reduce(torch.from_numpy(states).float()).norm(dim=-1).numpy()
    np.testing.assert_allclose(reduced, np.linalg.norm(states @ down @ up, axis=1), atol=1e-4)


@pytest.mark.parametrize("norm", ["rms", "layer", None])
def test_formulas_of_what_is_distilled(norm: NormKind | None) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    a, b, matrix, bias, offset = normal(H, R), normal(R, H), normal(H, H), normal(H), normal(LEVELS, R)
    scale, mix = normal(LEVELS, H), normal(LEVELS, R, R)
    states = 3 + 2 * normal(LEVELS, 50, H)
    inputs = {
        "rms": lambda: nn.functional.rms_norm(states, (H,), eps=0.01),
        "layer": lambda: nn.functional.layer_norm(states, (H,), eps=0.01),
        None: lambda: states,
    }[norm]()
    torch.testing.assert_close(Affine(matrix, bias, norm, 0.01)(states), inputs @ matrix + bias)
    one = Distilled(a, offset[0], b, bias, norm, 0.01)
    torch.testing.assert_close(one(states), (inputs @ a + offset[0]) @ b + bias, rtol=1e-4, atol=1e-4)
    scaled = OneJump(a, offset, b, bias, norm, 0.01, scale=scale)
    mixed = OneJump(a, offset, b, bias, norm, 0.01, mix=mix)
    of_level = {
        scaled: lambda x, level: (x * scale[level]) @ a + offset[level],
        mixed: lambda x, level: x @ a @ mix[level] + offset[level],
    }
    for shortcut, reduce in of_level.items():
        expected = torch.stack([reduce(inputs[level], level) @ b + bias for level in range(LEVELS)])
        torch.testing.assert_close(shortcut(states), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(OneJumpError, match=r"4 levels were expected, 3 were given.*at\(level\)"):
            shortcut(states[1:])


def test_a_residual_adds_to_the_state() -> None:
    correction = shortcut_of("n-njtc")
    assert isinstance(correction, NNJTC)
    states = torch.randn(5, H, generator=torch.Generator().manual_seed(1))
    assert torch.equal(Residual(correction)(states), states + correction(states))


@pytest.mark.parametrize("kind", ["njtc", "n-njtc", "distilled"])
def test_folded_is_the_prediction(kind: str) -> None:
    shortcut = shortcut_of(kind)
    assert isinstance(shortcut, LowRank)
    matrix, offset, rows = shortcut.folded()
    assert matrix.dtype == offset.dtype == rows.dtype == torch.float64
    assert len(rows) == R + (kind == "distilled")
    identity = torch.eye(len(rows), dtype=torch.float64)
    torch.testing.assert_close(rows @ rows.T, identity, rtol=0, atol=1e-6)
    states = 50 * torch.randn(20, H, generator=torch.Generator().manual_seed(1)).double()
    exact = shortcut.double()(states)
    found = (shortcut.prepare(states) @ matrix + offset) @ rows
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("hidden", "rank"), [(12, 3), (40, 1)])
def test_numbers_kept(hidden: int, rank: int) -> None:
    expected = {
        "identity": 0,
        "jtc": hidden * hidden,
        "njtc": 2 * hidden * rank,
        "n-njtc": 2 * hidden * rank + 4 * hidden,
        "affine": hidden * hidden + hidden,
        "residual": 2 * hidden * rank + 4 * hidden,
        "distilled": 2 * hidden * rank + hidden + rank,
        "one-jump": 2 * hidden * rank + hidden + LEVELS * (hidden + rank),
        "one-forward": 3 * hidden * rank + hidden + LEVELS * (2 * hidden + rank),
        # Two jumps, the second one of rank 2 with mixing, and two weights for each level.
        "shortlist": 2 * hidden * rank
        + hidden
        + LEVELS * rank
        + 2 * hidden * 2
        + hidden
        + LEVELS * (2 + 4 + 2),
    }
    assert {kind: shortcut_of(kind, hidden, rank).numbers() for kind in KINDS} == expected


def test_files_that_are_no_shortcuts(tmp_path: Path) -> None:
    with pytest.raises(OneJumpError, match=r"gone\.safetensors"):
        load_shortcut(tmp_path / "gone.safetensors")
    plain = tmp_path / "plain.safetensors"
    save_file({"matrix": torch.zeros(2, 2)}, plain)
    with pytest.raises(OneJumpError, match=r"plain\.safetensors: no checksum"):
        load_shortcut(plain)
    save_file({"matrix": torch.zeros(2, 2)}, plain, metadata={"format": "pt"})
    with pytest.raises(OneJumpError, match=r"plain\.safetensors: no checksum"):
        load_shortcut(plain)
    text = tmp_path / "text.safetensors"
    text.write_text("this is no safetensors file")
    with pytest.raises(OneJumpError, match=r"text\.safetensors"):
        load_shortcut(text)
    whole = tmp_path / "cut.safetensors"
    save_shortcut(whole, shortcut_of("jtc"), {})
    whole.write_bytes(whole.read_bytes()[:-8])
    with pytest.raises(OneJumpError, match=r"cut\.safetensors"):
        load_shortcut(whole)


def test_every_kind_has_the_name_of_its_module() -> None:
    assert {kind: kind_named(kind).kind for kind in KINDS} == {kind: kind for kind in KINDS}


@pytest.mark.parametrize(
    ("about", "tensors", "said"),
    [
        (
            {"kind": "n-njct"},
            {},
            r"kind 'n-njct' given, accepted is one of affine, .*n-njtc, njtc, one-forward",
        ),
        ({"kind": "jtc"}, {"down": 0}, "tensors down given, those of a shortcut of kind jtc are matrix"),
        ({"kind": "jtc"}, {}, "tensors none given, those of a shortcut of kind jtc are matrix"),
        (
            {"kind": "jtc", "config": {"forward": 1}},
            {"matrix": 0},
            "constants forward given, those of a shortcut of kind jtc are none",
        ),
    ],
)
def test_a_file_of_an_unknown_kind_or_content_is_refused(
    about: dict[str, object], tensors: dict[str, int], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "level-00.safetensors"
    values = {name: torch.zeros(2, 2) for name in tensors}
    write_tensors(path, SHORTCUT, values, {"config": {}} | about)
    with pytest.raises(OneJumpError, match=rf"level-00\.safetensors: .*{said}"):
        load_shortcut(path)


def test_a_folder_loads_by_level(tmp_path: Path) -> None:
    with pytest.raises(OneJumpError, match="no shortcuts"):
        ShortcutFolder(tmp_path)
    for level in range(3):
        save_shortcut(shortcut_path(tmp_path, level), shortcut_of("jtc", seed=level), {})
    folder = ShortcutFolder(tmp_path)
    assert (folder.levels, len(folder)) == (3, 3)
    for level in range(3):
        expected = shortcut_of("jtc", seed=level).state_dict()["matrix"]
        assert torch.equal(folder.load(level).state_dict()["matrix"], expected)
    for level in (-1, 3):
        with pytest.raises(OneJumpError, match=f"level {level} given, 0 to 2 accepted"):
            folder.load(level)


def test_a_joint_folder_gives_one_shortcut_at_every_level(tmp_path: Path) -> None:
    save_shortcut(shortcut_path(tmp_path, None), shortcut_of("n-njtc"), {})
    folder = ShortcutFolder(tmp_path)
    assert len(folder) == 1
    one, other = folder.load(0), folder.load(5)
    assert torch.equal(one.state_dict()["down"], other.state_dict()["down"])
    assert folder.low_rank() == []
    with pytest.raises(OneJumpError, match="level -1 given, 0 or more accepted"):
        folder.load(-1)


@pytest.mark.parametrize("kind", ["n-njtc", "one-jump"])
def test_one_for_all_levels_knows_its_levels(kind: str, tmp_path: Path) -> None:
    save_shortcuts(tmp_path / kind, [shortcut_of(kind)], {}, levels=LEVELS, one=True)
    folder = ShortcutFolder(tmp_path / kind)
    assert (len(folder), folder.levels) == (1, LEVELS)
    folder.load(LEVELS - 1)
    for level in (-1, LEVELS):
        with pytest.raises(OneJumpError, match=f"level {level} given, 0 to {LEVELS - 1} accepted"):
            folder.load(level)


def test_one_jump_has_no_level_before_the_first() -> None:
    jump = shortcut_of("one-jump")
    for level in (-1, LEVELS):
        with pytest.raises(OneJumpError, match=f"one-jump: level {level} given, 0 to {LEVELS - 1} accepted"):
            jump.at(level)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_states_of_any_precision_go_through_in_float32(kind: str, dtype: torch.dtype) -> None:
    jump = shortcut_of(kind)
    # As large as some models' are: their squares are beyond float16.
    drawn = torch.randn(LEVELS, 7, width_of(jump), generator=torch.Generator().manual_seed(3))
    states = (1000 * drawn).to(dtype)
    predicted = jump(states)
    assert predicted.dtype == (dtype if (kind, dtype) == ("identity", torch.float64) else torch.float32)
    predicted = predicted.float()
    torch.testing.assert_close(predicted, jump(states.float()), rtol=0, atol=0)
    if isinstance(at_one := jump.at(1), LowRank):
        torch.testing.assert_close(at_one.reduce(states[1]), at_one.reduce(states[1].float()), rtol=0, atol=0)
