"""The workflow around the stages: what it costs besides their work, and how well `onejump plan` knew it.

Measured are a run with nothing to do, and what the jobs of a whole run cost beyond their stages' own work.
The whole default study is run once more, in a folder of its own (fetched files and checkout are shared).
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
from measure import ROOT, at_least, at_most

from onejump.models.description import read_description
from onejump.planning.devices import DEVICES
from onejump.planning.plan import Row, plan
from onejump.planning.sizes import Sizes
from onejump.study.reading import load_study

sys.path.insert(0, str(ROOT / "workflow"))
from by_hand import parsed_workflow, stage_of

MAIN = [sys.executable, "-m", "snakemake", "--cores", "all", "--nocolor"]


def modules_of_rules(workflow: Any) -> dict[str, str]:
    """The module that the script of each rule imports its stage from."""
    return {rule.name: stage_of(rule.script)[0] for rule in workflow.rules if rule.script}


def cpu_seconds(command: list[str], folder: Path) -> tuple[float, str]:
    """CPU time of a command with all its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def measured(workflow: Any, row: Row) -> tuple[float, float]:
    """Seconds and bytes of all jobs of a stage, as Snakemake's benchmark files and the disk have them."""
    name, _, method = row.stage.partition(" ")
    rule = workflow.get_rule(name)
    known = {"model": row.model, "corpus": row.corpus, "method": method}

    def files_of(pattern: str) -> list[Path]:
        """Files of all jobs: whichever shards and splits there are."""
        filled = re.sub(r"{(\w+)[^{}]*}", lambda wildcard: known.get(wildcard[1], "*"), str(pattern))
        return list(Path().glob(filled))

    took = sum(pd.read_csv(file, sep="\t")["s"].sum() for file in files_of(rule.benchmark))
    outputs = [path for pattern in rule.output for path in files_of(pattern)]
    files = [file for output in outputs for file in (output, *output.rglob("*")) if file.is_file()]
    return float(took), float(sum(file.stat().st_size for file in files))


def compare_with_the_plan(workflow: Any) -> None:
    study = load_study("config.yaml")
    sizes = {
        model: Sizes.of(read_description(f"results/{study.study}/{model}/model.json"))
        for model in study.models
    }
    for row in plan(study, sizes, device=DEVICES["cpu"], host=DEVICES["cpu"]):
        took, written = measured(workflow, row)
        note = f"{took:.1f} s, planned {row.seconds:.1f} s"
        off = max(took / row.seconds, row.seconds / took)
        at_most(f"time of {row.stage} off its plan by a factor", off, 2, note)
        note = f"{written:.0f} bytes, planned {row.cost.disk:.0f}"
        at_most(f"bytes of {row.stage} off their plan", 100 * abs(written / row.cost.disk - 1), 25, note, "%")


def main() -> None:
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    with tempfile.TemporaryDirectory(dir=ROOT / "results") as scratch:
        folder = Path(scratch)
        for name in ("resources", "config.yaml"):
            (folder / name).symlink_to(ROOT / name)
        main_command = [*MAIN, "--snakefile", str(ROOT / "Snakefile")]
        start = time.perf_counter()
        total, _ = cpu_seconds(main_command, folder)
        whole = time.perf_counter() - start

        times = []
        for _ in range(3):
            start = time.perf_counter()
            _, said = cpu_seconds([*main_command, "-n"], folder)
            assert "Nothing to be done" in said, said
            times.append(time.perf_counter() - start)
        at_most("snakemake -n with nothing to do", min(times), 5, unit=" s")

        planning, planned = cpu_seconds([*main_command, "-n", "--forceall"], folder)
        jobs = {
            rule: int(count)
            for rule, count in re.findall(r"^(\w+) +(\d+)$", planned.split("Job stats:")[1], re.M)
            if rule not in ("all", "total")
        }
        starting = 0.0
        with chdir(folder), parsed_workflow() as workflow:
            modules = modules_of_rules(workflow)
            compare_with_the_plan(workflow)
        for rule, count in jobs.items():
            command = [sys.executable, "-c", f"import onejump.base.job, {modules[rule]}"]
            starting += count * cpu_seconds(command, folder)[0]
        note = f"{sum(jobs.values())} jobs: {total:.0f} s of CPU in {whole:.0f} s, {starting:.0f} s importing"
        share = 100 * (1 - (starting + planning) / total)
        at_least("CPU time in the stages' own work", share, 80, note, unit="%")


if __name__ == "__main__":
    main()
