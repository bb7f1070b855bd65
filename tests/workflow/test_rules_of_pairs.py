"""The rules that only a study of pairs has, as Snakemake reads them.

In a module of its own, as the functions of rules know the study that was read last.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml
from test_rules import by_hand, jobs_of

from onejump.base.binding import arguments_for

STUDY = {
    "study": "paired",
    "models": {"made": {"untrained": {"corpus": "messages"}}},
    "corpora": {
        "messages": {
            "wheel": "a==1",
            "file": "x/*.po",
            "text": "msgid",
            "target": "msgstr",
            "training": 200,
            "validation": 80,
        }
    },
    "shortcuts": {"identity": {}, "n-njtc": {}},
    "experiments": {"translation": {}},
}


def test_every_rule_of_pairs_gives_its_stage_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    with by_hand.parsed_workflow("study.yaml") as workflow:
        rules = {rule.name: rule for rule in workflow.rules}
        for name in ("wheel_files", "pairs", "untrained", "translation", "translation_by_gates"):
            module, stage = by_hand.stage_of(rules[name].script)
            (job,) = jobs_of(workflow, rules[name])
            arguments_for(getattr(importlib.import_module(module), stage), job)
            if name.startswith("translation"):
                assert job.resources.get("gpu")
            if name != "wheel_files":
                assert job.params["code"]
