"""Models that are tuned from another one: in a study they are models like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from projects import Project

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


def test_a_tuned_model_goes_through_the_pipeline(finished: Project, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "project")
    project = Project(tmp_path / "project", finished.python)
    tuned = {
        "model": "tiny-llama",
        "corpus": "stories",
        "steps": 20,
        "batch_tokens": 128,
        "learning_rate": 0.01,
    }
    project.study = project.study | {
        "models": {
            "tiny-llama": {"folder": "tiny-llama"},
            "linear": {"tuned": tuned},
            "distilled": {"tuned": tuned | {"loss": "distilled", "weights": "uniform", "early": 0.5}},
        },
        "shortcuts": {"identity": {}, "n-njtc": {"rank": 3}},
        "held_out": {"thresholds": 0.4},
        "evaluation": {"random": 0},
        "figures": {"methods": {}},
        "experiments": {"joint-optimisation": {"targets": [0.5], "sentences": 50}},
    }
    project.snakemake()
    results = project.folder / "results" / "tiny"
    pair = results / "linear" / "stories"
    described = [json.loads((results / name / "model.json").read_text()) for name in project.study["models"]]
    assert len({one["model_digest"] for one in described}) == 3
    assert {one["blocks"] for one in described} == {4}
    comparison = pd.read_parquet(pair / "joint-optimisation" / "comparison.parquet")
    assert comparison["of"].unique().tolist() == ["tiny-llama", "linear", "distilled"]
    assert comparison["model"].unique().tolist() == ["linear"]
    # It was trained on text of the same kind.
    assert comparison.loc[comparison["of"] == "linear", "loss_change"].max() < -0.5
    # What another model's folder says is the same.
    other = pd.read_parquet(results / "tiny-llama" / "stories" / "joint-optimisation" / "comparison.parquet")
    pd.testing.assert_frame_equal(comparison.drop(columns="model"), other.drop(columns="model"))
    assert (pair / "figures" / "joint-optimisation.svg").is_file()
    assert (pair / "export").is_dir()
    assert not (results / "linear" / ".tuning").exists()

    # Another weight tunes one model again, and touches no other.
    study = project.study
    study["models"]["linear"]["tuned"] = tuned | {"weights": "uniform"}
    project.study = study
    planned = project.planned()
    assert (planned["tuning"], planned["model"], planned["activations"]) == (1, 1, 3)
