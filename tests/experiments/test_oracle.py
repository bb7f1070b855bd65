"""Oracle exits sample by sample, their means with errors by document, and what corpora and models compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from simulated_exits import table_of
from stage_files import describe_as

from onejump.base.files import write_table
from onejump.exits.oracle import oracle_exits
from onejump.experiments.cross_scale import compare_models
from onejump.experiments.oracle import compare_corpora, find_oracle_exits
from onejump.figures.drawn import cross_scale as cross_scale_figure
from onejump.figures.drawn import oracle as oracle_figure
from onejump.figures.inputs import Inputs


def by_hand(hits: list[bool], from_level: int = 0) -> tuple[int, int]:
    """First and stable level of one sample."""
    levels = len(hits)
    possible = range(from_level, levels)
    first = next((level for level in possible if hits[level]), levels)
    stable = next((level for level in possible if all(hits[level:])), levels)
    return first, stable


@given(
    st.integers(1, 7).flatmap(
        lambda levels: st.lists(
            st.lists(st.booleans(), min_size=levels, max_size=levels), min_size=1, max_size=9
        )
    ),
    st.integers(0, 8),
)
def test_levels_are_those_that_a_reader_would_find(hits: list[list[bool]], from_level: int) -> None:
    from_level = min(from_level, len(hits[0]) - 1)
    found = oracle_exits(np.array(hits), from_level)
    assert list(zip(*map(np.ndarray.tolist, found), strict=True)) == [
        by_hand(row, from_level) for row in hits
    ]


def some_hits(samples: int, levels: int, seed: int = 0) -> np.ndarray:
    """Hits the likelier the later the level."""
    generator = np.random.default_rng(seed)
    return generator.random((samples, levels)) < np.linspace(0.2, 0.9, levels)


def found_in(
    folder: Path, hits: np.ndarray, *, corpus: str = "c", model: str = "m", **columns: np.ndarray
) -> Path:
    """The folder of a model and corpus, with the stage's tables."""
    pair = folder / model / corpus
    write_table(pair / "identity.parquet", table_of(hits, "identity", **columns), model_digest=model)
    write_table(pair / "jtc.parquet", table_of(hits[:, ::-1], "jtc", **columns), model_digest=model)
    tables = [pair / "identity.parquet", pair / "jtc.parquet"]
    outputs = pair / "levels.parquet", pair / "summary.parquet"
    find_oracle_exits(*outputs, tables, last_blocks=10, model=model, corpus=corpus)
    return pair


@pytest.mark.parametrize("levels", [1, 9, 12])
def test_the_stage(levels: int, tmp_path: Path) -> None:
    hits = some_hits(60, levels)
    pair = found_in(tmp_path, hits)
    by_level, summary = (pd.read_parquet(pair / f"{name}.parquet") for name in ("levels", "summary"))
    columns = ["share", "share_stderr", "up_to", "up_to_stderr", "n", "documents"]
    assert list(by_level) == ["model", "corpus", "method", "oracle", "level", *columns]
    columns = ["measure", "value", "stderr", "blocks", "n", "documents"]
    assert list(summary) == ["model", "corpus", "method", "oracle", *columns]
    measures = ["saved", "level", "first third", "first two thirds", "before the last 10 blocks", "lost"]
    assert summary["measure"].unique().tolist() == [m for m in measures if levels >= 10 or "last" not in m]
    for method, of_method in (("identity", hits), ("jtc", hits[:, ::-1])):
        pairs = np.array([by_hand(row.tolist()) for row in of_method])
        for number, oracle in enumerate(("first", "stable")):
            at = pairs[:, number]
            rows = by_level[(by_level["method"] == method) & (by_level["oracle"] == oracle)]
            np.testing.assert_allclose(rows["share"], np.bincount(at, minlength=levels + 1) / 60)
            up_to = [np.mean(at <= level) for level in range(levels + 1)]
            np.testing.assert_allclose(rows["up_to"], up_to)
            errors = [scipy.stats.sem(at <= level) for level in range(levels + 1)]
            np.testing.assert_allclose(rows["up_to_stderr"], errors, atol=1e-12)
            expected = {
                "saved": 1 - at / levels,
                "level": at,
                "first third": at <= levels / 3,
                "first two thirds": at <= 2 * levels / 3,
                "before the last 10 blocks": at <= levels - 10,
                "lost": pairs[:, 0] != pairs[:, 1],
            }
            for _, row in summary[(summary["method"] == method) & (summary["oracle"] == oracle)].iterrows():
                values = expected[row["measure"]]
                assert row["value"] == pytest.approx(np.mean(values)), row["measure"]
                assert row["stderr"] == pytest.approx(scipy.stats.sem(values), abs=1e-12)
                assert (row["n"], row["documents"], row["blocks"]) == (60, 60, levels)


