"""The stage "mixture": a corpus that is made of texts of other corpora, as every stage takes it.

Its parts are corpora of sentences and corpora of text that the model wrote. Each part gives a share of the
texts of both splits: its own first ones, so that a mixture has as many documents as possible.

No document is on both sides. Parts of one source (a corpus, another one from the same file, and what the
model wrote with sentences of either as prompts) name a document alike, and a document that gives a training
text to one part gives no validation text to another part. As the roles of training documents are drawn by
their names too, a document for thresholds in one part is one in all parts. A sentence that two parts have
counts once.

The table has the columns of a corpus, and `part`, the corpus that the text is from. If a part is generated,
it also has the columns of `onejump.data.generated_texts`, which are empty for sentences.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from onejump.base.errors import CorpusError
from onejump.base.files import read_table
from onejump.base.identity import one_model
from onejump.base.shares import divided
from onejump.data.corpus import describe_splits, write_splits
from onejump.data.sides import normalised

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A corpus that gives texts to a mixture."""

    corpus: str
    """Its name."""
    share: float
    """How many texts it gives, in relation to the shares of the other parts."""
    source: str
    """Corpora of one source have one name here. Their documents are the same ones if they are named alike."""


def mixed(
    tables: Sequence[pd.DataFrame], parts: Sequence[Part], *, training: int, validation: int
) -> pd.DataFrame:
    """Mix the texts of several corpora.

    Parameters
    ----------
    tables : sequence of DataFrame
        Of the corpora: of sentences, or of generated texts.
    parts : sequence of Part
        Of the same corpora.
    training, validation : int
        How many texts each split has.

    Returns
    -------
    DataFrame
        As in the module's docstring. The texts of the parts alternate, as their shares ask for.

    Raises
    ------
    CorpusError
        If a part has too few texts that may be taken, or holds pairs or labels.
    """
    for part, table in zip(parts, tables, strict=True):
        given = {"target": "pairs", "label": "texts with labels"}
        for column in given.keys() & set(table.columns):
            raise CorpusError(
                f"{part.corpus}: {given[column]} given, a mixture takes sentences and generated text"
            )
    taken: set[str] = set()
    on_training: set[str] = set()
    chosen = []
    for split, texts in (("training", training), ("validation", validation)):
        counts = divided([part.share for part in parts], texts)
        of_split = []
        for part, table, count in zip(parts, tables, counts, strict=True):
            # Documents of generated text are those of its prompts, which are named in the same way.
            named = table.assign(part=part.corpus, document=part.source + ": " + table["document"])
            rows = list(_taken(named[named["split"] == split], count, taken, on_training))
            if len(rows) < count:
                raise CorpusError(
                    f"{part.corpus}: a mixture takes {count} of its {split} texts, and {len(rows)} were "
                    "found that no other part has, of documents that are on this side alone: ask for fewer, "
                    "or give the part a smaller share"
                )
            found = named.loc[rows]
            of_split.append(found.assign(turn=(np.arange(count) + 0.5) / max(count, 1)))
        together = pd.concat(of_split).sort_values("turn", kind="stable").drop(columns="turn")
        if split == "training":
            on_training = set(together["document"])
        chosen.append(together)
    table = pd.concat(chosen, ignore_index=True)
    table["sentence_id"] = np.arange(len(table), dtype=np.int64)
    # What a sentence does not have is missing, and whole numbers stay whole.
    numbers = {"prompt_id": "Int64", "prompt_tokens": "Int32", "greedy": "boolean"}
    table = table.astype({column: kind for column, kind in numbers.items() if column in table.columns})
    for column in {"prompt", "tokens"} & set(table.columns):
        table[column] = table[column].astype(object).where(table[column].notna(), None)
    return table


def _taken(table: pd.DataFrame, count: int, taken: set[str], elsewhere: set[str]) -> Iterator[int]:
    """Go through the index of the first texts that may be taken; they are then taken."""
    generated = "tokens" in table.columns
    for row, document, sentence in zip(table.index, table["document"], table["sentence"], strict=True):
        if count == 0:
            return
        # What a model writes twice is two texts, with prompts of their own.
        text = normalised(sentence)
        if document in elsewhere or (text in taken and not generated):
            continue
        taken.add(text)
        count -= 1
        yield int(row)


def mix_corpora(
    table: Path,
    summary: Path,
    texts: Sequence[Path],
    *,
    parts: Sequence[Part],
    training: int,
    validation: int,
) -> None:
    """The stage: write the mixture.

    Parameters
    ----------
    table : Path
        To write.
    summary : Path
        A JSON file to write: what `onejump.data.corpus.describe_splits` says of the splits.
    texts : sequence of Path
        Tables of the parts.
    parts, training, validation
        As in `mixed`.

    Raises
    ------
    CorpusError
        If a part has too few texts that may be taken.
    OneJumpError
        If two parts were generated by different models.
    """
    model_digest = one_model(*texts)
    found = mixed([read_table(path) for path in texts], parts, training=training, validation=validation)
    for (split, part), rows in found.groupby(["split", "part"], sort=False):
        _LOG.info("%s: %d texts of %s, of %d documents", split, len(rows), part, rows["document"].nunique())
    write_splits(table, summary, found, describe_splits(found), model_digest=model_digest)
