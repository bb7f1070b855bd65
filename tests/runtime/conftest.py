"""The files of a study of a tiny random model, made by the functions of its stages without Snakemake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jumps_at_random import RANK, trained
from stage_files import select

from onejump.data.shard_writer import ShardWriter, StoreOptions
from onejump.fitting.options import FitOptions
from onejump.fitting.shortcuts import fit_shortcuts
from onejump.models.description import read_description
from onejump.models.loading import load_model
from onejump.models.model_stage import describe
from onejump.models.transformer import Transformer
from onejump.scoring.collection import collect
from onejump.scoring.evaluation import evaluate_method
from onejump.scoring.parameters import count_parameters
from onejump.scoring.scores import score_jumps
from onejump.scoring.selection import select_jump
from onejump.shortcuts.files import save_shortcuts

SAMPLES = 96
FITTED = ("n-njtc", "joint", "one-jump", "distilled")


def write_shard(path: Path, transformer: Transformer, digest: str, seed: int) -> Path:
    """Extract the states of random tokens, one position a sequence."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 200, (SAMPLES, 6), generator=generator)
    rows, positions = torch.arange(SAMPLES), torch.randint(0, 6, (SAMPLES,), generator=generator)
    states = transformer.states(tokens, rows, positions).numpy()
    logits = transformer.head.logits(torch.from_numpy(states[-1]))
    top_logits, top_tokens = logits.topk(5)
    levels, samples, hidden = states.shape
    sizes = {"levels": levels, "samples": samples, "hidden": hidden, "top_k": 5}
    options = StoreOptions(keepbits=None, chunk_samples=64)
    with ShardWriter(path, **sizes, options=options, attributes={"model_digest": digest}) as writer:
        writer.append(
            states,
            sentence=np.arange(samples),
            position=positions.numpy(),
            token=tokens[rows, positions].numpy(),
            top_tokens=top_tokens.numpy(),
            top_logits=top_logits.numpy(),
            logsumexp=logits.logsumexp(-1).numpy(),
        )
    return path


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """The folder of a model and a corpus, with all that the export reads: results/tiny/tiny-llama/random."""
    pair = tmp_path_factory.mktemp("studied") / "results/tiny/tiny-llama/random"
    head, about = pair.parent / "head.safetensors", pair.parent / "model.json"
    describe(about, head, source=str(tiny_model_folder), device="cpu")
    transformer = load_model(str(tiny_model_folder), device="cpu")
    known = read_description(about)
    names = {"model": "tiny-llama", "corpus": "random"}
    training, validation = (
        write_shard(pair / f"activations/{split}-0.zarr", transformer, known.model_digest, seed)
        for seed, split in enumerate(("training", "validation"))
    )
    shortcuts = {kind: pair / "shortcuts" / kind for kind in FITTED}
    for kind, folder in shortcuts.items():
        if kind in ("n-njtc", "joint"):
            options = FitOptions(rank=RANK)
            fit_shortcuts(folder, [training], method=kind, options=options, seed=0, device="cpu")
        else:
            made, one = trained(kind, known.blocks, known.hidden), kind == "one-jump"
            digest = known.model_digest
            save_shortcuts(folder, made, {}, levels=known.blocks, one=one, model_digest=digest)
    selection, scores = pair / "selection.json", pair / "scores.parquet"
    score_jumps(scores, [training], shortcuts["n-njtc"], device="cpu", **names)
    select_jump(selection, scores, method="n-njtc", metric="signed-squared-cosine")
    chosen: dict[str, Any] = {
        "jump": 1,
        "by_metric": {"surprisal": 3},
        "computed_from": {"method": "distilled"},
    }
    select(pair / "distilled-selection.json", **chosen)
    sources: dict[str, tuple[Path | None, Path | None]] = {
        "identity": (None, None),
        **{kind: (folder, None) for kind, folder in shortcuts.items()},
        "ojfa": (shortcuts["n-njtc"], selection),
        "ojfa-distilled": (shortcuts["distilled"], pair / "distilled-selection.json"),
    }
    tables = []
    for method, (folder, chosen_in) in sources.items():
        tables.append(pair / "evaluation" / f"{method}.parquet")
        options = {"method": method, "precision_at": [1, 5], "device": "cpu", **names}
        evaluate_method(tables[-1], [validation], head, folder, chosen_in, **options)
    collect(pair / "evaluation.parquet", tables)
    count_parameters(
        pair / "parameters.parquet",
        list(shortcuts.values()),
        [selection],
        methods=FITTED,
        selected=["ojfa"],
        reference="n-njtc",
        **names,
    )
    return pair


@pytest.fixture(scope="session")
def tiny(tiny_model_folder: Path) -> Callable[..., Transformer]:
    """tiny(dtype="float32"): the model of `studied`, loaded anew."""
    return lambda dtype="float32": load_model(str(tiny_model_folder), dtype=dtype, device="cpu")
