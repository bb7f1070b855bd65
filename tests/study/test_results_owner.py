"""A results folder knows the study file that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from onejump.base.errors import StudyError
from onejump.base.format import Format
from onejump.study.results_owner import check_owner, write_owner

RESULTS = Path("results/mine")


def write_study(path: str, name: str, **changes: object) -> None:
    content = {
        "study": name,
        "models": {"m": {"hub": "someone/model"}},
        "corpora": {"c": {"path": "text.txt", "training": 10, "validation": 5}},
        "shortcuts": {"n-njtc": {}},
    }
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(yaml.safe_dump(content | changes), encoding="utf-8")


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_study("mine.yaml", "mine")
    check_owner(RESULTS, ["mine.yaml"])
    write_owner(RESULTS, ["mine.yaml"])


def test_a_copy_that_kept_the_name_is_refused() -> None:
    write_study("studies/copy.yaml", "mine", seed=1)
    with pytest.raises(StudyError) as refused:
        check_owner(RESULTS, ["studies/copy.yaml"])
    for named in ("'mine' given in studies/copy.yaml", "results of mine.yaml", "results/mine/study.json"):
        assert named in str(refused.value)
    # As the message says.
    (RESULTS / "study.json").unlink()
    check_owner(RESULTS, ["studies/copy.yaml"])


def test_changing_a_study_and_running_it_again_is_silent() -> None:
    write_study("mine.yaml", "mine", seed=1)
    check_owner(RESULTS, ["mine.yaml"])


def test_a_study_file_that_moves_takes_its_results_along() -> None:
    Path("studies").mkdir()
    Path("mine.yaml").rename("studies/renamed.yaml")
    check_owner(RESULTS, ["studies/renamed.yaml"])
    write_owner(RESULTS, ["studies/renamed.yaml"])
    write_study("mine.yaml", "mine")
    with pytest.raises(StudyError, match=r"studies/renamed\.yaml, which has the same name"):
        check_owner(RESULTS, ["mine.yaml"])


def test_results_are_free_once_their_study_has_another_name() -> None:
    write_study("mine.yaml", "other")
    write_study("copy.yaml", "mine")
    check_owner(RESULTS, ["copy.yaml"])


def test_an_owner_that_cannot_be_read_keeps_its_results() -> None:
    Path("mine.yaml").write_text("study: [", encoding="utf-8")
    write_study("copy.yaml", "mine")
    with pytest.raises(StudyError, match=r"mine\.yaml"):
        check_owner(RESULTS, ["copy.yaml"])


def test_an_owner_that_an_older_onejump_wrote_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(Format, "statement", lambda *_: {})
        write_owner(RESULTS, ["other.yaml"])
    check_owner(RESULTS, ["mine.yaml"])
    write_owner(RESULTS, ["mine.yaml"])
    write_study("copy.yaml", "mine")
    with pytest.raises(StudyError, match=r"results of mine\.yaml"):
        check_owner(RESULTS, ["copy.yaml"])
