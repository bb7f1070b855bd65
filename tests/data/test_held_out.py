"""Roles of documents: whole documents, each for one purpose, whatever the order they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onejump.base.errors import OneJumpError, StudyError
from onejump.base.files import write_table
from onejump.data.document_roles import assign_documents, draw_roles
from onejump.data.held_out import documents_of_samples, samples_with_role, some_of
from onejump.data.store import ActivationStore


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=80),
    st.floats(0.01, 0.6),
    st.floats(0.01, 0.39),
    st.integers(0, 99),
    st.randoms(),
)
def test_each_document_has_one_role_that_the_order_does_not_change(
    numbers: list[int], stopping: float, thresholds: float, seed: int, random: object
) -> None:
    names = [f"document {number}" for number in numbers]
    roles = draw_roles(names, stopping=stopping, thresholds=thresholds, seed=seed)
    count = len(set(names))
    assert set(roles) == set(names)
    by_role = {role: list(roles.values()).count(role) for role in ("fit", "stopping", "thresholds")}
    assert sum(by_role.values()) == count
    assert by_role["fit"] >= 1
    assert (by_role["stopping"] >= 1) == (count >= 2)
    assert (by_role["thresholds"] >= 1) == (count >= 3)
    if count >= 20:
        assert by_role["stopping"] == pytest.approx(stopping * count, abs=1)
        assert by_role["thresholds"] == pytest.approx(thresholds * count, abs=1)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert draw_roles(names, stopping=stopping, thresholds=thresholds, seed=seed) == roles


def test_the_seed_draws_and_another_document_hardly_matters() -> None:
    names = [f"{number}.txt" for number in range(1000)]
    parts = {"stopping": 0.1, "thresholds": 0.1}
    first, other, more = (
        draw_roles(documents, seed=seed, **parts)
        for documents, seed in ((names, 0), (names, 1), ([*names, "new.txt"], 0))
    )
    # Two draws of one in ten agree on a role with probability .1^2 + .8^2 + .1^2.
    assert np.mean([first[name] == other[name] for name in names]) == pytest.approx(0.66, abs=0.06)
    assert sum(first[name] != more[name] for name in names) <= 2


def corpus_of(path: Path, documents: list[str], splits: list[str]) -> Path:
    table = pd.DataFrame({"sentence_id": np.arange(len(documents)), "document": documents, "split": splits})
    write_table(path, table.assign(sentence="A sentence."))
    return path


def test_the_stage_numbers_documents_and_keeps_validation_apart(
    tmp_path: Path, make_store: Callable[..., ActivationStore]
) -> None:
    documents = [f"d{i // 3}" for i in range(90)] + [f"v{i // 2}" for i in range(10)]
    corpus = corpus_of(tmp_path / "c.parquet", documents, ["training"] * 90 + ["validation"] * 10)
    output = tmp_path / "documents.parquet"
    assign_documents(
        output, corpus, stopping=0.2, thresholds=0.3, seed=3, needed_roles=("stopping", "thresholds")
    )
    table = pd.read_parquet(output)
    assert list(table) == ["sentence_id", "document", "split", "role"]
    assert table["document"].tolist() == [i // 3 for i in range(90)] + [30 + i // 2 for i in range(10)]
    assert (table.groupby("document")["role"].nunique() == 1).all()
    counts = table.groupby("role")["document"].nunique()
    assert counts.to_dict() == {"fit": 15, "stopping": 6, "thresholds": 9, "validation": 5}
    assert set(table.loc[table["split"] == "validation", "role"]) == {"validation"}

    store = make_store(np.zeros((2, 90, 4)), sizes=[60, 30])
    roles = torch.stack(
        [samples_with_role(store, output, role) for role in ("fit", "stopping", "thresholds")]
    )
    assert (roles.sum(0) == 1).all()
    assert documents_of_samples(store, output).tolist() == [i // 3 for i in range(90)]


def test_too_few_documents_for_a_role_that_is_needed(
    tmp_path: Path, make_store: Callable[..., ActivationStore]
) -> None:
    corpus = corpus_of(tmp_path / "book.parquet", ["a", "b", "c"], ["training", "training", "validation"])
    output = tmp_path / "documents.parquet"
    parts = {"stopping": 0.1, "thresholds": 0.1, "seed": 0}
    with pytest.raises(StudyError, match=r"held_out\.thresholds: .* of book come from 2 documents; at"):
        assign_documents(output, corpus, needed_roles=("thresholds",), **parts)
    assert not output.exists()
    assign_documents(output, corpus, needed_roles=("stopping",), **parts)
    store = make_store(np.zeros((2, 2, 4)))
    assert samples_with_role(store, output, "stopping").sum() == 1
    with pytest.raises(StudyError, match="no document has the role 'thresholds'"):
        samples_with_role(store, output, "thresholds")
    with pytest.raises(OneJumpError, match=r"sentence 3 of .* is not in this table"):
        samples_with_role(make_store(np.zeros((2, 4, 4))), output, "stopping")


@given(st.integers(1, 40), st.integers(1, 60))
def test_some_are_spread_over_all(rows: int, count: int) -> None:
    some = some_of(torch.arange(rows), count).tolist()
    assert len(set(some)) == min(rows, count)
    assert some == sorted(some)
