"""The workflow around the stages: what a run with nothing to do costs, and what jobs cost besides their work.

Runs the whole default study once more in a folder of its own (fetched files and checkout are shared).
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import ROOT, at_least, at_most

MAIN = [sys.executable, "-m", "snakemake", "--cores", "all", "--nocolor"]
# What a rule's script loads before its stage begins.
MODULES = {
    "wheel": "fetch",
    "corpus": "corpus",
    "weights": "model",
    "model": "model",
    "activations": "activations",
    "shortcuts": "shortcuts",
    "scores": "selection",
    "selection": "selection",
    "evaluate": "evaluation",
    "evaluation": "evaluation",
    "parameters": "evaluation",
}


def cpu_seconds(command: list[str], folder: Path) -> tuple[float, str]:
    """CPU time of a command with all its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    with tempfile.TemporaryDirectory(dir=ROOT / "results") as scratch:
        folder = Path(scratch)
        for name in ("resources", "config.yaml"):
            (folder / name).symlink_to(ROOT / name)
        main_command = [*MAIN, "--snakefile", str(ROOT / "Snakefile")]
        start = time.perf_counter()
        total, output = cpu_seconds(main_command, folder)
        whole = time.perf_counter() - start

        times = []
        for _ in range(3):
            start = time.perf_counter()
            _, said = cpu_seconds([*main_command, "-n"], folder)
            assert "Nothing to be done" in said, said
            times.append(time.perf_counter() - start)
        at_most("snakemake -n with nothing to do", min(times), 5, unit=" s")

        planning, _ = cpu_seconds([*main_command, "-n", "--forceall"], folder)
        jobs = {
            rule: int(count)
            for rule, count in re.findall(r"^(\w+) +(\d+)$", output.split("Job stats:")[1], re.M)
            if rule not in ("all", "total")
        }
        starting = 0.0
        for rule, count in jobs.items():
            module = MODULES.get(rule, "figures")
            command = [sys.executable, "-c", f"import onejump.job, onejump.{module}"]
            starting += count * cpu_seconds(command, folder)[0]
        note = f"{sum(jobs.values())} jobs: {total:.0f} s of CPU in {whole:.0f} s, {starting:.0f} s importing"
        share = 100 * (1 - (starting + planning) / total)
        at_least("CPU time in the stages' own work", share, 80, note, unit="%")


if __name__ == "__main__":
    main()
