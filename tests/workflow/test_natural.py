"""The stages of natural early exit in a run of the workflow: two models, plain and generated text."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
from projects import Project

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

TARGETS = ("figures/oracle.svg", "figures/gates.svg", "figures/sub-words.svg")


def test_natural_exits_of_two_models_on_two_corpora(fresh_project: Callable[[], Project]) -> None:
    project = fresh_project()
    generated = {"prompts": "stories", "prompt_tokens": 4, "new_tokens": 6, "positions": 6, "greedy": 1.0}
    study = project.study
    study["models"]["half"] = {"folder": "tiny-llama", "dtype": "bfloat16"}
    study["corpora"]["told"] = {"generated": generated, "training": 60, "validation": 20}
    study["shortcuts"] = {"identity": {}, "n-njtc": {"rank": 3}}
    study["held_out"] = {"thresholds": 0.4}
    study["experiments"] = {
        "oracle": {"methods": ["identity", "ojfa"]},
        "gates": {"methods": ["identity"], "targets": [0.5]},
        "sub-words": {"methods": ["identity"], "targets": [0.5]},
        "cross-scale": {},
    }
    project.study = study
    results = project.folder / "results/tiny"
    of_pairs = [
        f"results/tiny/tiny-llama/{corpus}/{name}" for corpus in ("stories", "told") for name in TARGETS
    ]
    project.snakemake("--", *of_pairs, "results/tiny/figures/cross-scale.svg")
    scale = pd.read_parquet(results / "cross-scale.parquet")
    assert set(scale.groupby(["model", "corpus"]).groups) == {
        (model, corpus) for model in ("tiny-llama", "half") for corpus in ("stories", "told")
    }
    assert set(scale["blocks"]) == {4}
    pair = results / "tiny-llama/told"
    compared = pd.read_parquet(pair / "oracle/corpora.parquet")
    assert compared["corpus"].unique().tolist() == ["told", "stories"]
    levels = pd.read_parquet(pair / "sub-words/levels.parquet")
    # Each token of this model is a word. All positions are sampled, so that words are whole.
    assert set(levels["family"]) == {"whole words"}
    assert levels.query("by == 'word' and exit == 'stable'")["group"].tolist() == ["1 piece"]
    outcomes = pd.read_parquet(pair / "gates/outcomes.parquet")
    assert len(outcomes) == 4 * 2
    # What serves thresholds in one experiment serves it in all: no early exit is asked for, and none is run.
    assert not (pair / "early-exit/savings.parquet").exists()
    assert "Nothing to be done" in project.snakemake("-n", "--", *of_pairs)
