"""The workflow on a real Slurm cluster: `make test-slurm`. What the cluster did is read from the cluster."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml
from projects import PAIR, ROOT, Project
from slurm_cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

Job = dict[str, str]


class SlurmProject(Project):
    """A project whose snakemake submits to the cluster, by the profile that the workflow brings."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster

    def command(self, *arguments: str) -> list[str]:
        python, module, name, *_ = super().command()
        return [python, module, name, "--profile", "slurm", "--configfile", "study.yaml", *arguments]

    def environment(self) -> dict[str, str]:
        home = {"XDG_CONFIG_HOME": str(self.cluster.folder / "config")}
        return super().environment() | self.cluster.environment | home

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Snakemake in the background, its output in `run.log`; it has ended when the block is left."""
        with (
            open(self.folder / "run.log", "w") as log,
            subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=self.environment(),
            ) as run,
        ):
            try:
                yield run
                run.wait(300)
            finally:
                if run.poll() is None:
                    os.killpg(run.pid, signal.SIGKILL)

    @property
    def said(self) -> str:
        return (self.folder / "run.log").read_text()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Of a short name: sockets have a limit.
    with tempfile.TemporaryDirectory(prefix="oj") as folder, Cluster(Path(folder) / "c") as running:
        profile = running.folder / "config" / "snakemake" / "slurm"
        shutil.copytree(ROOT / "workflow" / "profiles" / "slurm", profile)
        lines = yaml.safe_load((profile / "config.yaml").read_text())
        lines |= {"max-threads": 2, "slurm-init-seconds-before-status-checks": 1, "latency-wait": 10}
        lines["config"] = ["gpu_request=gres:gpu"]
        (profile / "config.yaml").write_text(yaml.safe_dump(lines))
        yield running


@pytest.fixture(autouse=True)
def all_nodes_up(cluster: Cluster) -> None:
    cluster.wait_until("all nodes are idle", lambda: cluster.node_states() == {"idle"}, 120)


def make_slow(project: Project) -> None:
    """A study of few jobs whose extraction takes seconds, as every sentence is a batch of its own."""
    study = project.study
    study["corpora"]["stories"] |= {"training": 300, "validation": 80}
    study["activations"] |= {"shard_sentences": 150}
    study["shortcuts"] = {"n-njtc": {"rank": 3}}
    study["evaluation"] = {"arbitrary": ["first"], "random": 0}
    study["figures"] = dict.fromkeys(("methods", "one-jump", "alternatives", "scores", "parameters"))
    study["compute"] = {"batch_tokens": 1}
    project.study = study


@pytest.fixture
def slow_project(fresh_project: Callable[[], Project], cluster: Cluster) -> SlurmProject:
    project = SlurmProject(fresh_project().folder, cluster)
    make_slow(project)
    return project


@pytest.fixture(scope="module")
def slow_tables(fresh_project: Callable[[], Project]) -> dict[str, pd.DataFrame]:
    """What a run of the slow project on this machine alone gives."""
    project = fresh_project()
    make_slow(project)
    project.snakemake()
    return project.tables()


def rule_of(job: Job) -> str:
    found = re.match(r"rule_(\w+?)_wildcards", job.get("Comment", ""))
    return found[1] if found else job.get("Comment", "")


def jobs_of(project: SlurmProject, rule: str) -> list[Job]:
    return [
        job
        for job in project.cluster.jobs()
        if rule_of(job) == rule and job["WorkDir"] == str(project.folder)
    ]


def assert_same_tables(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


def test_a_run_gives_what_a_local_run_gives_and_asks_for_gpus_where_it_uses_them(
    fresh_project: Callable[[], Project], finished: Project, cluster: Cluster
) -> None:
    project = SlurmProject(fresh_project().folder, cluster)
    project.snakemake()
    assert_same_tables(project.tables(), finished.tables())
    cluster.wait_until("jobs are complete", lambda: cluster.node_states() == {"idle"})
    jobs = [job for job in cluster.jobs() if job["WorkDir"] == str(project.folder)]
    assert {(rule_of(job), job["JobState"]) for job in jobs} == {(rule_of(job), "COMPLETED") for job in jobs}
    with_gpu = {rule_of(job) for job in jobs if "gpu" in job.get("TresPerNode", "")}
    without = {rule_of(job) for job in jobs} - with_gpu
    assert with_gpu == {"activations", "evaluate"}
    assert without == {"corpus", "model", "shortcuts", "scores"}
    shards = jobs_of(project, "activations")
    assert len(shards) == 3
    assert {job["NodeList"] for job in shards} == set(cluster.gpu_nodes)


def test_a_node_that_dies_in_the_middle_of_its_shard(
    slow_project: SlurmProject, slow_tables: dict[str, pd.DataFrame], cluster: Cluster
) -> None:
    with slow_project.running() as run:
        scratch = slow_project.folder / PAIR / "activations"
        cluster.wait_until("a shard is half written", lambda: any(scratch.glob(".*.part")), 120)
        (job, *_) = [job for job in jobs_of(slow_project, "activations") if job["JobState"] == "RUNNING"]
        cluster.kill(job["NodeList"])
        cluster.wait_until(
            "the node is missed", lambda: bool(cluster.node_states() & {"down", "down*", "idle*"}), 60
        )
        cluster.start_node(job["NodeList"])
    assert run.returncode == 0, slow_project.said
    assert_same_tables(slow_project.tables(), slow_tables)


def test_a_job_that_is_cancelled_is_tried_again(
    slow_project: SlurmProject, slow_tables: dict[str, pd.DataFrame], cluster: Cluster
) -> None:
    with slow_project.running() as run:
        scratch = slow_project.folder / PAIR / "activations"
        cluster.wait_until("a shard is half written", lambda: any(scratch.glob(".*.part")), 120)
        (job, *_) = [job for job in jobs_of(slow_project, "activations") if job["JobState"] == "RUNNING"]
        cluster.run("scancel", job["JobId"])
    assert run.returncode == 0, slow_project.said
    assert len(jobs_of(slow_project, "activations")) == 4, "three shards, one of them twice"
    assert_same_tables(slow_project.tables(), slow_tables)


def test_a_job_over_its_memory_is_named_with_its_log(slow_project: SlurmProject) -> None:
    arguments = ("--until", "model", "--set-resources", "model:mem_mb=60", "--retries", "0")
    output = slow_project.snakemake(*arguments, succeeds=False)
    assert "Error in rule model" in output
    assert "results/tiny/logs/model/tiny-llama.log" in output
    assert "run the same command again" in output


def test_a_job_over_its_time_is_named_with_its_log(slow_project: SlurmProject, cluster: Cluster) -> None:
    with slow_project.running("--retries", "0") as run:
        scratch = slow_project.folder / PAIR / "activations"
        cluster.wait_until("a shard is half written", lambda: any(scratch.glob(".*.part")), 120)
        (job, *_) = [job for job in jobs_of(slow_project, "activations") if job["JobState"] == "RUNNING"]
        cluster.run("scontrol", "update", f"JobId={job['JobId']}", "TimeLimit=0:01")
    assert run.returncode != 0
    assert "Error in rule activations" in slow_project.said
    assert re.search(r"results/tiny/tiny-llama/stories/logs/activations/\w+-\d\.log", slow_project.said)
    ended = [job["JobState"] for job in jobs_of(slow_project, "activations")]
    assert "TIMEOUT" in ended


def test_a_submitter_killed_and_started_again_keeps_finished_shards(
    slow_project: SlurmProject, slow_tables: dict[str, pd.DataFrame], cluster: Cluster
) -> None:
    activations = slow_project.folder / PAIR / "activations"
    with slow_project.running() as run:
        cluster.wait_until("a shard is finished", lambda: any(activations.glob("*.zarr")), 120)
        os.killpg(run.pid, signal.SIGKILL)
    finished = {shard: shard.stat().st_mtime_ns for shard in activations.glob("*.zarr")}
    slow_project.snakemake("--unlock")
    slow_project.snakemake()
    assert_same_tables(slow_project.tables(), slow_tables)
    for shard, written in finished.items():
        assert shard.stat().st_mtime_ns == written, f"{shard.name} was made twice"
