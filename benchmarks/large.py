"""Llama-2-7B's shapes at full protocol: bytes of the store, and each stage's peak memory and time.

The activations are random, their coordinates of unlike scale as real ones are; no model is needed.
Fits see three of the levels: they work through levels one after another, so each further one costs time only.
Needs about 12 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import at_most

from onejump.planning.cost import Cost
from onejump.planning.sizes import Sizes
from onejump.planning.stage_costs import activations_cost, evaluation_cost, fit_cost, scores_cost
from onejump.study.activations import Activations
from onejump.study.evaluation import Evaluation
from onejump.study.kinds import Identity, Jtc, Kind, NNjtc, Shortcuts

SIZES = Sizes(blocks=32, hidden=4096, vocabulary=32_000, parameters=6_738_415_616, dtype="bfloat16")
TRAINING, VALIDATION, SHARD, FEW = 9000, 3000, 4500, 600
RANK = 40
ALLOWED = 16e9
EXACT: dict[str, Any] = {"solver": "exact"}
LOW_RANK: dict[str, Any] = {"rank": RANK, **EXACT}
ADAM = {"epochs": 1, "batch": 256, "learning_rate": 0.02}
OPTIONS = Activations(shard_sentences=SHARD)


def write_shard(path: Path, samples: int, levels: int) -> None:
    """Random states, a chunk at a time."""
    from onejump.data.shard_writer import ShardWriter, StoreOptions

    generator = np.random.default_rng(samples)
    scales = np.exp(generator.standard_normal(SIZES.hidden)).astype(np.float32)
    store = OPTIONS.store
    with ShardWriter(
        path,
        levels=levels,
        samples=samples,
        hidden=SIZES.hidden,
        top_k=OPTIONS.top_k,
        options=StoreOptions(**store.model_dump()),
    ) as writer:
        for start in range(0, samples, 100):
            count = min(100, samples - start)
            ids = np.zeros(count, np.int32)
            # A residual stream: each level adds to the one before.
            states = generator.standard_normal((levels, count, SIZES.hidden), np.float32).cumsum(0) * scales
            writer.append(
                states,
                sentence=ids,
                position=ids,
                token=ids,
                top_tokens=generator.integers(0, SIZES.vocabulary, (count, OPTIONS.top_k)),
                top_logits=generator.standard_normal((count, OPTIONS.top_k)),
                logsumexp=ids,
            )


def write_all(folder: Path) -> None:
    levels = SIZES.blocks + 1
    for shard in range(TRAINING // SHARD):
        write_shard(folder / f"training-{shard}.zarr", SHARD, levels)
        write_shard(folder / f"three-{shard}.zarr", SHARD, 3)
    write_shard(folder / "validation-0.zarr", FEW, levels)
    write_shard(folder / "validation-1.zarr", VALIDATION - FEW, levels)


def write_head_and_shortcuts(folder: Path) -> None:
    """Random ones: what they say is of no account here."""
    import torch

    from onejump.base.files import write_json
    from onejump.base.format import SELECTION
    from onejump.models.head import Head, HeadConfig
    from onejump.shortcuts.files import save_shortcut, shortcut_path
    from onejump.shortcuts.kinds.jtc import JTC
    from onejump.shortcuts.kinds.n_njtc import NNJTC

    torch.manual_seed(0)
    width = SIZES.hidden
    one = torch.ones(width)
    Head(HeadConfig("rms", 1e-5), one, torch.zeros(width), torch.randn(SIZES.vocabulary, width)).save(
        folder / "head.safetensors"
    )
    for method in ("n-njtc", "jtc"):
        (folder / method).mkdir()
    for level in range(SIZES.blocks):
        statistics = (torch.ones(width) for _ in range(4))
        jump = NNJTC(torch.randn(width, RANK), torch.randn(RANK, width), *statistics)
        save_shortcut(shortcut_path(folder / "n-njtc", level), jump, {})
    first = shortcut_path(folder / "jtc", 0)
    save_shortcut(first, JTC(torch.randn(width, width) / width**0.5), {})
    for level in range(1, SIZES.blocks):
        os.link(first, shortcut_path(folder / "jtc", level))
    selection = dict.fromkeys(SELECTION.keys) | {"jump": 16}
    write_json(folder / "selection.json", selection, SELECTION)


def fit(method: str, options: dict[str, Any], shards: str = "three") -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from onejump.base.binding import converted
        from onejump.fitting.options import FitOptions
        from onejump.fitting.shortcuts import fit_shortcuts

        paths = sorted(folder.glob(f"{shards}-*.zarr"))
        given = converted(options, FitOptions, "options")
        fit_shortcuts(folder / "fitted" / method, paths, method=method, options=given, seed=0)

    return run


def score(folder: Path) -> None:
    from onejump.scoring.scores import score_jumps
    from onejump.scoring.selection import select_jump

    shards = sorted(folder.glob("training-*.zarr"))
    score_jumps(folder / "scores.parquet", shards, folder / "n-njtc", model="random", corpus="random")
    select_jump(
        folder / "chosen.json", folder / "scores.parquet", method="n-njtc", metric="signed-squared-cosine"
    )


def evaluate(method: str, shards: Sequence[str]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from onejump.scoring.evaluation import evaluate_method

        shortcuts = {"identity": None, "ojfa": folder / "n-njtc"}
        evaluate_method(
            folder / f"{method}.parquet",
            [folder / shard for shard in shards],
            folder / "head.safetensors",
            method=method,
            shortcuts=shortcuts.get(method, folder / method),
            selection=folder / "selection.json" if method == "ojfa" else None,
            precision_at=[1, 5, 10],
            model="random",
            corpus="random",
        )

    return run


def planned_fit(method: str, options: dict[str, Any]) -> Cost:
    kind = Shortcuts.sections()[method].model_validate(options)
    return fit_cost(SIZES, kind, OPTIONS.store, samples=TRAINING, shard=SHARD)


def planned_evaluation(method: str, kind: Kind) -> Cost:
    return evaluation_cost(SIZES, method, kind, Evaluation(), OPTIONS.store, samples=VALIDATION)


GRADIENT: dict[str, Any] = {"rank": RANK, "solver": "gradient", "gradient": ADAM}
BOTH = ("validation-0.zarr", "validation-1.zarr")
STAGES: dict[str, tuple[Callable[[Path], None], Cost]] = {
    "shortcuts jtc (2 of 32 levels)": (fit("jtc", EXACT), planned_fit("jtc", EXACT)),
    "shortcuts njtc (2 of 32 levels)": (fit("njtc", LOW_RANK), planned_fit("njtc", LOW_RANK)),
    "shortcuts n-njtc (2 of 32 levels)": (fit("n-njtc", LOW_RANK), planned_fit("n-njtc", LOW_RANK)),
    "shortcuts joint": (fit("joint", LOW_RANK, "training"), planned_fit("joint", LOW_RANK)),
    "shortcuts n-njtc, gradient (1 epoch)": (
        fit("n-njtc", GRADIENT, "training"),
        planned_fit("n-njtc", GRADIENT),
    ),
    "selection": (score, scores_cost(SIZES, RANK, OPTIONS.store, samples=TRAINING)),
    f"evaluate identity ({FEW} samples)": (
        evaluate("identity", BOTH[:1]),
        planned_evaluation("identity", Identity()),
    ),
    f"evaluate jtc ({FEW} samples)": (evaluate("jtc", BOTH[:1]), planned_evaluation("jtc", Jtc())),
    "evaluate n-njtc": (evaluate("n-njtc", BOTH), planned_evaluation("n-njtc", NNjtc(rank=RANK))),
    "evaluate ojfa": (evaluate("ojfa", BOTH), planned_evaluation("ojfa", NNjtc(rank=RANK))),
}


def run_alone(what: str, folder: Path) -> tuple[float, float]:
    """Peak memory in bytes and seconds of a stage in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, what, str(folder)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"MISSED {what}: failed\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1]), time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        peak, took = run_alone("write", folder)
        written = sum(
            file.stat().st_size
            for split in ("training", "validation")
            for shard in folder.glob(f"{split}-*.zarr")
            for file in shard.rglob("*")
            if file.is_file()
        )
        planned = activations_cost(
            SIZES, OPTIONS, TRAINING + VALIDATION, batch_tokens=4096, tokens_per_sentence=29
        )
        note = f"{written / 1e9:.2f} GB, written in {took:.0f} s with {peak / 1e9:.1f} GB of memory"
        at_most("store of 12,000 samples / its plan", written / planned.disk, 1.25, note)
        write_head_and_shortcuts(folder)
        for stage, (_, cost) in STAGES.items():
            peak, took = run_alone(stage, folder)
            note = f"planned {cost.memory / 1e9:.1f} GB; {took:.0f} s"
            at_most(f"peak memory, {stage}", peak / 1e9, ALLOWED / 1e9, note, unit=" GB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        parser = argparse.ArgumentParser()
        parser.add_argument("stage", choices=["write", *STAGES])
        parser.add_argument("folder", type=Path)
        arguments = parser.parse_args()
        (write_all if arguments.stage == "write" else STAGES[arguments.stage][0])(arguments.folder)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    else:
        main()
