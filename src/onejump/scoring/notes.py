"""What to know about the numbers of a study that rest on few samples, in a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from onejump.base.files import read_json, read_table, replacing
from onejump.base.format import SELECTION
from onejump.data.corpus import SUMMARY, warnings_of_splits
from onejump.fitting.few_samples import few_samples
from onejump.models.description import read_description


def write_notes(
    notes: Path,
    *,
    summary: Path,
    description: Path,
    selection: Path,
    evaluation: Path,
    savings: Path | None,
    regressions: Sequence[str],
) -> None:
    """The stage "notes": write what to know about the results of a model and a corpus, for the report.

    Parameters
    ----------
    notes : Path
        Text file to write, a note in each line; empty where there is nothing to know.
    summary : Path
        What `onejump.data.corpus.build_corpus` says of the splits.
    description : Path
        The model's, with its hidden size.
    selection, evaluation : Path
    savings : Path, optional
        Of the experiment early exit.
    regressions : sequence of str
        Kinds that are fitted to each level alone by a regression on all H coordinates.
    """
    lines = [
        *warnings_of_splits(read_json(summary, SUMMARY)),
        *_notes_of_regressions(description, selection, evaluation, regressions),
        *(_notes_of_early_exit(savings) if savings is not None else ()),
    ]
    with replacing(notes) as fresh:
        fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def notes_of(pair: Path, regressions: Sequence[str]) -> Iterator[str]:
    """Write notes on the results of a model and a corpus, as far as these are there.

    Parameters
    ----------
    pair : Path
        The folder of a model and a corpus, which lies in that of the model.
    regressions : sequence of str
        Kinds that are fitted to each level alone by a regression on all H coordinates.
    """
    description, selection, evaluation = (
        pair.parent / "model.json",
        pair / "selection.json",
        pair / "evaluation.parquet",
    )
    if all(path.is_file() for path in (description, selection, evaluation)):
        yield from _notes_of_regressions(description, selection, evaluation, regressions)
    savings = pair / "early-exit" / "savings.parquet"
    if savings.is_file():
        yield from _notes_of_early_exit(savings)


def _notes_of_regressions(
    description: Path, selection: Path, evaluation: Path, regressions: Sequence[str]
) -> Iterator[str]:
    evaluated = set(read_table(evaluation)["method"])
    methods = ", ".join(method for method in regressions if method in evaluated)
    samples = read_json(selection, SELECTION)["computed_from"]["samples"]
    if methods and (note := few_samples(methods, samples, read_description(description).hidden)):
        yield note


def _notes_of_early_exit(savings: Path) -> Iterator[str]:
    table = read_table(savings)
    for text, of_note in table[table["note"] != ""].groupby("note", sort=False):
        yield f"early exit of {', '.join(of_note['method'].unique())}: {text}"
