"""Fits to some of the training samples, and their evaluations in one table and one figure."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from onejump.base.files import read_table, write_table
from onejump.data.document_roles import assign_documents
from onejump.data.held_out import drawn_among
from onejump.experiments.sample_sweep import collect_samples
from onejump.figures.drawn.sample_sweep import draw
from onejump.figures.inputs import Inputs
from onejump.fitting.distillation import distil
from onejump.fitting.distiller import DistillationOptions
from onejump.shortcuts.files import ShortcutFolder

H, V, SAMPLES = 12, 40, 240
OPTIONS = DistillationOptions(
    normalise=True, sharpness=2.0, steps=12, batch=32, learning_rate=0.01, patience=5, rank=2
)


def test_a_larger_number_has_the_samples_of_a_smaller_one() -> None:
    chosen = torch.arange(200) % 3 > 0
    drawn = [drawn_among(chosen, count, 5) for count in (1, 10, 60, int(chosen.sum()), 1000)]
    assert [int(of.sum()) for of in drawn] == [1, 10, 60, 133, 133]
    for few, many in itertools.pairwise(drawn):
        assert not (few & ~many).any()
    assert torch.equal(drawn[-1], chosen)
    assert not torch.equal(drawn_among(chosen, 60, 6), drawn[2])
    # They are from all over the store: many documents, few samples of each.
    assert int(drawn[2][:100].sum()) > 15
    assert int(drawn[2][100:].sum()) > 15


@pytest.fixture
def fitted(make_head: Any, make_store: Any, levels_of_data: Any, tmp_path: Path) -> Any:
    """fitted(count, states): the folder of a one-jump, and the roles of the samples."""
    head = make_head(H, V)
    head.save(tmp_path / "head.safetensors")
    corpus, documents = tmp_path / "corpus.parquet", tmp_path / "documents.parquet"
    names = [f"d{sample // 8}" for sample in range(SAMPLES)]
    write_table(corpus, pd.DataFrame({"sentence_id": range(SAMPLES), "document": names, "split": "training"}))
    assign_documents(documents, corpus, stopping=0.2, thresholds=0.2, seed=0)
    fit = torch.tensor((pd.read_parquet(documents)["role"] == "fit").tolist())

    def fitted(name: str, count: int | None, states: np.ndarray, method: str = "one-jump") -> Path:
        store = make_store(states, sizes=[130, 110], head=head, top_k=6)
        given = {"method": method, "options": replace(OPTIONS), "seed": 0, "device": "cpu"}
        head_file = tmp_path / "head.safetensors"
        distil(tmp_path / name, store.paths, head_file, documents, samples=count, **given)
        return tmp_path / name

    return fitted, fit


def bytes_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("method", ["one-jump", "affine"])
def test_samples_that_are_not_drawn_are_not_seen(fitted: Any, levels_of_data: Any, method: str) -> None:
    fit, of_fit = fitted
    states = levels_of_data(3, SAMPLES, H)
    seen = drawn_among(of_fit, 60, 0).numpy()
    unseen = (of_fit.numpy() & ~seen).nonzero()[0]
    few = fit("few", 60, states, method)
    other, wrong = states.copy(), states.copy()
    other[:, unseen] *= -3
    wrong[:, seen.nonzero()[0][:20]] *= -3
    assert bytes_of(fit("other", 60, other, method)) == bytes_of(few)
    assert bytes_of(fit("wrong", 60, wrong, method)) != bytes_of(few)
    assert ShortcutFolder(few).samples == 60
    assert bytes_of(fit("all", 10_000, states, method)) == bytes_of(fit("plain", None, states, method))


def test_the_table_has_each_number_once_and_the_figure_a_point_for_each(
    fitted: Any, levels_of_data: Any, tmp_path: Path
) -> None:
    fit, of_fit = fitted
    states = levels_of_data(3, SAMPLES, H)
    rows = pd.DataFrame({"method": "one-jump", "level": [0, 1], "metric": "precision@1"})
    folders, evaluations = [], []
    for count, value in ((60, 0.2), (100, 0.3), (1000, 0.4), (2000, 0.4)):
        folders.append(fit(f"{count}", count, states))
        found = rows.assign(value=[value, value + 0.2], stderr=0.01, n=50, documents=50)
        evaluations.append(tmp_path / f"{count}.parquet")
        write_table(evaluations[-1], found, model="tiny", corpus="stories")
    collect_samples(tmp_path / "table.parquet", evaluations, folders)
    table = read_table(tmp_path / "table.parquet")
    all_of_them = int(of_fit.sum())
    assert table["samples"].tolist() == [60, 60, 100, 100, all_of_them, all_of_them]
    figure = draw(
        Inputs("sample-sweep", {"sample_sweep": tmp_path / "table.parquet"}), metrics=["precision@1"]
    )
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [60, 100, all_of_them]
    assert line.get_ydata() == pytest.approx([0.3, 0.4, 0.5])
