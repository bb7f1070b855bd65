"""The stage "criteria": what each selection criterion chooses, and what the choice costs.

Each jump of the kind that the study selects from is used at all levels, on validation samples. An oracle that
sees the validation samples keeps the best jump. A criterion loses its distance to the oracle, and gains its
distance to a jump drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from onejump.base.device import pick_device
from onejump.base.files import read_json, write_table
from onejump.base.format import SELECTION
from onejump.base.identity import one_model
from onejump.data.held_out import documents_of_samples
from onejump.data.store import ActivationStore
from onejump.models.head import Head
from onejump.scoring.jumps import jumps_of_levels
from onejump.scoring.metrics import top_metrics
from onejump.scoring.scores import logits_of_jumps
from onejump.scoring.standard_errors import Clusters
from onejump.scoring.top_tokens import top_tokens_of
from onejump.shortcuts.shortcut import LowRank

RANDOM = "random"
"""Name of the criterion that draws a jump at random: the average over all jumps."""


@torch.inference_mode()
def metrics_of_jumps(
    store: ActivationStore, head: Head, jumps: Sequence[LowRank], precision_at: Sequence[int]
) -> dict[str, Tensor]:
    """Metrics of every jump on every sample, averaged over all levels.

    Parameters
    ----------
    store : ActivationStore
        Validation samples.
    head : Head
        Its device is used.
    jumps : sequence of LowRank
    precision_at : sequence of int
        Each k of the metrics precision@k.

    Returns
    -------
    dict of metric -> Tensor of shape (M, samples), float64
        The metrics of `onejump.scoring.metrics.top_metrics`.
    """
    top_tokens = top_tokens_of(store, min(max(precision_at), head.vocabulary)).to(head.gain.device)
    names = [*(f"precision@{k}" for k in precision_at), "surprisal"]
    found = {name: torch.zeros(len(jumps), store.samples, dtype=torch.float64) for name in names}
    for jump, _, part, logits in logits_of_jumps(store, head, jumps, torch.arange(store.samples)):
        for metric, values in top_metrics(logits, top_tokens[part], precision_at)[0].items():
            found[metric][jump, part] += values.double().cpu()
    return {name: values / (store.levels - 1) for name, values in found.items()}


def choices(by_metric: Mapping[str, int], means: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """The jump that each criterion chooses on training samples, and each oracle on validation samples.

    There are two oracles: one goes by the first precision, the other by surprisal.

    Parameters
    ----------
    by_metric : mapping of criterion -> jump
    means : mapping of metric -> Tensor of shape (M,)
        On validation samples, the precisions first.

    Yields
    ------
    criterion, jump
    """
    yield from by_metric.items()
    precision, surprisal = next(iter(means.values())), means["surprisal"]
    yield "oracle precision", int(precision.argmax())
    yield "oracle surprisal", int(surprisal.argmin())


def compare_criteria(
    table: Path,
    shards: Sequence[Path],
    head: Path,
    shortcuts: Path,
    selection: Path,
    *,
    documents: Path | None = None,
    precision_at: Sequence[int],
    model: str,
    corpus: str,
    device: str = "auto",
) -> None:
    """The stage: compare what selection criteria choose.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, criterion, jump, metric, value (mean over levels and samples),
        stderr, n, documents. The criterion "jump" has a row for every jump. The criterion "random" has no
        jump, and its stderr is the standard deviation between jumps.
    shards : sequence of Path
        Validation shards.
    head : Path
        Of the model stage.
    shortcuts : Path
        Folder of the kind that the study selects from.
    selection : Path
        Of the selection stage.
    documents : Path, optional
        Table of the stage "document roles", for the standard errors (`onejump.scoring.standard_errors`).
        Unless given, each sentence counts as a document.
    precision_at : sequence of int
        Each k of the metrics precision@k.
    model, corpus : str
        Names, for the table.
    device : str

    Raises
    ------
    OneJumpError
        If the folder does not hold a low-rank jump for each level, or the activations keep fewer than
        max(precision_at) most likely tokens of each sample.
    """
    model_digest = one_model(shards[0], head, shortcuts, selection)
    on = pick_device(device)
    store = ActivationStore(shards)
    jumps = jumps_of_levels(shortcuts, store.levels - 1)
    clusters = Clusters(documents_of_samples(store, documents))
    found = metrics_of_jumps(store, Head.load(head).to(on), jumps, precision_at)
    means = {metric: values.mean(1) for metric, values in found.items()}
    rows: list[tuple[str, int | None, str, float, float]] = []
    chosen = [("jump", jump) for jump in range(len(jumps))]
    chosen += choices(read_json(selection, SELECTION)["by_metric"], means)
    for metric, of_jumps in means.items():
        _, errors = clusters.of_values(found[metric].T)
        rows += [
            (criterion, jump, metric, float(of_jumps[jump]), float(errors[jump]))
            for criterion, jump in chosen
        ]
        spread = float(of_jumps.std()) if len(jumps) > 1 else 0.0
        rows.append((RANDOM, None, metric, float(of_jumps.mean()), spread))
    compared = pd.DataFrame(rows, columns=["criterion", "jump", "metric", "value", "stderr"])
    compared = compared.astype({"jump": "Int64"}).assign(n=store.samples, documents=clusters.documents)
    write_table(table, compared, model_digest=model_digest, model=model, corpus=corpus)
