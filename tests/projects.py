"""A checkout of its own with a tiny study in it, to run snakemake in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).parent.parent
PAIR = Path("results/tiny/tiny-llama/stories")

Study = dict[str, Any]


class Project:
    """A checkout of its own, with a tiny study in it.

    Parameters
    ----------
    folder : Path
        Where it lies.
    python : str or Path
        What runs Snakemake and, started by it, the jobs.
    """

    def __init__(self, folder: Path, python: str | Path = sys.executable) -> None:
        self.folder = folder
        self.python = python

    @property
    def study(self) -> Study:
        return yaml.safe_load((self.folder / "study.yaml").read_text(encoding="utf-8"))

    @study.setter
    def study(self, content: Study) -> None:
        (self.folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        main = [str(self.python), "-m", "snakemake", "--cores", "2", "--configfile", "study.yaml"]
        return [*main, *arguments]

    def snakemake(self, *arguments: str, succeeds: bool = True) -> str:
        run = subprocess.run(
            self.command(*arguments), cwd=self.folder, capture_output=True, text=True, env=self.environment()
        )
        output = run.stdout + run.stderr
        assert (run.returncode == 0) == succeeds, output
        return output

    def environment(self) -> dict[str, str]:
        return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def planned(self, *targets: str) -> Counter[str]:
        """Jobs that a run would do now, by rule."""
        stats = self.snakemake("-n", *targets).split("Job stats:")
        return Counter(
            {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", stats[1], re.M)}
            if len(stats) > 1
            else {}
        )

    def tables(self, storage: Path | None = None) -> dict[str, pd.DataFrame]:
        names = ("scores", "evaluation", "parameters")
        return {name: pd.read_parquet((storage or self.folder) / PAIR / f"{name}.parquet") for name in names}


def check_out(folder: Path) -> None:
    folder.mkdir()
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, folder)
    (folder / "profiles").symlink_to("workflow/profiles")
    for name in ("workflow", "src", "envs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