def test_few_long_documents_have_larger_errors_and_one_has_none(tmp_path: Path) -> None:
    hits = np.repeat(some_hits(6, 5), 10, 0)  # ten samples of a document, all alike
    errors = {}
    for documents in (6, 1):
        pair = found_in(tmp_path / str(documents), hits, document=np.arange(60) // 10 % documents)
        summary = pd.read_parquet(pair / "summary.parquet").set_index(["method", "oracle", "measure"])
        assert (summary["documents"] == documents).all()
        errors[documents] = summary.loc[("identity", "stable", "saved"), "stderr"]
    saved = [1 - by_hand(row.tolist())[1] / 5 for row in hits[::10]]
    assert errors[6] == pytest.approx(scipy.stats.sem(saved))
    assert np.isnan(errors[1])


def test_corpora_and_models_are_compared_and_drawn(tmp_path: Path) -> None:
    pairs = {
        (model, corpus): found_in(tmp_path, some_hits(50, levels, seed), model=model, corpus=corpus)
        for seed, (model, levels) in enumerate((("large", 12), ("small", 4)))
        for corpus in ("wiki", "told")
    }
    told = pairs["large", "told"]
    compare_corpora(
        told / "corpora.parquet",
        [pairs["large", corpus] / "summary.parquet" for corpus in ("wiki", "told")],
        corpus="told",
    )
    compared = pd.read_parquet(told / "corpora.parquet")
    assert compared["corpus"].unique().tolist() == ["told", "wiki"]
    saved = compared[compared["measure"] == "saved"].set_index(["corpus", "method", "oracle"])
    wiki, own = (saved.loc[(corpus, "jtc", "first")] for corpus in ("wiki", "told"))
    assert wiki["difference"] == pytest.approx(wiki["value"] - own["value"])
    assert wiki["difference_stderr"] ** 2 == pytest.approx(wiki["stderr"] ** 2 + own["stderr"] ** 2)
    assert (own["difference"], own["difference_stderr"]) == (0, 0)

    inputs = {"levels": told / "levels.parquet", "corpora": told / "corpora.parquet"}
    _, stable, savings = oracle_figure.draw(Inputs("oracle", inputs)).axes
    shares = pd.read_parquet(inputs["levels"]).query("oracle == 'stable' and method == 'identity'")
    assert stable.lines[0].get_ydata().tolist() == shares["up_to"][:-1].tolist()
    assert [text.get_text() for text in stable.texts] == ["last 10 blocks", "⅓", "⅔"]
    assert [text.get_text() for text in savings.get_legend().get_texts()] == ["told", "wiki"]

    for model, blocks, parameters in (("large", 12, 9000), ("small", 4, 700)):
        describe_as(tmp_path / model / "model.json", blocks=blocks, hidden=8, parameters=parameters)
    table = tmp_path / "cross-scale.parquet"
    compare_models(
        table,
        [pair / "summary.parquet" for pair in pairs.values()],
        [tmp_path / model / "model.json" for model in ("large", "small")],
        models=["large", "small"],
    )
    scale = pd.read_parquet(table)
    assert scale["model"].unique().tolist() == ["small", "large"]
    sizes = scale.groupby("model")[["blocks", "hidden", "parameters"]].agg(
        lambda values: values.unique().item()
    )
    assert sizes.loc["large"].tolist() == [12, 8, 9000]
    assert sizes.loc["small"].tolist() == [4, 8, 700]
    axes = cross_scale_figure.draw(Inputs("cross-scale", {"cross_scale": table})).axes
    assert len(axes) == 4
    assert axes[0].lines[0].get_xdata().tolist() == [4, 12]


def test_lines_of_the_figure_that_coincide_share_a_label(tmp_path: Path) -> None:
    pair = found_in(tmp_path, some_hits(40, 30))
    compare_corpora(pair / "corpora.parquet", [pair / "summary.parquet"], corpus="c")
    inputs = {name: pair / f"{name}.parquet" for name in ("levels", "corpora")}
    first, *_ = oracle_figure.draw(Inputs("oracle", inputs)).axes
    assert [text.get_text() for text in first.texts] == ["⅓", "⅔, last 10 blocks"]
