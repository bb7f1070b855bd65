"""Notes on numbers that rest on few samples."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from stage_files import describe_as, select

from onejump.base.files import write_json, write_table
from onejump.data.corpus import SUMMARY
from onejump.fitting.few_samples import few_samples
from onejump.scoring.notes import notes_of, write_notes

REGRESSIONS = ("jtc", "njtc", "n-njtc", "residual")


@pytest.mark.parametrize(
    ("samples", "said"),
    [(30, "fit to at most H samples"), (33, "too few to predict other samples; at least 64"), (64, "")],
)
def test_a_regression_on_few_samples_is_told(samples: int, said: str) -> None:
    note = few_samples("jtc", samples, 32)
    assert said in note
    assert bool(note) == bool(said)
    assert not said or f"jtc: fitted to {samples} samples of H = 32" in note


def test_notes_of_a_pair_come_from_its_tables(tmp_path: Path) -> None:
    pair = tmp_path / "corpus"
    assert list(notes_of(pair, REGRESSIONS)) == []
    describe_as(tmp_path / "model.json", hidden=32)
    select(pair / "selection.json", computed_from={"samples": 20})
    write_table(pair / "evaluation.parquet", pd.DataFrame({"method": ["identity", "n-njtc", "ojfa", "jtc"]}))
    (note,) = notes_of(pair, REGRESSIONS)
    assert note.startswith("jtc, n-njtc: fitted to 20 samples")
    select(pair / "selection.json", computed_from={"samples": 64})
    savings = {"method": ["jtc", "jtc", "ojfa", "ojfa"], "note": ["", "too few", "too few", "a guess"]}
    write_table(pair / "early-exit" / "savings.parquet", pd.DataFrame(savings))
    notes = list(notes_of(pair, REGRESSIONS))
    assert notes == ["early exit of jtc, ojfa: too few", "early exit of ojfa: a guess"]
    split = {"sentences": 60, "documents": 15, "largest_share": 0.1}
    write_json(tmp_path / "corpus.json", {"validation": split}, SUMMARY)
    written = tmp_path / "notes.txt"
    for path, said in ((pair / "early-exit" / "savings.parquet", notes), (None, [])):
        write_notes(
            written,
            summary=tmp_path / "corpus.json",
            description=tmp_path / "model.json",
            selection=pair / "selection.json",
            evaluation=pair / "evaluation.parquet",
            savings=path,
            regressions=REGRESSIONS,
        )
        first, *others = written.read_text(encoding="utf-8").splitlines()
        assert first.startswith("validation: 60 sentences of 15 documents: under 30 documents")
        assert others == said
