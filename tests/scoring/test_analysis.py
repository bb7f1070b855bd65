"""Analysis: shared spaces against scipy's principal angles, ranks against the SVD of the predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

from onejump.base.errors import OneJumpError
from onejump.data.store import ActivationStore
from onejump.fitting.teacher import Teacher, head_metric
from onejump.models.head import Head
from onejump.scoring.analysis import Ranks, analyse, last_covariance, participation, share, shared, spaces_of
from onejump.shortcuts.files import save_shortcut, shortcut_path
from onejump.shortcuts.kinds.distilled import Distilled
from onejump.shortcuts.kinds.jtc import JTC
from onejump.shortcuts.kinds.n_njtc import NNJTC
from onejump.shortcuts.kinds.njtc import NJTC
from onejump.shortcuts.shortcut import LowRank

LEVELS, SAMPLES, H, R, V, K = 5, 150, 12, 3, 40, 6
MakeHead = Callable[..., Head]
MakeStore = Callable[..., ActivationStore]
Data = Callable[..., np.ndarray]


def some_jump(kind: str, seed: int, norm: Any = "rms") -> LowRank:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    down, up = normal(H, R), normal(R, H)
    if kind == "njtc":
        return NJTC(down, up)
    if kind == "n-njtc":
        return NNJTC(down, up, normal(H), normal(H), normal(H), 0.1 + normal(H).square())
    return Distilled(down, normal(R), up, normal(H), norm, 1e-5)


def columns_read(jump: LowRank) -> np.ndarray:
    """What a jump multiplies states by, probed with states; past its norm, if it has one."""
    if isinstance(jump, Distilled):
        return jump.down.numpy()
    return (jump.reduce(torch.eye(H)) - jump.reduce(torch.zeros(1, H))).numpy()


@pytest.mark.parametrize("kind", ["njtc", "n-njtc", "distilled"])
def test_shared_spaces_are_those_of_scipys_principal_angles(kind: str) -> None:
    jumps = [some_jump(kind, seed) for seed in range(4)]
    downs, ups = zip(*map(spaces_of, jumps), strict=True)
    spaces = [(downs, [columns_read(jump) for jump in jumps]), (ups, [jump.up.T.numpy() for jump in jumps])]
    for bases, columns in spaces:
        angles = [[scipy.linalg.subspace_angles(one, other) for other in columns] for one in columns]
        expected = np.square(np.cos(angles)).mean(-1)
        np.testing.assert_allclose(shared(bases).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_sharing_needs_the_same_space_and_not_the_same_basis() -> None:
    basis = torch.linalg.qr(torch.randn(H, H, generator=torch.Generator().manual_seed(0)).double()).Q
    turn = torch.linalg.qr(torch.randn(R, R, generator=torch.Generator().manual_seed(1)).double()).Q
    found = shared([basis[:, :R], basis[:, :R] @ turn, basis[:, R : 2 * R], basis[:, 1 : R + 1]])
    np.testing.assert_allclose(found[0].numpy(), [1, 1, 0, (R - 1) / R], atol=1e-12)


def test_shares_of_a_whole_basis_are_all_and_participation_counts_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    half, basis = (torch.randn(H, H, generator=generator).double() for _ in range(2))
    basis = torch.linalg.qr(basis).Q
    metric = half @ half.T
    found = share(basis, metric)
    assert float(found.sum()) == pytest.approx(1)
    expected = float(basis[:, 2] @ metric @ basis[:, 2] / np.trace(metric.numpy()))
    assert float(found[2]) == pytest.approx(expected)
    alike = torch.full((H, 1), H**-0.5).double()
    pair = torch.zeros(H, 1).double()
    pair[[1, 4]] = 0.5**0.5
    together = torch.cat([torch.eye(H)[:, :1].double(), pair, alike], 1)
    np.testing.assert_allclose(participation(together).numpy(), [1, 2, H])


def test_the_covariance_is_numpys(make_store: MakeStore, levels_of_data: Data) -> None:
    states = levels_of_data(2, SAMPLES, H)
    found = last_covariance(make_store(states, sizes=[100, 50], chunk_samples=33))
    np.testing.assert_allclose(found.numpy(), np.cov(states[-1].T, ddof=0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["njtc", "n-njtc", "distilled"])
def test_ranks_are_the_principal_components_of_the_predictions(kind: str, levels_of_data: Data) -> None:
    jump, states = some_jump(kind, 0), torch.from_numpy(levels_of_data(1, SAMPLES, H)[0])
    predicted = jump(states).double().numpy()
    ranks = Ranks.of(jump, states)
    mean, directions, coordinates = (tensor.numpy() for tensor in ranks)
    np.testing.assert_allclose(directions.T @ directions, np.eye(R), atol=1e-6)
    np.testing.assert_allclose(mean + coordinates @ directions.T, predicted, rtol=1e-4, atol=1e-4)
    _, singular, right = np.linalg.svd(predicted - predicted.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.linalg.norm(coordinates, axis=0), singular[:R], rtol=1e-4)
    np.testing.assert_allclose(np.abs((right[:R] * directions.T).sum(1)), 1, rtol=1e-5)


def test_ranks_do_not_depend_on_how_a_jump_is_written(levels_of_data: Data) -> None:
    states = torch.from_numpy(levels_of_data(1, SAMPLES, H)[0])
    jump = some_jump("distilled", 0)
    assert isinstance(jump, Distilled)
    assert jump.bias is not None
    mixing = torch.randn(R, R, generator=torch.Generator().manual_seed(1))
    again = Distilled(
        jump.down @ mixing, jump.offset @ mixing, mixing.inverse() @ jump.up, jump.bias, "rms", 1e-5
    )
    one, other = (Ranks.of(written, states).directions for written in (jump, again))
    np.testing.assert_allclose((one * other).sum(0).abs().numpy(), 1, rtol=1e-4)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("kind", ["n-njtc", "distilled"])
def test_losses_are_those_of_the_head_on_truncated_predictions(
    kind: str, norm: str, make_head: MakeHead, make_store: MakeStore, levels_of_data: Data
) -> None:
    head = make_head(H, V, norm, bias=True, softcap=3.0, scale=0.5)
    jump, data = some_jump(kind, 0, norm), levels_of_data(2, SAMPLES, H)
    teacher = Teacher.of(make_store(data, head=head, top_k=K))
    states = torch.from_numpy(data[0])
    found = list(Ranks.of(jump, states).losses(head, teacher))
    predicted = jump(states).double().numpy()
    mean = predicted.mean(0)
    left, singular, right = np.linalg.svd(predicted - mean, full_matrices=False)
    assert len(found) == R + 1
    for kept, loss in enumerate(found):
        truncated = mean + (left[:, :kept] * singular[:kept]) @ right[:kept]
        logits = head.logits(torch.from_numpy(truncated).float())
        target = torch.zeros_like(logits).scatter(1, *teacher)
        assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-4)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    paths = {kind: tmp_path / kind for kind in ("n-njtc", "distilled")}
    for kind, folder in paths.items():
        folder.mkdir()
        for level in range(LEVELS - 1):
            save_shortcut(shortcut_path(folder, level), some_jump(kind, level), {})
    return paths


def test_the_table_holds_what_the_functions_say(
    folders: dict[str, Path],
    tmp_path: Path,
    make_head: MakeHead,
    make_store: MakeStore,
    levels_of_data: Data,
) -> None:
    head = make_head(H, V)
    head.save(tmp_path / "head.safetensors")
    store = make_store(levels_of_data(LEVELS, SAMPLES, H), sizes=[100, 50], head=head, top_k=K)
    outputs = [tmp_path / name for name in ("analysis.parquet", "again.parquet")]
    for output in outputs:
        analyse(
            output,
            store.paths,
            tmp_path / "head.safetensors",
            list(folders.values()),
            methods=list(folders),
            model="tiny",
            corpus="words",
            device="cpu",
        )
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    table = pd.read_parquet(outputs[0])
    assert list(table.columns) == [
        *("model", "corpus", "method", "quantity", "level", "other", "index", "value")
    ]
    levels = LEVELS - 1
    counts = dict.fromkeys(["shared-down", "shared-up"], levels**2) | {"by-chance": 1}
    counts |= dict.fromkeys(["error-share", "head-share", "coordinates"], levels * R)
    counts["cross-entropy"] = levels * (R + 1)
    for method in folders:
        rows = table[table["method"] == method]
        assert rows["quantity"].value_counts().to_dict() == counts
        values = rows.set_index(["quantity", "level", "other", "index"])["value"]
        assert values.loc["by-chance"].item() == R / H
        jumps = [some_jump(method, level) for level in range(levels)]
        ups = [spaces_of(jump)[1] for jump in jumps]
        found = rows[rows["quantity"] == "shared-up"].pivot(index="level", columns="other", values="value")
        np.testing.assert_allclose(found.to_numpy(), shared(ups).numpy(), rtol=1e-6)
        directions = Ranks.of(jumps[2], torch.from_numpy(store.level(2))).directions
        metrics = {
            "error-share": last_covariance(store),
            "head-share": head_metric(head, Teacher.of(store), torch.arange(SAMPLES)),
        }
        for quantity, metric in metrics.items():
            of_level = rows[(rows["quantity"] == quantity) & (rows["level"] == 2)]
            np.testing.assert_allclose(of_level["value"], share(directions, metric).numpy(), rtol=1e-5)


@pytest.mark.parametrize("missing", [True, False])
def test_other_shortcuts_are_refused(
    missing: bool,
    folders: dict[str, Path],
    tmp_path: Path,
    make_head: MakeHead,
    make_store: MakeStore,
    levels_of_data: Data,
) -> None:
    head = make_head(H, V)
    head.save(tmp_path / "head.safetensors")
    store = make_store(levels_of_data(LEVELS, SAMPLES, H), head=head, top_k=K)
    last = shortcut_path(folders["n-njtc"], LEVELS - 2)
    if missing:
        last.unlink()
    else:
        save_shortcut(last, JTC(torch.eye(H)), {})
    with pytest.raises(OneJumpError, match="each of 4 levels was expected, 3 were found"):
        analyse(
            tmp_path / "analysis.parquet",
            store.paths,
            tmp_path / "head.safetensors",
            list(folders.values()),
            methods=list(folders),
            model="tiny",
            corpus="words",
            device="cpu",
        )
    assert not (tmp_path / "analysis.parquet").exists()
