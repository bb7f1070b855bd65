"""The workflow on a real Slurm cluster: `make test-slurm`. What the cluster did is read from the cluster."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from projects import PAIR, ROOT, Project
from slurm_cluster import Cluster

from onejump.data.shard_layout import SAMPLE_ARRAYS
from onejump.data.store import ActivationStore

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

Job = dict[str, str]
ACTIVATIONS = PAIR / "activations"


class SlurmProject(Project):
    """A project whose snakemake submits to the cluster, by the profile that the workflow brings."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster

    def command(self, *arguments: str) -> list[str]:
        snakemake = str(ROOT / "tests/snakemake_asking_often.py")
        return [sys.executable, snakemake, "--profile", "slurm", "--configfile", "study.yaml", *arguments]

    def environment(self) -> dict[str, str]:
        home = {"XDG_CONFIG_HOME": str(self.cluster.folder / "config")}
        # As in an activated environment: without a shared file system, jobs run the python that they find.
        path = {"PATH": f"{Path(sys.executable).parent}:{self.cluster.environment['PATH']}"}
        return super().environment() | self.cluster.environment | home | path

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Extraction in the background, its output in `run.log`; it has ended when the block is left."""
        with (
            open(self.folder / "run.log", "w") as log,
            subprocess.Popen(
                self.command("--until", "activations", *arguments),
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


@pytest.fixture(scope="module")
def prepared(fresh_project: Callable[[], Project]) -> Project:
    """Corpus and model are there; extraction takes seconds, as every sentence is a batch of its own."""
    project = fresh_project()
    study = project.study
    study["corpora"]["stories"] |= {"training": 300, "validation": 80}
    study["activations"] |= {"shard_sentences": 150}
    study["compute"] = {"batch_tokens": 1}
    project.study = study
    project.snakemake("--until", "corpus", "model")
    return project


@pytest.fixture(scope="module")
def expected(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same project with what this machine alone extracts."""
    folder = tmp_path_factory.mktemp("expected") / "project"
    shutil.copytree(prepared.folder, folder, symlinks=True)
    project = Project(folder, prepared.python)
    project.snakemake("--until", "activations")
    return project


@pytest.fixture
def slow_project(prepared: Project, cluster: Cluster, tmp_path: Path) -> SlurmProject:
    shutil.copytree(prepared.folder, tmp_path / "project", symlinks=True)
    return SlurmProject(tmp_path / "project", cluster)


def rule_of(job: Job) -> str:
    found = re.match(r"rule_(\w+?)_wildcards", job.get("Comment", ""))
    return found[1] if found else job.get("Comment", "")


def jobs_of(project: SlurmProject, rule: str) -> list[Job]:
    return [
        job
        for job in project.cluster.jobs()
        if rule_of(job) == rule and job["WorkDir"] == str(project.folder)
    ]


def running_job(project: SlurmProject) -> Job:
    """A job in the middle of its shard."""
    scratch = project.folder / ACTIVATIONS
    project.cluster.wait_until("a shard is half written", lambda: any(scratch.glob(".*.part")), 120)
    return next(job for job in jobs_of(project, "activations") if job["JobState"] == "RUNNING")


def assert_same_activations(found: Project, expected: Project) -> None:
    shards = sorted(path.name for path in (expected.folder / ACTIVATIONS).glob("*.zarr"))
    assert sorted(path.name for path in (found.folder / ACTIVATIONS).glob("*.zarr")) == shards
    for shard in shards:
        stores = [
            ActivationStore([project.folder / ACTIVATIONS / shard], complete=False)
            for project in (found, expected)
        ]
        np.testing.assert_array_equal(stores[0].shard(0), stores[1].shard(0))
        for name in SAMPLE_ARRAYS:
            np.testing.assert_array_equal(stores[0].of_samples(name), stores[1].of_samples(name))


def test_a_run_gives_what_a_local_run_gives_and_asks_for_gpus_where_it_uses_them(
    fresh_project: Callable[[], Project], finished: Project, cluster: Cluster
) -> None:
    project = SlurmProject(fresh_project().folder, cluster)
    project.snakemake()
    for name, table in finished.tables().items():
        pd.testing.assert_frame_equal(project.tables()[name], table, check_exact=True)
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


