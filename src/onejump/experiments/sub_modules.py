"""The stage "sub-modules": the model with one part of its blocks replaced by linear maps.

A part (attention, the feed-forward network, or the norms) is replaced in all blocks above a level; the rest
of the model runs as it is (arXiv 2303.09435, section 6). What the predictions lose tells how far the part is
from linear, and for attention how much it takes from other positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from onejump.base.errors import OneJumpError
from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.data.held_out import some_of
from onejump.models.activations import ActivationOptions, model_and_prompts
from onejump.models.logit_parts import samples_together
from onejump.models.parts import Part, check_parts
from onejump.models.prompts import Prompt, batches, pad, shard_sentences
from onejump.models.resumable_pass import ResumablePass, at_positions
from onejump.models.transformer import Transformer
from onejump.scoring.metrics import FinalDistribution, token_metrics
from onejump.scoring.standard_errors import Clusters
from onejump.shortcuts.files import ShortcutFolder
from onejump.shortcuts.shortcut import Shortcut


@torch.inference_mode()
def evaluate_part(
    part: Part,
    maps: Sequence[Shortcut],
    transformer: Transformer,
    prompts: Sequence[Prompt],
    levels: Sequence[int],
    *,
    documents: Mapping[int, str] | None = None,
    precision_at: Sequence[int] = (1, 5, 10),
    batch_tokens: int = 4096,
) -> pd.DataFrame:
    """Measure the model with a part replaced in all blocks above a level, at all positions.

    Without its norms a model can overflow. A sample that overflows counts as missed in precision@k, and its
    level has no surprisal and no kl (NaN). The metric "overflow" is the share of such samples.

    Parameters
    ----------
    part : Part
    maps : sequence of Shortcut
        One for each of the part's modules.
    transformer : Transformer
    prompts : sequence of Prompt
        Sorted by falling length.
    levels : sequence of int
        Levels above which the part is replaced, from 0 to L - 1.
    documents : mapping of sentence -> document, optional
        For the standard errors (`onejump.scoring.standard_errors`); unless given, each sentence counts as a
        document.
    precision_at : sequence of int
        Each k of the metrics precision@k.
    batch_tokens : int
        Tokens in one forward pass, padding included.

    Returns
    -------
    DataFrame
        Columns part, level, metric, value (mean over samples), stderr, n (number of samples), documents
        (number of documents that they come from).
    """
    found: dict[tuple[int, str], list[Tensor]] = {}
    sentences: list[int] = []
    with tqdm(total=sum(len(prompt.tokens) for prompt in prompts), unit="token", disable=None) as progress:
        for batch in batches(prompts, batch_tokens, transformer.context):
            tokens, rows, positions = pad(batch, transformer.padding)
            run = ResumablePass(transformer, tokens, levels)
            with part.replaced(maps):
                finished = [_finish(run, level, rows, positions, part) for level in levels]
            last = at_positions(run.last, rows, positions)
            sentences += [batch[row].sentence for row in rows.tolist()]
            for level, metric, values in _metrics(transformer, last, finished, levels, precision_at):
                found.setdefault((level, metric), []).append(values.cpu())
            progress.update(sum(len(prompt.tokens) for prompt in batch))
    clusters = Clusters(np.array([s if documents is None else documents[s] for s in sentences]))
    rows_of_table = []
    for (level, metric), parts in found.items():
        mean, stderr = clusters.of_values(torch.cat(parts))
        rows_of_table.append((part.name, level, metric, float(mean), float(stderr)))
    table = pd.DataFrame(rows_of_table, columns=["part", "level", "metric", "value", "stderr"])
    table = table.assign(n=clusters.samples, documents=clusters.documents)
    return table.sort_values("level", kind="stable", ignore_index=True)


def _finish(run: ResumablePass, level: int, rows: Tensor, positions: Tensor, part: Part) -> Tensor:
    states = run.states[level]
    if part.name == "attention":
        # Without attention no position sees another: only the measured positions need to run.
        return run.finish(level, at_positions(states, rows, positions)[None])[0]
    return at_positions(run.finish(level, states), rows, positions)


def _metrics(
    transformer: Transformer,
    last: Tensor,
    finished: Sequence[Tensor],
    levels: Sequence[int],
    precision_at: Sequence[int],
) -> Iterator[tuple[int, str, Tensor]]:
    """Level, metric, and values of the metric for some samples; all samples in turn."""
    head = transformer.head
    few = samples_together(head, head.gain.device)
    for start in range(0, len(last), few):
        logits = head.logits(last[start : start + few].to(head.gain))
        final = FinalDistribution.of(logits, logits.topk(max(precision_at)).indices)
        for level, states in zip(levels, finished, strict=True):
            states = states[start : start + few].to(head.gain)
            # The head's norm turns a state whose square overflows into zeros, and its prediction into a
            # uniform one.
            overflow = ~states.square().sum(-1).isfinite()
            yield level, "overflow", overflow.float()
            for metric, values in token_metrics(head.logits(states), final, precision_at).items():
                undefined = 0.0 if metric.startswith("precision") else float("nan")
                yield level, metric, values.masked_fill(overflow, undefined)


def evaluate_parts(
    table: Path,
    maps: Sequence[Path],
    sentences: Path,
    description: Path,
    weights: Path | None = None,
    *,
    parts: Sequence[str],
    precision_at: Sequence[int],
    step: int = 1,
    samples: int = 600,
    seed: int,
    options: ActivationOptions,
    model: str,
    corpus: str,
    device: str,
    device_map: str | None,
    batch_tokens: int,
) -> None:
    """The stage: measure the model with each part replaced above a level.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, part, level, metric, value, stderr, n, documents, as of
        `evaluate_part`.
    maps : sequence of Path
        Folders of `onejump.experiments.sub_module_maps.fit_part`, one for each part.
    sentences : Path
        Table of the corpus.
    description, weights, seed, options, device, device_map
        As in `onejump.models.activations.extract_shard`.
    parts : sequence of str
        Of `onejump.models.anatomy.PARTS`.
    precision_at : sequence of int
        Each k of the metrics precision@k.
    step : int
        Measure every how many levels, from level 0 on. A level costs half a pass over the model.
    samples : int
        Validation sentences used at most, evenly spread over all of them.
    model, corpus : str
        Names, for the table.
    batch_tokens : int
        Tokens in one forward pass, padding included.

    Raises
    ------
    OneJumpError
        If a folder does not hold a map for each module of its part.
    """
    model_digest = one_model(description, sentences, *maps)
    of_validation = shard_sentences(read_table(sentences), "validation", 0, 1)
    transformer, prompts = model_and_prompts(
        of_validation.iloc[some_of(torch.arange(len(of_validation)), samples).numpy()],
        description=description,
        weights=weights,
        options=options,
        seed=seed,
        device=device,
        device_map=device_map,
    )
    check_parts(transformer)
    documents = dict(zip(of_validation["sentence_id"], of_validation["document"], strict=True))
    tables = []
    for name, path in zip(parts, maps, strict=True):
        part, folder = Part(transformer, name), ShortcutFolder(path)
        if len(folder) != len(part.modules):
            raise OneJumpError(
                f"{path}: a map for each of {len(part.modules)} modules was expected, {len(folder)} found: "
                "delete the folder and run snakemake again"
            )
        measured = evaluate_part(
            part,
            [folder.load(module) for module in range(len(folder))],
            transformer,
            prompts,
            range(0, transformer.levels - 1, step),
            documents=documents,
            precision_at=precision_at,
            batch_tokens=batch_tokens,
        )
        tables.append(measured)
    all_parts = pd.concat(tables, ignore_index=True)
    write_table(table, all_parts, model_digest=model_digest, model=model, corpus=corpus)
