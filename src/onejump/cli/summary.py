"""The results of a study as text: the selected jumps, their scores, and where figures and report are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onejump.base.errors import OneJumpError
from onejump.base.files import read_json, read_table
from onejump.base.format import SELECTION
from onejump.study.kinds import REGRESSIONS
from onejump.study.study import Study

_METRICS = ("precision@1", "surprisal", "kl", "r2")


def headlines(study: Study, results: Path) -> list[str]:
    """Name the selected jump of each model and corpus, and the folder of its results, in a line each.

    Parameters
    ----------
    study : Study
    results : path
        Folder of all results.

    Returns
    -------
    list of str
        One line for each model and corpus that has a selection.
    """
    lines = []
    for model, corpus, pair in _pairs(study, results):
        if (pair / "selection.json").is_file():
            chosen = read_json(pair / "selection.json", SELECTION)
            origin = chosen["computed_from"]
            lines.append(
                f"{model} on {corpus}: the selected jump is from level {chosen['jump']} (levels 0 to "
                f"{origin['levels'] - 1}, kind {origin['method']}); results are in {pair}/"
            )
    return lines


def summarise(study: Study, results: Path) -> Iterator[str]:
    """Give the lines that `onejump summary` prints.

    Raises
    ------
    OneJumpError
        If a model or corpus has no results yet. It is raised after all lines of the others.
    """
    missing = []
    yield from headlines(study, results)
    yield from warnings_of(study, results)
    for model, corpus, pair in _pairs(study, results):
        if not (pair / "selection.json").is_file() or not (pair / "evaluation.parquet").is_file():
            missing.append(f"{pair}: no results yet; run the study first: onejump run STUDY")
            continue
        yield ""
        yield f"{model} on {corpus}"
        yield f"  {_score_line(read_json(pair / 'selection.json', SELECTION))}"
        yield "  on validation samples, mean over all levels:"
        yield from _table(pair / "evaluation.parquet")
        for figure in sorted((pair / "figures").glob("*.svg")):
            yield f"figure   {figure}"
        for kept in sorted((pair / "export").glob("*/config.json")):
            yield f"export   {kept.parent}"
    report = results / study.study / "report.html"
    if report.is_file():
        yield ""
        yield f"report   {report}"
    if missing:
        raise OneJumpError("\n".join(missing))


def warnings_of(study: Study, results: Path) -> Iterator[str]:
    """Warn, in a line each, of splits of few documents and of results that rest on few samples."""
    from onejump.data.corpus import SUMMARY, warnings_of_splits
    from onejump.scoring.notes import notes_of

    described = {
        corpus: results / study.study / "corpora" / f"{corpus}.json"
        for corpus, source in study.corpora.items()
        if source.is_text
    }
    for model, corpus, pair in _pairs(study, results):
        if corpus not in described:
            described[f"{model} on {corpus}"] = pair / "corpus.json"
    for name, path in described.items():
        if path.is_file():
            yield from (f"warning: {name}, {line}" for line in warnings_of_splits(read_json(path, SUMMARY)))
    for model, corpus, pair in _pairs(study, results):
        yield from (f"warning: {model} on {corpus}, {note}" for note in notes_of(pair, REGRESSIONS))


def _pairs(study: Study, results: Path) -> Iterator[tuple[str, str, Path]]:
    for model in study.models:
        for corpus in study.corpora:
            yield model, corpus, results / study.study / model / corpus


def _table(path: Path) -> Iterator[str]:
    table = read_table(path)
    table = table[~table["method"].str.startswith("arbitrary")]
    means = table.groupby(["method", "metric"], sort=False)["value"].mean()
    methods = list(dict.fromkeys(table["method"]))
    width = max(map(len, ("method", *methods)))
    yield f"    {'method':<{width}}" + "".join(f"{name:>14}" for name in _METRICS)
    for method in methods:
        # A distilled kind has no r2.
        found = (means.get((method, metric)) for metric in _METRICS)
        shown = "".join(f"{'-':>14}" if value is None else f"{value:>14.3f}" for value in found)
        yield f"    {method:<{width}}{shown}"


def _score_line(chosen: dict[str, Any]) -> str:
    origin = chosen["computed_from"]
    line = f"score of the selected jump: {chosen['score']:.4f} ({origin['metric']}, mean over "
    line += f"{origin['samples']} samples x {origin['levels']} levels)"
    if chosen["margin"] is not None:
        line += f", {chosen['margin']:.4f} ahead of the jump from level {chosen['ranking'][1]['jump']}"
    return line
