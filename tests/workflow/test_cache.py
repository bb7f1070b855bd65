"""Activations between workflows: two studies that share model, corpus and sampling extract once."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from projects import Project

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("cache")]


class CachingProject(Project):
    """A project with a cache of its own."""

    def environment(self) -> dict[str, str]:
        return super().environment() | {"SNAKEMAKE_OUTPUT_CACHE": str(self.folder / "cache")}

    def cached(self) -> list[Path]:
        return sorted(self.folder.glob("cache/[!.]*"))


def test_studies_that_share_model_corpus_and_sampling_extract_once(
    fresh_project: Callable[[], Project], finished: Project
) -> None:
    fresh = fresh_project()
    project = CachingProject(fresh.folder, fresh.python)
    (project.folder / "cache").mkdir()
    project.snakemake("--cache", "activations")
    for name, table in finished.tables().items():
        pd.testing.assert_frame_equal(project.tables()[name], table, check_exact=True)
    cached = project.cached()
    with (project.folder / "cache/.in-use").open("r+") as another_run:
        fcntl.flock(another_run, fcntl.LOCK_EX)
        refused = project.snakemake("--cache", "activations", succeeds=False)
        assert "cache: another run is using this cache" in refused
    assert len(cached) == 3, "two training shards and a validation shard, told apart"

    study = project.study
    study["study"] = "other"
    study["shortcuts"] = {"n-njtc": {"rank": 2}}
    project.study = study
    output = project.snakemake("--cache", "activations")
    other = project.folder / "results/other/tiny-llama/stories"
    assert len(re.findall(r"from cache", output)) >= 3
    logs = (project.folder / "results/other").rglob("logs/activations/*.log")
    assert not any(log.read_text() for log in logs), "extracted again"
    assert (other / "selection.json").is_file()
    assert project.cached() == cached

    study["seed"] = 1
    project.study = study
    project.snakemake("--cache", "activations", "--until", "activations")
    assert len(project.cached()) == 6, "another sampling is another extraction"

    weights = project.folder / "tiny-llama/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    project.snakemake("--cache", "activations", "--until", "activations")
    assert len(project.cached()) == 9, "other weights are another extraction"
