"""What the page finds in a results folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import ROOT

from onejump.app.study_results import WHOLE_STUDY, StudyResults, figures_html
from onejump.base.errors import OneJumpError


def test_places_figures_and_tables_are_found(study_folder: Path) -> None:
    results = StudyResults(study_folder)
    assert list(results.places()) == ["tiny on plain-text", WHOLE_STUDY]
    # In the order of the report; a picture of pixels where there is one.
    drawn = results.drawings("tiny on plain-text")
    assert [one.file.name for one in drawn] == ["selected.png", "methods.svg"]
    assert [one.name for one in results.drawings(WHOLE_STUDY)] == ["cross-scale"]
    assert list(results.tables("tiny on plain-text")) == ["evaluation", "analysis"]
    assert results.tables(WHOLE_STUDY) == {}
    assert results.pages("tiny on plain-text") == {"lens": study_folder / "tiny/plain-text/lens.html"}
    assert results.pages(WHOLE_STUDY) == {}


def test_captions_are_those_of_the_report(study_folder: Path) -> None:
    selected, methods = StudyResults(study_folder).drawings("tiny on plain-text")
    assert "for <b>tiny</b> on <b>plain-text</b>" in selected.caption
    assert methods.caption.startswith("<p>Every method of the study small by exit level")
    html = figures_html([selected, methods])
    assert (html.count("data:image/png;base64,"), html.count("data:image/svg+xml;base64,")) == (1, 1)


@pytest.mark.parametrize("file", sorted((ROOT / "workflow/report").glob("*.rst")), ids=lambda file: file.stem)
def test_every_caption_but_that_of_the_whole_report_can_be_shown(study_folder: Path, file: Path) -> None:
    caption = StudyResults(study_folder)._caption(file.stem, "a<b", "c")
    assert bool(caption) == (file.stem != "workflow")
    assert "{" not in caption
    assert "a<b" not in caption


@pytest.mark.parametrize("text", ["{{ snakemake.rule }}", "{% nothing %}", "{{ 1 / 0 }}"])
def test_a_caption_that_asks_for_more_is_left_out(study_folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "selected.rst").write_text(text, encoding="utf-8")
    assert StudyResults(study_folder, tmp_path).drawings("tiny on plain-text")[0].caption == ""


def test_a_long_table_is_cut_and_says_how_long_it_is(study_folder: Path) -> None:
    shown, rows = StudyResults(study_folder).table("tiny on plain-text", "evaluation")
    assert (len(shown), rows) == (1000, 1500)
    assert shown["value"].tolist() == [0.3333] * 1000
    assert shown["level"].tolist() == list(range(1000))


def test_only_files_of_the_study_can_be_asked_for(study_folder: Path) -> None:
    results = StudyResults(study_folder)
    for place in ("../small", "tiny", "/etc", ""):
        with pytest.raises(OneJumpError, match="accepted is tiny on plain-text, all models"):
            results.drawings(place)
    with pytest.raises(OneJumpError, match=r"table '../evaluation' given, accepted is evaluation, analysis"):
        results.table("tiny on plain-text", "../evaluation")
    with pytest.raises(OneJumpError, match=r"page '../../report' given, accepted is lens"):
        results.page("tiny on plain-text", "../../report")


def test_a_folder_that_is_none_of_a_study_is_refused(study_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OneJumpError, match="no figure or table of a study is there"):
        StudyResults(tmp_path)
    with pytest.raises(OneJumpError, match="no such folder"):
        StudyResults(tmp_path / "nothing")
    with pytest.raises(OneJumpError, match="no figure or table of a study is there"):
        StudyResults(study_folder.parent)
