"""What to know about the numbers of a study that rest on few samples, in a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from onejump.base.files import read_json, read_table
from onejump.base.format import SELECTION
from onejump.fitting.few_samples import few_samples
from onejump.models.description import read_description


def notes_of(pair: Path, regressions: Sequence[str]) -> Iterator[str]:
    """Write notes on the results of a model and a corpus, as far as these are there.

    Parameters
    ----------
    pair : Path
        The folder of a model and a corpus, which lies in that of the model.
    regressions : sequence of str
        Kinds that are fitted to each level alone by a regression on all H coordinates.
    """
    described, selection, evaluation = (
        pair.parent / "model.json",
        pair / "selection.json",
        pair / "evaluation.parquet",
    )
    if all(path.is_file() for path in (described, selection, evaluation)):
        evaluated = set(read_table(evaluation)["method"])
        methods = ", ".join(method for method in regressions if method in evaluated)
        samples = read_json(selection, SELECTION)["computed_from"]["samples"]
        if methods and (note := few_samples(methods, samples, read_description(described).hidden)):
            yield note
    savings = pair / "early-exit" / "savings.parquet"
    if savings.is_file():
        table = read_table(savings)
        for text, of_note in table[table["note"] != ""].groupby("note", sort=False):
            yield f"early exit of {', '.join(of_note['method'].unique())}: {text}"
