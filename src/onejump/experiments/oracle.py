"""The stage "oracle": at which level each token could exit, for one who knows the full model's token.

The first and the stable level of each sample (`onejump.exits.oracle`), for the hidden state as it is
(identity: the paper's natural exit) and for every other method. Nothing is chosen here, so nothing is held
out: the numbers say what the best possible gate could save.

Source: arXiv 2412.01455, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.exits.confidences import Confidences
from onejump.exits.oracle import ORACLES, oracle_exits
from onejump.scoring.standard_errors import Clusters


def find_oracle_exits(
    levels: Path, summary: Path, confidences: Sequence[Path], *, last_blocks: int, model: str, corpus: str
) -> None:
    """The stage: where tokens could exit, and what an all-knowing gate would save.

    Standard errors are those of `onejump.scoring.standard_errors`.

    Parameters
    ----------
    levels : Path
        Table to write, with columns

        - model, corpus, method, oracle (first, stable), level (0 to L; L: no exit);
        - share, share_stderr (of the samples whose level this is), up_to, up_to_stderr (of those whose level
          is this one or an earlier one), n, documents.
    summary : Path
        Table to write, with columns model, corpus, method, oracle, measure, value, stderr, blocks (L), n,
        documents. The measures are

        - saved: mean of 1 - level / L;
        - level: mean level, which is also the mean number of blocks that run;
        - first third, first two thirds: share of the samples whose level is at most L / 3, or 2 L / 3;
        - before the last <last_blocks> blocks: share of the samples whose level is at most L - last_blocks. A
          model of fewer blocks has no such row;
        - lost: share of the samples whose first level comes before the stable one: the token is found, and
          lost again.
    confidences : sequence of Path
        Tables of `onejump.exits.measuring.measure_confidences` on validation samples.
    last_blocks : int
    model, corpus : str
        Names, for the tables.
    """
    model_digest = one_model(*confidences)
    by_level, summed = [], []
    for method, found in _methods(confidences):
        blocks = found.hits.shape[1]
        clusters = Clusters(found.documents)
        exits = oracle_exits(found.hits)
        lost = (exits.first < exits.stable).astype(np.float64)
        size = {"n": len(found.hits), "documents": clusters.documents}
        for oracle in ORACLES:
            level = getattr(exits, oracle)
            about = {"model": model, "corpus": corpus, "method": method, "oracle": oracle}
            by_level.append(pd.DataFrame(about | _shares(level, blocks, clusters) | size))
            for measure, values in _measures(level, blocks, last_blocks, lost).items():
                value, stderr = (float(of) for of in clusters.of_values(torch.from_numpy(values)))
                measured = {"measure": measure, "value": value, "stderr": stderr, "blocks": blocks}
                summed.append(about | measured | size)
    write_table(levels, pd.concat(by_level, ignore_index=True), model_digest=model_digest)
    write_table(summary, pd.DataFrame(summed), model_digest=model_digest)


def compare_corpora(table: Path, summaries: Sequence[Path], *, corpus: str) -> None:
    """The stage "oracle corpora": what an all-knowing gate would save on each corpus of a model.

    Parameters
    ----------
    table : Path
        To write: the summaries of all corpora, the own corpus first, and the columns difference and
        difference_stderr: the value minus that of the own corpus. The standard error takes the two corpora as
        independent; where they share documents (a generated corpus and that of its prompts), it is too large
        rather than too small.
    summaries : sequence of Path
        Tables `summary` of `find_oracle_exits`.
    corpus : str
        The own corpus.
    """
    found = pd.concat([read_table(path) for path in summaries], ignore_index=True)
    key = ["method", "oracle", "measure"]
    own = found.loc[found["corpus"] == corpus, [*key, "value", "stderr"]]
    found = found.merge(own, on=key, suffixes=("", "_own"), validate="many_to_one")
    apart = found["corpus"] != corpus
    found["difference"] = found["value"] - found["value_own"]
    found["difference_stderr"] = np.where(apart, np.hypot(found["stderr"], found["stderr_own"]), 0.0)
    found = found.drop(columns=["value_own", "stderr_own"])
    ordered = pd.concat([found[~apart], found[apart]], ignore_index=True)
    write_table(table, ordered, model_digest=one_model(*summaries))


def _methods(confidences: Sequence[Path]) -> Iterator[tuple[str, Confidences]]:
    """Each method with its confidences, in the order of the tables."""
    for path in confidences:
        table = read_table(path)
        for method in table["method"].unique():
            yield str(method), Confidences.of(table[table["method"] == method])


def _shares(level: NDArray[np.int64], blocks: int, clusters: Clusters) -> dict[str, Any]:
    """Share of the samples at each level, and up to each level, with standard errors."""
    at = np.arange(blocks + 1)
    share, share_stderr = clusters.of_values(torch.from_numpy((level[:, None] == at).astype(np.float64)))
    up_to, up_to_stderr = clusters.of_values(torch.from_numpy((level[:, None] <= at).astype(np.float64)))
    columns = {"share": share, "share_stderr": share_stderr, "up_to": up_to, "up_to_stderr": up_to_stderr}
    return {"level": at, **{name: values.numpy() for name, values in columns.items()}}


def _measures(
    level: NDArray[np.int64], blocks: int, last_blocks: int, lost: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """What is averaged over samples, (n,) each, by its name in the table."""
    measures: dict[str, NDArray[Any]] = {
        "saved": 1 - level / blocks,
        "level": level.astype(np.float64),
        "first third": 3 * level <= blocks,
        "first two thirds": 3 * level <= 2 * blocks,
        f"before the last {last_blocks} blocks": level <= blocks - last_blocks,
        "lost": lost,
    }
    if last_blocks > blocks:
        del measures[f"before the last {last_blocks} blocks"]
    return {name: values.astype(np.float64) for name, values in measures.items()}
