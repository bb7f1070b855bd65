"""Peak memory of each stage that reads or writes activations, on a store larger than the memory allowed.

Each stage runs in a process of its own under RLIMIT_DATA, once on a store of one shard and once on the whole
store: that it ends at all shows that it stays within the limit, and the two peaks show whether it grows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import at_most

LEVELS, HIDDEN, VOCABULARY, SHARD, SHARDS = 31, 576, 2048, 2500, 8
ALLOWED = 1 << 30
LOW_RANK: dict[str, Any] = {"rank": None, "solver": "exact"}
ADAM = {"epochs": 1, "batch": 128, "learning_rate": 0.01}
GRADIENT: dict[str, Any] = {"rank": None, "solver": "gradient", "gradient": ADAM}
DOCUMENTS = 100


def write_store(folder: Path, shards: int) -> list[Path]:
    """Random states; a shard is made and written chunk by chunk."""
    from onejump.data.shard_writer import ShardWriter

    generator = np.random.default_rng(0)
    paths = [folder / f"{shard}.zarr" for shard in range(shards)]
    for path in paths:
        with ShardWriter(path, levels=LEVELS, samples=SHARD, hidden=HIDDEN, top_k=16) as writer:
            for _ in range(0, SHARD, 100):
                ids = np.zeros(100, np.int32)
                writer.append(
                    generator.standard_normal((LEVELS, 100, HIDDEN), np.float32),
                    sentence=np.arange(100) % DOCUMENTS,
                    position=ids,
                    token=ids,
                    top_tokens=np.tile(np.arange(16), (100, 1)),
                    top_logits=np.zeros((100, 16)),
                    logsumexp=np.zeros(100),
                )
    return paths


def write_head_and_corpus(folder: Path) -> None:
    import pandas as pd
    import torch

    from onejump.base.files import write_table
    from onejump.data.document_roles import assign_documents
    from onejump.models.head import Head, HeadConfig

    torch.manual_seed(0)
    Head(
        HeadConfig("rms", 1e-5), torch.ones(HIDDEN), torch.zeros(HIDDEN), torch.randn(VOCABULARY, HIDDEN)
    ).save(folder / "head.safetensors")
    numbers = range(DOCUMENTS)
    corpus = pd.DataFrame({"sentence_id": numbers, "document": [f"document {i}" for i in numbers]})
    write_table(folder / "corpus.parquet", corpus.assign(split="training"))
    assign_documents(
        folder / "documents.parquet", folder / "corpus.parquet", stopping=0.1, thresholds=0.1, seed=0
    )


def model_and_prompts(shards: list[Path]) -> tuple[Any, list[Any]]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from onejump.models.prompts import Prompt
    from onejump.models.transformer import Transformer

    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=LEVELS - 1,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_attention_heads=9,
        vocab_size=VOCABULARY,
    )
    prompts = [Prompt(i, [i % 7, i % 5], np.array([1])) for i in range(SHARD * len(shards))]
    return Transformer(LlamaForCausalLM(config)), prompts


def extract(folder: Path, shards: list[Path]) -> None:
    from onejump.models.activations import extract

    extract(*model_and_prompts(shards), folder / "extracted.zarr", batch_tokens=1024)


def extract_part(folder: Path, shards: list[Path]) -> None:
    from onejump.experiments.sub_module_activations import extract
    from onejump.models.parts import Part

    transformer, prompts = model_and_prompts(shards)
    # Inputs and outputs: twice the levels of an extraction, so half the tokens a batch.
    extract(Part(transformer, "attention"), transformer, prompts, folder / "attention.zarr", batch_tokens=512)


def fit_part(folder: Path, shards: list[Path]) -> None:
    from onejump.experiments.sub_module_maps import fit_part

    # 15 maps, from levels standing for inputs to levels standing for outputs.
    fit_part(folder / "attention", shards, part="attention")


def fit(method: str, options: dict[str, Any]) -> Callable[[Path, list[Path]], None]:
    def run(folder: Path, shards: list[Path]) -> None:
        from onejump.base.binding import converted
        from onejump.fitting.options import FitOptions
        from onejump.fitting.shortcuts import fit_shortcuts

        output = folder / (method if options.get("solver") == "exact" else f"{method}-gradient")
        given = converted(options, FitOptions, "options")
        fit_shortcuts(output, shards, method=method, options=given, seed=0)

    return run


def distil(method: str) -> Callable[[Path, list[Path]], None]:
    def run(folder: Path, shards: list[Path]) -> None:
        from onejump.fitting.distillation import distil
        from onejump.fitting.distiller import DistillationOptions
        from onejump.study.kinds import Affine, Distilled, OneJump

        kinds = {"distilled": Distilled, "one-jump": OneJump, "affine": Affine}
        options = DistillationOptions(**kinds[method](steps=4, batch=128).model_dump())
        head, documents = folder / "head.safetensors", folder / "documents.parquet"
        distil(folder / method, shards, head, documents, method=method, options=options, seed=0)

    return run


def score(folder: Path, shards: list[Path]) -> None:
    from onejump.scoring.scores import score_jumps
    from onejump.scoring.selection import select_jump

    score_jumps(folder / "scores.parquet", shards, folder / "n-njtc", model="random", corpus="random")
    select_jump(
        folder / "selection.json",
        folder / "scores.parquet",
        method="n-njtc",
        metric="signed-squared-cosine",
    )


def evaluate(method: str) -> Callable[[Path, list[Path]], None]:
    def run(folder: Path, shards: list[Path]) -> None:
        from onejump.scoring.evaluation import ArbitraryJumps, evaluate_method

        chosen = method in ("ojfa", "arbitrary")
        shortcuts = None if method == "identity" else folder / ("n-njtc" if chosen else method)
        evaluate_method(
            folder / f"{method}.parquet",
            shards,
            folder / "head.safetensors",
            method=method,
            shortcuts=shortcuts,
            selection=folder / "selection.json" if chosen else None,
            arbitrary=ArbitraryJumps(["first", "middle", "last"], random=5),
            precision_at=[1, 5, 10],
            model="random",
            corpus="random",
        )

    return run


def score_distilled(folder: Path, shards: list[Path]) -> None:
    from onejump.scoring.scores import score_jumps

    score_jumps(
        folder / "distilled-scores.parquet",
        shards,
        folder / "distilled",
        head=folder / "head.safetensors",
        documents=folder / "documents.parquet",
        model="random",
        corpus="random",
    )


def analyse(folder: Path, shards: list[Path]) -> None:
    from onejump.scoring.analysis import analyse

    analyse(
        folder / "analysis.parquet",
        shards,
        folder / "head.safetensors",
        [folder / "n-njtc", folder / "distilled"],
        methods=["n-njtc", "distilled"],
        model="random",
        corpus="random",
    )


def pair_levels(folder: Path, shards: list[Path]) -> None:
    from onejump.experiments.level_pairs import measure_level_pairs

    methods = ["identity", "jtc", "njtc", "n-njtc"]
    output = folder / "level-pairs.parquet"
    measure_level_pairs(output, shards, shards, methods=methods, rank=5, model="random", corpus="random")


def measure_confidences(folder: Path, shards: list[Path]) -> None:
    from onejump.exits.measuring import measure_confidences

    measure_confidences(
        folder / "confidences.parquet",
        shards,
        folder / "head.safetensors",
        method="n-njtc",
        shortcuts=folder / "n-njtc",
        selection=None,
    )


def compare_criteria(folder: Path, shards: list[Path]) -> None:
    from onejump.experiments.criteria import compare_criteria

    compare_criteria(
        folder / "criteria.parquet",
        shards,
        folder / "head.safetensors",
        folder / "n-njtc",
        folder / "selection.json",
        precision_at=[1, 5, 10],
        model="random",
        corpus="random",
    )


STAGES: dict[str, Callable[[Path, list[Path]], None]] = {
    "activations": extract,
    "shortcuts jtc": fit("jtc", {"solver": "exact"}),
    "shortcuts njtc": fit("njtc", LOW_RANK),
    "shortcuts n-njtc": fit("n-njtc", LOW_RANK),
    "shortcuts joint": fit("joint", LOW_RANK),
    "shortcuts n-njtc, gradient": fit("n-njtc", GRADIENT),
    "distillation distilled": distil("distilled"),
    "distillation one-jump": distil("one-jump"),
    "distillation affine": distil("affine"),
    "selection": score,
    "distilled_scores": score_distilled,
    "analysis": analyse,
    "evaluate identity": evaluate("identity"),
    "evaluate jtc": evaluate("jtc"),
    "evaluate n-njtc": evaluate("n-njtc"),
    "evaluate one-jump": evaluate("one-jump"),
    "evaluate arbitrary": evaluate("arbitrary"),
    "level_pairs": pair_levels,
    "sub_module_activations attention": extract_part,
    "sub_module_maps attention": fit_part,
    "confidences": measure_confidences,
    "criteria": compare_criteria,
}


def run_stage(stage: str, folder: Path, shards: list[Path]) -> None:
    """In a process of its own: run under the limit and print the peak, in bytes."""
    resource.setrlimit(resource.RLIMIT_DATA, (ALLOWED, ALLOWED))
    STAGES[stage](folder, shards)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak(stage: str, folder: Path, shards: list[Path]) -> float:
    command = [sys.executable, __file__, stage, str(folder), *map(str, shards)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"MISSED {stage}: failed within {ALLOWED >> 20} MiB\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    raw = SHARDS * SHARD * LEVELS * HIDDEN * 4
    print(f"store of {raw / 1e9:.1f} GB in {SHARDS} shards, memory limited to {ALLOWED / 1e9:.1f} GB")
    assert raw > ALLOWED
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shards = write_store(folder, SHARDS)
        write_head_and_corpus(folder)
        for stage in STAGES:
            one, all_of_them = peak(stage, folder, shards[:1]), peak(stage, folder, shards)
            note = f"{one / 1e6:.0f} MB on one shard, {all_of_them / 1e6:.0f} MB on {SHARDS}"
            at_most(f"peak memory on {SHARDS} shards / on one, {stage}", all_of_them / one, 1.15, note)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        parser = argparse.ArgumentParser()
        parser.add_argument("stage", choices=STAGES)
        parser.add_argument("folder", type=Path)
        parser.add_argument("shards", type=Path, nargs="+")
        arguments = parser.parse_args()
        run_stage(arguments.stage, arguments.folder, arguments.shards)
    else:
        main()
