"""The command: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from projects import ROOT
from stage_files import describe_as

from onejump.base.files import write_json
from onejump.cli.main import main
from onejump.data.corpus import SUMMARY
from onejump.study.reading import load_study

STUDY = """\
study: mine  # a comment
models: {m: {hub: some/model}}
corpora: {c: {path: text.txt, training: 10, validation: 5}}
shortcuts: {n-njtc: }
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.yaml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "text.txt").write_text("Words.", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_a_valid_study_is_said_to_be(here: Path) -> None:
    said = "The study mine is valid: 1 model, 1 corpus, shortcuts n-njtc.\n"
    assert run("check", "mine.yaml") == (0, said, "")
    assert run("check", "mine.yaml", "--name") == (0, "mine\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nope.yaml"], "Error: nope.yaml: no such study file\n"),
        (["check"], "Error: config.yaml: no such study file\n"),
        (["check", "."], "Error: .: a study file was expected, this is a folder\n"),
        (
            ["check", "mine.yaml", "-C", "selection.method=jtc"],
            "Error: --config: selection.method: 'jtc' given, accepted is 'njtc' or 'n-njtc'\n",
        ),
        (
            ["check", "mine.yaml", "-C", "corpora.c.path=nowhere"],
            "Error: corpora.c.path: 'nowhere' given, but there is no such file or folder ({here}/nowhere)\n",
        ),
        (
            ["summary", "mine.yaml"],
            "Error: results/mine/m/c: no results yet; run the study first: onejump run STUDY\n",
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr(here: Path, arguments: list[str], said: str) -> None:
    assert run(*arguments) == (1, "", said.format(here=here))


def test_a_run_is_snakemake_with_a_study_that_was_checked(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, command: started.append(command[1:]))
    # In a folder without a Snakefile, that of the checkout which this library is imported from.
    assert run("run", "mine.yaml") == (0, "", "")
    assert started.pop()[2:4] == ["--snakefile", str(ROOT / "Snakefile")]
    assert run("run", "mine.yaml", "-s", "theirs") == (0, "", "")
    assert started.pop()[2:] == ["--configfile", "mine.yaml", "--rerun-incomplete", "-s", "theirs"]
    (here / "Snakefile").touch()
    settings = ["-C", "selection.metric=mse", "-C", "seed=3"]
    assert run("run", "mine.yaml", *settings, "-n", "--until", "corpus") == (0, "", "")
    [command] = started
    assert command == [
        *("-m", "snakemake", "--configfile", "mine.yaml"),
        *("--config", 'selection={"metric": "mse"}', "seed=3"),
        *("--rerun-incomplete", "-n", "--until", "corpus"),
    ]
    # What Snakemake hands on is read as it was given.
    handed = load_study("mine.yaml", settings=command[5:7])
    assert (handed.selection.metric, handed.seed) == ("mse", 3)
    status, _, said = run("run", "mine.yaml", "-C", "seed=x")
    assert (status, said) == (1, "Error: --config: seed: 'x' given, accepted is a whole number\n")
    assert len(started) == 1


def test_a_file_where_results_go_is_named(here: Path) -> None:
    (here / "resources").touch()
    said = "Error: resources: a folder was expected, but a file has that name: move it away\n"
    assert run("check", "mine.yaml") == (1, "", said)


def test_a_file_called_results_is_named(here: Path) -> None:
    (here / "results").touch()
    status, printed, said = run("summary", "mine.yaml")
    assert (status, printed) == (2, "")
    assert "Invalid value for '--results': Directory 'results' is a file." in said


def test_ranks_are_held_against_an_earlier_run(here: Path) -> None:
    describe_as(here / "results/mine/m/model.json", blocks=3, hidden=8)
    status, _, said = run("check", "mine.yaml", "-C", "shortcuts.n-njtc.rank=9")
    assert (status, said.splitlines()) == (
        1,
        ["Error: shortcuts.n-njtc.rank: 9 given, 1 to H = 8 accepted for m, or a part of H below 1"],
    )


def test_the_summary_warns_of_splits_of_few_documents(here: Path) -> None:
    many = {"sentences": 10, "documents": 10, "largest_share": 0.1}
    few = {"sentences": 5, "documents": 2, "largest_share": 0.6}
    write_json(here / "results/mine/corpora/c.json", {"training": many, "validation": few}, SUMMARY)
    _, printed, _ = run("summary", "mine.yaml")
    assert "warning: c, validation: 5 sentences of 2 documents: under " in printed


def test_examples_in_the_help_are_commands() -> None:
    pages = [run("--help"), *(run(name, "--help") for name in main.commands)]
    assert all(status == 0 for status, _, _ in pages)
    printed = "".join(page for _, page, _ in pages).replace("\\\n", " ")
    examples = re.findall(r"^  +onejump ((?:(?!  ).|(?<=yaml)  +(?=--))+)", printed, re.M)
    assert len(examples) > 10
    for example in examples:
        name, *arguments = shlex.split(example)
        command = main.commands[name]
        parsed = command.make_context(name, arguments).params
        assert str(parsed.get("study", "a.yaml")).endswith(".yaml"), example


def test_help_fits_a_terminal() -> None:
    for name in ("", *main.commands):
        _, printed, _ = run(*([name] if name else []), "--help")
        assert max(map(len, printed.splitlines())) <= 80, name
        assert "..." not in printed.partition("Commands:")[2], "a summary that is cut off"


def test_the_schema_is_json() -> None:
    assert json.loads(run("schema")[1])["title"] == "Study"


def test_ctrl_c_ends_without_a_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onejump.planning.sources.check_sources", interrupted)
    assert run("check", "mine.yaml") == (1, "", "\nAborted!\n")