def test_nodes_without_a_shared_file_system_use_a_storage(
    fresh_project: Callable[[], Project], finished: Project, cluster: Cluster, tmp_path: Path
) -> None:
    project = SlurmProject(fresh_project().folder, cluster)
    storage, scratch = tmp_path / "storage", tmp_path / "scratch"
    project.snakemake(
        *("--shared-fs-usage", "none", "--default-storage-provider", "fs"),
        *("--default-storage-prefix", str(storage), "--local-storage-prefix", str(scratch)),
    )
    for name, table in finished.tables().items():
        # Not bit for bit: its jobs have as many threads as there are, which sum in another order.
        pd.testing.assert_frame_equal(project.tables(storage)[name], table, rtol=1e-4, atol=1e-6)
    assert not (project.folder / "results").exists()
    assert not list(scratch.rglob("*.zarr")), "local copies are removed"


def test_a_node_that_dies_in_the_middle_of_its_shard(
    slow_project: SlurmProject, expected: Project, cluster: Cluster
) -> None:
    with slow_project.running() as run:
        node = running_job(slow_project)["NodeList"]
        cluster.kill(node)
        cluster.wait_until("the node is missed", lambda: "down" in "".join(cluster.node_states()))
        cluster.start_node(node)
    assert run.returncode == 0, slow_project.said
    assert_same_activations(slow_project, expected)


def test_a_job_that_is_cancelled_is_tried_again(
    slow_project: SlurmProject, expected: Project, cluster: Cluster
) -> None:
    with slow_project.running() as run:
        cluster.run("scancel", running_job(slow_project)["JobId"])
    assert run.returncode == 0, slow_project.said
    assert len(jobs_of(slow_project, "activations")) == 4, "three shards, one of them twice"
    assert_same_activations(slow_project, expected)


@pytest.mark.parametrize(("limit", "state"), [("mem_mb=60", "FAILED"), ("runtime=1", "TIMEOUT")])
def test_a_job_over_a_limit_is_named_with_its_log(
    limit: str, state: str, slow_project: SlurmProject, cluster: Cluster
) -> None:
    resources = (f"activations:{limit}", "activations:slurm_partition=gpu")
    with slow_project.running("--retries", "0", "--set-resources", *resources) as run:
        if state == "TIMEOUT":
            cluster.freeze(running_job(slow_project)["NodeList"])
    assert run.returncode != 0
    assert state in {job["JobState"] for job in jobs_of(slow_project, "activations")}
    assert "Error in rule activations" in slow_project.said
    assert re.search(r"log: results/tiny/tiny-llama/stories/logs/activations/\w+-\d\.log", slow_project.said)
    assert "the same command goes on from there" in slow_project.said


def test_a_submitter_killed_and_started_again_keeps_finished_shards(
    slow_project: SlurmProject, expected: Project, cluster: Cluster
) -> None:
    done = r"Finished jobid: (\d+) \(Rule: activations\)"

    def logged() -> str:
        # The terminal says which jobs begin, Snakemake's log file also which are finished.
        return "".join(path.read_text() for path in (slow_project.folder / ".snakemake/log").glob("*.log"))

    with slow_project.running() as run:
        cluster.wait_until("a shard is finished", lambda: bool(re.search(done, logged())), 120)
        os.killpg(run.pid, signal.SIGKILL)
    log = logged()
    submitted = dict(re.findall(r"Job (\d+) has been submitted .*?/rule_activations/(\S+)/\d+\.log", log))
    names = [submitted[job].split("_")[-2:] for job in re.findall(done, log)]
    shards = [slow_project.folder / ACTIVATIONS / f"{'-'.join(name)}.zarr" for name in names]
    finished = {shard: shard.stat().st_ino for shard in shards}
    slow_project.snakemake("--unlock")
    slow_project.snakemake("--until", "activations")
    assert_same_activations(slow_project, expected)
    for shard, inode in finished.items():
        assert shard.stat().st_ino == inode, f"{shard.name} was made twice"
