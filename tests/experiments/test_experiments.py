"""The papers' experiments as parts of the workflow: on a tiny model, from the study to the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from projects import PAIR, Project
from safetensors import safe_open

from onejump.base.files import read_json
from onejump.base.format import SELECTION

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("experiments")]
# Those of one corpus: with both, half of all jobs would be done twice.
EXPERIMENTS = (
    *("level-pairs", "sub-modules", "early-exit", "transfer", "criteria", "rank-sweep"),
    *("exit-costs", "sub-layers", "copied-states"),
)
FIGURES = [f"{PAIR}/figures/{name}.svg" for name in ("prediction", *EXPERIMENTS)]

WIDE = {"blocks": 6, "hidden": 64, "feed_forward": 96, "heads": 4, "vocabulary": 300}


def load_shortcut_metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["shortcut"])["about"]


@pytest.fixture(scope="module")
def experiments(fresh_project: Callable[[], Project]) -> Project:
    project = fresh_project()
    (project.folder / "code").mkdir()
    words = ["boat", "church", "clock", "doctor", "farmer", "garden", "rain", "river", "stones", "winter"]
    for number, drawn in enumerate(np.random.default_rng(0).choice(words, (110, 8, 4)).tolist()):
        paragraphs = ["\n    ".join(paragraph) for paragraph in drawn]
        (project.folder / "code" / f"{number}.py").write_text("\n\n".join(paragraphs), encoding="utf-8")
    study = project.study
    study["corpora"]["code"] = {"path": "code", "unit": "paragraph", "training": 100, "validation": 60}
    study["shortcuts"] = {"identity": {}, "n-njtc": {"rank": 3}}
    study["figures"] = {"prediction": {"methods": ["identity", "n-njtc"]}}
    study["experiments"] = {
        "level-pairs": {"methods": ["identity", "jtc", "n-njtc"], "rank": 3},
        "sub-modules": {"parts": ["feed-forward"], "step": 2},
        "early-exit": {"methods": ["identity", "ojfa"]},
        "transfer": {"methods": ["n-njtc", "ojfa"]},
        "criteria": {},
        "rank-sweep": {"ranks": [2, 3, 0.25]},
        "exit-costs": {"batches": [1, 3], "rounds": 2, "shapes": {"wide": WIDE}},
        "sub-layers": {"samples": 40, "targets": [0.8]},
        "copied-states": {"prompts": 3, "new_tokens": 10},
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
    assert set(table["seen"]) == {0}
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
        assert set(rows["jump"]) == {read_json(folder / corpus / "selection.json", SELECTION)["jump"]}
    # There are other samples behind it, and other shortcuts.
    there = table[table["target"] == "code"].pivot_table(index="fitted_on", columns="metric", values="value")
    assert there.loc["stories", "r2"] < there.loc["code", "r2"]
    assert set(table["n"][table["target"] == "code"]) == {60}


def test_criteria_hold_what_the_jumps_give_when_used_everywhere(experiments: Project) -> None:
    pair = experiments.folder / PAIR
    table = pd.read_parquet(pair / "criteria.parquet")
    chosen = read_json(pair / "selection.json", SELECTION)["by_metric"]
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
    assert values["oracle precision", "precision@1"] == jumps["precision@1"].max()
    assert values["oracle surprisal", "surprisal"] == jumps["surprisal"].min()


def test_a_sweep_is_the_pipeline_at_other_ranks(experiments: Project) -> None:
    pair = experiments.folder / PAIR
    table = pd.read_parquet(pair / "rank-sweep.parquet")
    assert set(zip(table["method"], table["rank"], strict=True)) == {
        (method, rank) for method in ("n-njtc", "ojfa") for rank in (2, 3, 8)
    }
    numbers = table.groupby(["method", "rank"])["numbers"].first()
    # A: H r, B: r H, and 4 H of batch normalisation, at each of four levels.
    assert numbers["n-njtc", 8] == 4 * (2 * 32 * 8 + 4 * 32)
    assert numbers["ojfa", 2] == 2 * 32 * 2 + 4 * 32
    # Of rank 3 the pipeline has them.
    assert {folder.name for folder in (pair / "ranks").iterdir()} == {"2", "0.25"}
    own = pd.read_parquet(pair / "evaluation.parquet")
    for method in ("n-njtc", "ojfa"):
        of_sweep = table[(table["method"] == method) & (table["rank"] == 3)]
        assert of_sweep["value"].tolist() == own[own["method"] == method]["value"].tolist()
    # More ranks fit better.
    fit = table[table["metric"] == "r2"].groupby(["method", "rank"])["value"].mean()
    assert fit["n-njtc", 8] > fit["n-njtc", 2]


def test_level_pairs_end_where_the_pipelines_own_fits_do(experiments: Project) -> None:
    pair = experiments.folder / PAIR
    table = pd.read_parquet(pair / "level-pairs.parquet").set_index(["method", "source", "target"])["r2"]
    own = pd.read_parquet(pair / "evaluation.parquet").set_index(["method", "metric", "level"])["value"]
    for method in ("identity", "n-njtc"):
        for level in range(4):
            assert table[method, level, 4] == pytest.approx(own[method, "r2", level], abs=1e-5)
    assert len(table) == 3 * 10


def test_early_exit_agrees_as_far_as_its_shortcut_predicts(experiments: Project) -> None:
    pair = experiments.folder / PAIR
    # Exits of ojfa are those of a second fit, whose evaluation the study does not have.
    confidence = pd.read_parquet(pair / "early-exit" / "validation" / "identity.parquet")
    own = pd.read_parquet(pair / "evaluation" / "identity.parquet").set_index(["metric", "level"])["value"]
    for level, hits in confidence.groupby("level")["hit"]:
        assert hits.mean() == pytest.approx(own["precision@1", level])
    curves = pd.read_parquet(pair / "early-exit" / "curves.parquet")
    ends = curves[np.isinf(curves["threshold"])]
    assert set(ends["agreement"]) == {1.0}
    assert set(ends["blocks"]) == {4.0}
    savings = pd.read_parquet(pair / "early-exit" / "savings.parquet")
    assert set(zip(savings["method"], savings["rule"], savings["target"], strict=True)) == {
        (method, rule, target)
        for method in ("identity", "ojfa")
        for rule in ("fixed", "decaying", "per-level")
        for target in (0.95, 0.9)
    }


def test_thresholds_come_from_documents_that_nothing_was_fitted_to(experiments: Project) -> None:
    pair = experiments.folder / PAIR
    documents = pd.read_parquet(pair.parent.parent / "corpora" / "documents" / "stories.parquet")
    confidence = pd.read_parquet(pair / "early-exit" / "held-out" / "ojfa.parquet")
    fitted = load_shortcut_metadata(pair / "early-exit" / "shortcuts" / "n-njtc" / "level-00.safetensors")
    assert fitted["samples"] == documents["role"].isin(["fit", "stopping"]).sum()
    assert confidence["sample"].nunique() == (documents["role"] == "thresholds").sum()


def test_parts_made_linear_are_measured_from_every_second_level(experiments: Project) -> None:
    table = pd.read_parquet(experiments.folder / PAIR / "sub-modules.parquet")
    assert set(table["part"]) == {"feed-forward"}
    assert set(table["level"]) == {0, 2}
    assert set(table["n"]) == {80}
    assert not list((experiments.folder / PAIR / "sub-modules" / "activations").glob("*.zarr"))


def test_exits_cost_what_their_shapes_say(experiments: Project) -> None:
    table = pd.read_parquet(experiments.folder / PAIR / "exit-costs.parquet")
    assert set(table["method"]) == {"identity", "n-njtc", "ojfa", "full model"}
    costs = table.set_index(["measured", "batch", "method", "level"])
    # H = 32, two key heads of 8, 128 tokens of which the model holds 127, and rank 3 behind all four levels.
    of_block = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 2 * 4 * (8 + 8) * 128
    for batch, level in ((1, 0), (3, 2)):
        low_rank = 2 * (32 * 3 + 3 * 200 + 3 * 3)
        flops = costs.loc[("tiny-llama", batch)]["flops"]
        assert flops["n-njtc", level] == flops["ojfa", level] == batch * (level * of_block + low_rank)
        assert flops["identity", level] == batch * (level * of_block + 2 * 32 * 200)
        assert flops["full model", 4] == batch * (4 * of_block + 2 * 32 * 200)
    wide = costs.loc[("wide", 1)]
    # The study gives the rank itself, not a part of H.
    assert wide.loc[("ojfa", 5), "head_flops"] == 2 * (3 * 300 + 3 * 3)
    assert set(wide["weights"]) == {"random"}
    assert set(wide.loc["identity"].index) == set(range(6))
    for part in ("blocks", "jump", "head"):
        assert (table[f"{part}_seconds"] >= 0).all()
    assert (table["fastest"] <= table["seconds"]).all()
    assert (table["seconds"] > 0).all()


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
