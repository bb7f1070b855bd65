"""The papers' experiments as parts of the workflow: on a tiny model, from the study to the figures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from projects import PAIR, Project

from onejump.files import read_json

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("experiments")]
# Those of one corpus: with both, half of all jobs would be done twice.
FIGURES = [f"{PAIR}/figures/{name}.svg" for name in ("prediction", "transfer", "criteria", "rank-sweep")]


@pytest.fixture(scope="module")
def experiments(fresh_project: Callable[[], Project]) -> Project:
    project = fresh_project()
    (project.folder / "code").mkdir()
    words = "boat church clock doctor farmer garden neighbour rain river stones winter window".split()
    for number, drawn in enumerate(np.random.default_rng(0).choice(words, (40, 8, 4)).tolist()):
        paragraphs = ["\n    ".join(paragraph) for paragraph in drawn]
        (project.folder / "code" / f"{number}.py").write_text("\n\n".join(paragraphs), encoding="utf-8")
    study = project.study
    study["corpora"]["code"] = {"path": "code", "unit": "paragraph", "training": 100, "validation": 60}
    study["shortcuts"] = {"identity": {}, "n-njtc": {"rank": 3}}
    study["figures"] = {"prediction": {"methods": ["identity", "n-njtc"]}}
    study["experiments"] = {
        "transfer": {"methods": ["n-njtc", "ojfa"]},
        "criteria": {},
        "rank-sweep": {"ranks": [2, 0.25], "methods": ["n-njtc", "ojfa"]},
    }
    project.study = study
    project.snakemake("--", *FIGURES)
    return project


def test_every_experiment_has_its_figure(experiments: Project) -> None:
    for figure in FIGURES:
        assert "<svg" in (experiments.folder / figure).read_text(encoding="utf-8")
        assert (experiments.folder / figure).with_suffix(".png").stat().st_size > 1000


def test_transfer_holds_a_corpus_own_shortcuts_against_others(experiments: Project) -> None:
    folder = experiments.folder / PAIR.parent
    table = pd.read_parquet(folder / "stories" / "transfer.parquet")
    assert set(table["corpus"]) == {"stories"}
    assert set(zip(table["fitted_on"], table["target"], strict=True)) == {
        ("stories", "stories"),
        ("stories", "code"),
        ("code", "code"),
    }
    for corpus in ("stories", "code"):
        own = pd.read_parquet(folder / corpus / "evaluation" / "ojfa.parquet")
        expected = own.set_index(["level", "metric"])["value"]
        rows = table[(table["fitted_on"] == corpus) & (table["target"] == corpus)]
        found = rows[rows["method"] == "ojfa"].set_index(["level", "metric"])["value"]
        pd.testing.assert_series_equal(found, expected)
        assert set(rows["jump"]) == {read_json(folder / corpus / "selection.json")["jump"]}
    # There are other samples behind it, and other shortcuts.
    there = table[table["target"] == "code"].pivot_table(index="fitted_on", columns="metric", values="value")
    assert there.loc["stories", "r2"] < there.loc["code", "r2"]
    assert set(table["n"][table["target"] == "code"]) == {60}


def test_criteria_hold_what_the_jumps_give_when_used_everywhere(experiments: Project) -> None:
    pair = experiments.folder / PAIR
    table = pd.read_parquet(pair / "criteria.parquet")
    chosen = read_json(pair / "selection.json")["by_metric"]
    evaluation = pd.read_parquet(pair / "evaluation.parquet")
    of_ojfa = evaluation[evaluation["method"] == "ojfa"].groupby("metric")["value"].mean()
    choices = table[table["criterion"] != "jump"].drop_duplicates("criterion").set_index("criterion")["jump"]
    for criterion, jump in chosen.items():
        assert choices[criterion] == jump
    values = table.set_index(["criterion", "metric"])["value"]
    for metric in ("precision@1", "precision@5", "precision@10", "surprisal"):
        assert values["signed-squared-cosine", metric] == pytest.approx(of_ojfa[metric], rel=1e-5)
        of_jumps = table[(table["criterion"] == "jump") & (table["metric"] == metric)]["value"]
        assert values["random", metric] == pytest.approx(of_jumps.mean())
    jumps = table[table["criterion"] == "jump"].pivot(index="jump", columns="metric", values="value")
    assert values["oracle precision@1", "precision@1"] == jumps["precision@1"].max()
    assert values["oracle surprisal", "surprisal"] == jumps["surprisal"].min()


def test_a_sweep_is_the_pipeline_at_other_ranks(experiments: Project) -> None:
    pair = experiments.folder / PAIR
    table = pd.read_parquet(pair / "rank-sweep.parquet")
    assert set(zip(table["method"], table["rank"], strict=True)) == {
        (method, rank) for method in ("n-njtc", "ojfa") for rank in (2, 8)
    }
    numbers = table.groupby(["method", "rank"])["numbers"].first()
    # A: H r, B: r H, and 4 H of batch normalisation, at each of four levels.
    assert numbers["n-njtc", 8] == 4 * (2 * 32 * 8 + 4 * 32)
    assert numbers["ojfa", 2] == 2 * 32 * 2 + 4 * 32
    # More ranks fit better.
    fit = table[table["metric"] == "r2"].groupby(["method", "rank"])["value"].mean()
    assert fit["n-njtc", 8] > fit["n-njtc", 2]


def test_nothing_is_left_to_do_and_options_of_a_figure_redraw_it_only(experiments: Project) -> None:
    assert not experiments.planned("--", *FIGURES)
    study = experiments.study
    try:
        experiments.study = {
            **study,
            "experiments": {
                **study["experiments"],
                "rank-sweep": {**study["experiments"]["rank-sweep"], "metrics": ["r2"]},
            },
        }
        assert experiments.planned("--", *FIGURES) == {"figure_rank_sweep": 1, "total": 1}
    finally:
        experiments.study = study
