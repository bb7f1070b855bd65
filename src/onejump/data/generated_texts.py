"""The stage "generated corpus": the texts of all shards, as one table that every stage takes like any corpus.

A row of the table is a text: a prompt, and the tokens that the model generated behind it.

| column | what it is |
|---|---|
| `sentence_id` | 0, 1, ...; training first |
| `document` | the document that the prompt is from |
| `sentence` | the generated text |
| `split` | training or validation, as of the prompt |
| `prompt` | the text that the model was given, chat template included |
| `prompt_id` | `sentence_id` of the prompt in its corpus |
| `greedy` | whether each token is the most likely one; drawn at random otherwise |
| `prompt_tokens` | how many of the tokens belong to the prompt |
| `tokens` | token ids as the model saw them: of the prompt, then those generated |
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from onejump.base.files import read_table
from onejump.base.identity import one_model
from onejump.data.corpus import describe_splits, write_splits

COLUMNS = ("document", "sentence", "split", "prompt", "prompt_id", "greedy", "prompt_tokens", "tokens")
"""Of the table of a shard."""

_LOG = logging.getLogger(__name__)


def collect_texts(table: Path, summary: Path, texts: Sequence[Path]) -> None:
    """The stage: write the texts of all shards as one table.

    A split of few documents is warned of in the log.

    Parameters
    ----------
    table : Path
        To write.
    summary : Path
        A JSON file to write: what `onejump.data.corpus.describe_splits` says of the splits.
    texts : sequence of Path
        Tables of `onejump.runtime.generated_corpus.generate_texts`, of all shards of both splits.
    """
    model_digest = one_model(*texts)
    # Training comes before validation, by the alphabet too.
    found = pd.concat([read_table(path) for path in texts]).sort_values(["split", "prompt_id"])
    found = found.reset_index(drop=True)[list(COLUMNS)]
    found.insert(0, "sentence_id", np.arange(len(found), dtype=np.int64))
    lengths = found["tokens"].map(len) - found["prompt_tokens"]
    for split, of_split in lengths.groupby(found["split"]):
        _LOG.info("%s: %d texts of %.1f generated tokens", split, len(of_split), of_split.mean())
    write_splits(table, summary, found, describe_splits(found), model_digest=model_digest)
