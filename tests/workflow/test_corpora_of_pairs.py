"""A study of pairs, from an untrained encoder-decoder to its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec

import pandas as pd
import pytest
from projects import Project
from tiny_models import documents

from onejump.models.description import read_description

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("pairs")]


@pytest.fixture(scope="module")
def project(fresh_project: Callable[[], Project]) -> Project:
    project = fresh_project()
    texts = documents(160, 5)
    rows = [{"of": {"en": text, "de": [line.upper() for line in text]}} for text in texts]
    (project.folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    study = project.study
    made = {"blocks": 3, "encoder_blocks": 1, "hidden": 32, "heads": 4, "vocabulary": 150}
    study["models"] = {"made": {"untrained": {"corpus": "turned"} | made}}
    study["corpora"] = {
        "turned": {
            "path": "pairs.jsonl",
            "text": "of.en",
            "target": "of.de",
            "training": 120,
            "validation": 40,
            "min_characters": 1,
        }
    }
    study["activations"]["positions"] = 2
    study["shortcuts"] = {
        "identity": {},
        "n-njtc": {"rank": 3},
        "one-jump": {"steps": 10, "batch": 16},
    }
    study["experiments"] = {"early-exit": {}}
    if find_spec("sacrebleu"):
        study["experiments"]["translation"] = {"pairs": 6, "new_tokens": 5, "thresholds": [0.01]}
    project.study = study
    project.snakemake()
    return project


def test_every_stage_takes_pairs(project: Project) -> None:
    folder = project.folder / "results" / "tiny" / "made"
    assert read_description(folder / "model.json").task == "seq2seq"
    pair = folder / "turned"
    evaluation = pd.read_parquet(pair / "evaluation.parquet")
    assert set(evaluation["method"]) >= {"identity", "n-njtc", "one-jump", "ojfa"}
    assert evaluation["value"].notna().all()
    assert evaluation["n"].unique().tolist() == [80]
    assert (pair / "early-exit" / "savings.parquet").exists()
    assert (pair / "figures" / "early-exit.png").exists()
    card = (pair / "export" / "one-jump" / "README.md").read_text(encoding="utf-8")
    assert "predicts the target's next token without" in " ".join(card.split())
    if find_spec("sacrebleu"):
        assert pd.read_parquet(pair / "translation.parquet")["bleu"].between(0, 100).all()
        gates = pd.read_parquet(pair / "translation-gates.parquet")
        assert set(gates["mode"]) == {"trusted", "copied"}
        assert (gates.loc[gates["mode"] == "copied", "blocks"] <= 3).all()


def test_a_corpus_of_texts_is_refused_before_anything_runs(project: Project) -> None:
    study = project.study
    study["corpora"]["stories"] = {"path": "text", "training": 20, "validation": 20}
    project.study = study
    said = project.snakemake("-n", succeeds=False)
    assert "experiments.translation: it needs pairs: corpora.stories has no target" in said
    del study["experiments"]["translation"]
    project.study = study
    said = project.snakemake("-n", succeeds=False)
    assert "corpora.stories: made is an encoder-decoder, which takes pairs" in said
