"""A study of texts with labels: an untrained classifier, and the same one trained by all its levels."""

from __future__ import annotations

import json
from collections.abc import Callable

import pandas as pd
import pytest
from projects import Project
from tiny_models import documents

from onejump.models.description import read_description

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("pairs")]


def test_a_classifier_goes_through_the_pipeline(fresh_project: Callable[[], Project]) -> None:
    project = fresh_project()
    texts = [sentence for document in documents(60) for sentence in document]
    rows = [{"review": text, "stars": int("river" in text or "road" in text)} for text in texts]
    (project.folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    study = project.study
    made = {"architecture": "bert", "blocks": 3, "hidden": 32, "heads": 4, "vocabulary": 120}
    tuned = {"model": "start", "corpus": "reviews", "weights": "uniform", "steps": 60, "batch_tokens": 500}
    study |= {
        "models": {
            "start": {"untrained": {"corpus": "reviews"} | made},
            "joint": {"tuned": tuned | {"learning_rate": 5e-3}},
        },
        "corpora": {
            "reviews": {
                "path": "reviews.jsonl",
                "text": "review",
                "label": "stars",
                "training": 180,
                "validation": 60,
            }
        },
        "shortcuts": {"identity": {}, "n-njtc": {"rank": 3}},
        "held_out": {"thresholds": 0.4},
        "figures": {"methods": {"metrics": ["accuracy", "precision@1", "surprisal"]}},
        "experiments": {
            "oracle": {},
            "gates": {"targets": [0.5], "methods": ["identity"], "gates": ["top-probability"]},
            "joint-optimisation": {"targets": [0.5]},
        },
    }
    project.study = study
    pair = project.folder / "results/tiny/joint/reviews"
    figures = [f"figures/{name}.svg" for name in ("methods", "oracle", "gates", "joint-optimisation")]
    names = (*figures, "gates/outcomes.parquet", "export/ojfa")
    targets = [f"results/tiny/joint/reviews/{name}" for name in names]
    project.snakemake("--", *targets)
    for figure in figures:
        drawn = (pair / figure).read_text(encoding="utf-8")
        assert "label" in drawn
        assert "token" not in drawn
    assert read_description(pair.parent / "model.json").task == "classification"
    evaluation = pd.read_parquet(pair / "evaluation.parquet")
    assert evaluation["n"].unique().tolist() == [60]
    accuracy = evaluation[evaluation["metric"] == "accuracy"].set_index(["method", "level"])["value"]
    assert accuracy["identity", 2] > 0.9
    compared = pd.read_parquet(pair / "joint-optimisation/comparison.parquet")
    assert compared["exit_accuracy"].between(0, 1).all()
    compared = compared.drop_duplicates("of").set_index("of")
    assert compared.loc["start", "accuracy"] < 0.8 < compared.loc["joint", "accuracy"]
    assert compared.loc["joint", "loss_change"] < -0.2
    outcomes = pd.read_parquet(pair / "gates/outcomes.parquet")
    assert (outcomes["accuracy"] - outcomes["accuracy_change"]).round(6).nunique() == 1
    card = (pair / "export/ojfa/README.md").read_text(encoding="utf-8")
    assert "predicts the label of a text without" in " ".join(card.split())
    study["experiments"]["copied-states"] = {}
    project.study = study
    said = project.snakemake("-n", succeeds=False)
    assert "experiments.copied-states: it generates text, but corpora.reviews has labels" in said
