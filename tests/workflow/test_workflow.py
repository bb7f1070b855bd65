"""The workflow itself, on a tiny random model: caching, interruption, errors; real snakemake runs."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from projects import PAIR, Project, Study

import onejump
from onejump.cli.main import main
from onejump.study.reading import load_study

FIGURES = {
    "figure_methods",
    "figure_selected",
    "figure_alternatives",
    "figure_scores",
    "figure_parameters",
}

MORE = "{path: text, training: 1, validation: 1}"

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of a finished run, to change."""
    shutil.copytree(finished.folder, tmp_path / "project")
    return Project(tmp_path / "project", finished.python)


def test_a_run_leaves_what_is_promised(finished: Project) -> None:
    pair = finished.folder / PAIR
    selection = json.loads((pair / "selection.json").read_text(encoding="utf-8"))
    assert {"jump", "score", "margin", "ranking", "computed_from"} <= set(selection)
    evaluation = pd.read_parquet(pair / "evaluation.parquet")
    assert list(evaluation.columns) == [
        "model",
        "corpus",
        "method",
        "level",
        "metric",
        "value",
        "stderr",
        "n",
        "documents",
    ]
    assert set(evaluation["method"]) == {
        *("identity", "jtc", "n-njtc", "ojfa", "joint"),
        *("arbitrary-first", "arbitrary-middle", "arbitrary-last", "arbitrary-random-1"),
    }
    metrics = {"precision@1", "precision@5", "precision@10", "surprisal", "r2", "kl"}
    assert set(evaluation["metric"]) == metrics
    assert len(evaluation) == 9 * 4 * len(metrics)
    assert evaluation["value"].notna().all()
    drawn = {path.name for path in (pair / "figures").iterdir()}
    names = ("methods", "selected", "alternatives", "scores", "parameters")
    assert drawn == {f"{name}.{suffix}" for name in names for suffix in ("svg", "png")} | {"selected.csv"}
    shown = pd.read_csv(pair / "figures" / "selected.csv").set_index("shortcut")
    assert shown.index[0].startswith("selected jump (OJFA), level ")
    mean = evaluation.query("method == 'jtc' and metric == 'surprisal'")["value"].mean()
    assert shown.loc["jtc", "surprisal"] == round(mean, 3)
    scores = pd.read_parquet(pair / "scores.parquet")
    assert len(scores) == 3 * 4 * 4


def test_ojfa_is_the_jump_that_the_selection_names(finished: Project) -> None:
    pair = finished.folder / PAIR
    jump = json.loads((pair / "selection.json").read_text(encoding="utf-8"))["jump"]
    table = (
        pd.read_parquet(pair / "evaluation.parquet")
        .set_index(["method", "level", "metric"])["value"]
        .sort_index()
    )
    pd.testing.assert_series_equal(table.loc["ojfa", jump], table.loc["n-njtc", jump])


def test_the_kept_jump_needs_no_other_file_of_the_study(finished: Project, tmp_path: Path) -> None:
    pair = finished.folder / PAIR
    kept = Path(shutil.copytree(pair / "export" / "ojfa", tmp_path / "kept"))
    jump = onejump.OneJump.from_pretrained(kept)
    jump.check_fits(onejump.load_model(str(finished.folder / "tiny-llama"), device="cpu"))
    assert jump.config.level == json.loads((pair / "selection.json").read_text(encoding="utf-8"))["jump"]
    assert (jump.config.study, jump.config.license) == ("tiny", None)
    table = pd.read_parquet(pair / "evaluation.parquet").query("method == 'ojfa'")
    of_metric = table[table["metric"] == "precision@1"].sort_values("level")
    assert jump.config.scores["precision@1"] == of_metric["value"].tolist()
    for figure in ("selected", "methods"):
        assert jump.figures[f"{figure}.png"] == (pair / "figures" / f"{figure}.png").read_bytes()
        assert f"(figures/{figure}.png)" in jump.card


def test_another_method_to_keep_exports_that_method_only(project: Project) -> None:
    project.study |= {"export": {"methods": ["joint", "ojfa"]}}
    assert project.planned() == {"export": 1, "all": 1, "total": 2}
    project.study |= {"export": {"methods": ["joint", "ojfa"], "license": "apache-2.0"}}
    before = (project.folder / PAIR / "export/ojfa/model.safetensors").read_bytes()
    project.snakemake()
    kept = [onejump.OneJump.from_pretrained(project.folder / PAIR / f"export/{m}") for m in ("joint", "ojfa")]
    assert [jump.config.license for jump in kept] == ["apache-2.0"] * 2
    assert [jump.config.level is None for jump in kept] == [True, False]
    assert (project.folder / PAIR / "export/ojfa/model.safetensors").read_bytes() == before


def test_short_jobs_leave_the_other_cores_to_one_another(finished: Project) -> None:
    def threads(log: Path) -> int:
        return int(re.search(r"threads: (\d+)", (finished.folder / log).read_text(encoding="utf-8"))[1])

    stages = ("scores", "shortcuts/jtc", "evaluation/ojfa", "activations/training-0")
    assert {threads(PAIR / "logs" / f"{stage}.log") for stage in stages} == {1}
    # How much a model's own job has to do is not known before it is done.
    assert threads(PAIR.parent.parent / "logs/model/tiny-llama.log") == 2


MODULE = """\
configfile: "study.yaml"

module onejump:
    snakefile: "{checkout}/workflow/Snakefile"
    config: config

use rule * from onejump as onejump_*
"""


def test_a_second_run_does_nothing(project: Project) -> None:
    assert "Nothing to be done" in project.snakemake("-n")


def test_a_run_from_another_folder_or_workflow_is_the_same_run(project: Project, tmp_path: Path) -> None:
    elsewhere = Project(tmp_path / "elsewhere", project.python)
    elsewhere.folder.mkdir()
    for name in ("results", "text", "tiny-llama", "study.yaml"):
        shutil.move(project.folder / name, elsewhere.folder)
    figure = elsewhere.folder / PAIR / "figures/scores.svg"
    figure.unlink()
    # Jobs import the library that lies beside the rules.
    with (project.folder / "src/onejump/figures/drawing.py").open("a", encoding="utf-8") as module:
        module.write("\nPath('imported.txt').write_text(__file__)\n")
    (elsewhere.folder / "workflow").mkdir()
    (elsewhere.folder / "workflow/Snakefile").write_text(MODULE.format(checkout=project.folder))
    elsewhere.snakemake()
    assert figure.is_file()
    imported = (elsewhere.folder / "imported.txt").read_text(encoding="utf-8")
    assert imported == str(project.folder / "src/onejump/figures/drawing.py")
    assert "Nothing to be done" in elsewhere.snakemake("-n", "-s", str(project.folder / "Snakefile"))


def test_a_figure_option_redraws_that_figure_only(project: Project) -> None:
    project.study |= {"figures": {"scores": {"colormap": "viridis"}}}
    assert project.planned() == {"figure_scores": 1, "all": 1, "total": 2}


def test_the_selection_metric_reruns_selection_and_what_follows(project: Project) -> None:
    project.study |= {"selection": {"metric": "mse"}}
    assert set(project.planned()) == {
        *("selection", "evaluate", "evaluation", "parameters", "notes", "export", "all", "total"),
        *FIGURES,
    }
    assert project.planned()["evaluate"] == 2  # ojfa and the arbitrary choices


def test_a_solver_reruns_that_methods_fits_and_what_follows(project: Project) -> None:
    study = project.study
    study["shortcuts"]["joint"] |= {"solver": "gradient"}
    project.study = study
    planned = project.planned()
    assert planned["shortcuts"] == 1
    assert planned["evaluate"] == 1
    follows = {"evaluation", "parameters", "notes", "export", *FIGURES - {"figure_scores"}}
    assert set(planned) == {"shortcuts", "evaluate", "all", "total", *follows}


def test_another_method_leaves_the_fits_alone(project: Project) -> None:
    study = project.study
    study["shortcuts"]["njtc"] = {"rank": 3}
    project.study = study
    planned = project.planned()
    assert planned["shortcuts"] == 1
    assert planned["evaluate"] == 1
    assert not {"activations", "scores", "selection"} & set(planned)


def test_distilled_kinds_are_kinds_like_any_other(project: Project) -> None:
    study = project.study
    brief = {"steps": 10, "batch": 16}
    study["shortcuts"] |= {"residual": {"rank": 3}, "distilled": {"rank": 3} | brief, "affine": brief}
    study["shortcuts"]["one-jump"] = {"rank": 3} | brief
    study["evaluation"] |= {"normalised": True}
    project.study = study
    planned = project.planned()
    assert (planned["shortcuts"], planned["distillation"]) == (1, 3)
    assert planned["evaluate"] == 6
    assert not {"activations", "scores", "selection"} & set(planned)
    wanted = ("evaluation.parquet", "parameters.parquet", "distilled-selection.json")
    project.snakemake("--", *(str(PAIR / name) for name in wanted))
    methods = {"residual", "distilled", "one-jump", "affine", "ojfa-normalised"}
    methods |= {"ojfa-distilled", "ojfa-distilled-surprisal"}
    tables = {name: pd.read_parquet(project.folder / PAIR / name) for name in wanted[:2]}
    assert methods <= set(tables["evaluation.parquet"]["method"])
    assert tables["evaluation.parquet"]["value"].notna().all()
    numbers = tables["parameters.parquet"].set_index("method")["numbers"]
    hidden, levels, rank = 32, 4, 3
    assert numbers["one-jump"] == 2 * hidden * rank + hidden + levels * (rank + rank**2)
    assert numbers["distilled"] == levels * numbers["ojfa-distilled"]
    shortcuts = load_study(project.folder / "study.yaml").shortcuts
    for kind in shortcuts.names():
        assert numbers[kind] == shortcuts.kind(kind).numbers(hidden, levels), kind
    selection = json.loads((project.folder / PAIR / "distilled-selection.json").read_text())
    assert selection["by_metric"]["signed-squared-cosine"] == selection["jump"]
    assert selection["by_metric"]["surprisal"] in range(levels)

    study["shortcuts"]["one-jump"] |= {"steps": 20}
    project.study = study
    planned = project.planned()
    assert (planned["shortcuts"], planned["distillation"], planned["evaluate"]) == (0, 1, 1)

    study["shortcuts"]["one-forward"] = {"rank": 3} | brief
    study["export"] = {"methods": ["one-forward"], "targets": [0.5]}
    project.study = study
    planned = project.planned()
    assert planned["activations"] > 0, "they keep a state more"
    forward = [
        str(PAIR / name) for name in ("evaluation/one-forward.parquet", "calibration/one-forward.json")
    ]
    project.snakemake("--", *forward)
    measured = pd.read_parquet(project.folder / forward[0])
    assert measured["value"].notna().all()
    assert set(measured["level"]) == set(range(levels))


def test_figures_that_are_asked_for_bring_what_they_need(project: Project) -> None:
    study = project.study
    study["shortcuts"]["affine"] = {"steps": 10, "batch": 16}
    others = dict.fromkeys(["methods", "selected", "alternatives", "scores", "parameters"], False)
    names = ("limit", "pareto", "spaces", "ranks", "lens")
    study["figures"] = others | {name: {} for name in names}
    study["figures"]["lens"] = {
        "prompts": ["The old farmer", "river"],
        "methods": ["identity", "ojfa"],
    }
    project.study = study
    planned = project.planned()
    assert planned["analysis"] == planned["lens"] == 1
    assert {rule for rule in planned if rule.startswith("figure_")} == {f"figure_{name}" for name in names}
    output = project.snakemake()
    assert f"\nJob {sum(planned.values()) - planned['total']} of {planned['total']}: all\n" in output
    selected = r"the selected jump is from level \d \(levels 0 to 3, kind n-njtc\)"
    assert re.search(rf"{selected}; results are in {PAIR}/\n", output)
    assert "\nReason: " not in output
    assert f"results are in {PAIR}/" in project.snakemake(), "where nothing was to be done, too"
    drawn = {path.name for path in (project.folder / PAIR / "figures").iterdir()}
    assert {f"{name}.{suffix}" for name in names for suffix in ("svg", "png")} <= drawn
    assert "Plotly.newPlot" in (project.folder / PAIR / "lens.html").read_text(encoding="utf-8")
    # The page of the lens is a file of the report. In the report's own text it would end its script.
    project.snakemake("--report", "report.zip")
    with zipfile.ZipFile(project.folder / "report.zip") as archive:
        assert [name for name in archive.namelist() if name.endswith("/lens.html")]
        front = archive.read("report/report.html").decode("utf-8")
    described = front.split('<script id="workflow-desc">')[1].split("</script>")[0]
    text = json.loads(described.strip().removeprefix("var workflow_desc = ").removesuffix(";"))
    assert "More figures: tiny-llama on" in text
    assert "Plotly" not in text
    looked = pd.read_parquet(project.folder / PAIR / "lens.parquet")
    assert set(looked["shortcut"]) == {"identity", "ojfa"}
    study["figures"]["spaces"] = {"colormap": "viridis"}
    project.study = study
    assert project.planned() == {"figure_spaces": 1, "all": 1, "total": 2}


def test_another_model_is_run_alone(project: Project) -> None:
    study = project.study
    study["models"]["second"] = {"folder": "tiny-llama", "dtype": "bfloat16"}
    project.study = study
    plan = project.snakemake("-n")
    missing = re.findall(r"^Reason: Missing output files: ([^;\n]+)", plan, re.M)
    assert len(missing) > 10
    assert all(name.startswith("results/tiny/second/") for line in missing for name in line.split(", "))
    assert "corpus" not in project.planned()


def test_text_that_a_model_generates_is_a_corpus_like_any_other(project: Project) -> None:
    generated = {"prompts": "stories", "prompt_tokens": 6, "new_tokens": 8, "positions": 2}
    told = {"generated": generated, "training": 80, "validation": 20}
    study = project.study
    study["corpora"]["told"] = told
    study["experiments"] = {"transfer": {"methods": ["n-njtc"]}}
    project.study = study
    planned = project.planned()
    # A shard has the 100 samples of other corpora, in 50 texts.
    expected = {"generation": 3, "generated_corpus": 1, "generated_document_roles": 1, "activations": 3}
    assert expected.items() <= planned.items()
    assert planned["transfer_evaluate"] == 2
    assert not {"corpus", "document_roles", "model"} & set(planned), "they are there"
    pair = PAIR.parent / "told"
    target = f"{pair}/evaluation/n-njtc.parquet"
    project.snakemake("--", target)
    texts = pd.read_parquet(project.folder / pair / "corpus.parquet")
    assert texts["split"].value_counts().to_dict() == {"training": 80, "validation": 20}
    evaluated = pd.read_parquet(project.folder / target)
    new = texts["tokens"].map(len) - texts["prompt_tokens"]
    assert set(evaluated["n"]) == {new[texts["split"] == "validation"].clip(upper=2).sum()}
    assert set(evaluated["documents"]) == {texts.loc[texts["split"] == "validation", "document"].nunique()}
    study["corpora"]["told"]["generated"] = generated | {"temperature": 1.5}
    # Another model generates text of its own.
    study["models"]["other"] = {"folder": "tiny-llama", "dtype": "bfloat16"}
    project.study = study
    again = project.planned("--", target)
    fitted = {"shortcuts": 1, "evaluate": 1}
    assert again == {**expected, **fitted, "total": 10}
    others = project.planned("--", target.replace("tiny-llama", "other"))
    assert (others["generation"], others["model"]) == (3, 1)


def test_tables_that_were_deleted_are_made_again(project: Project) -> None:
    for name in ("scores", "evaluation", "parameters"):
        (project.folder / PAIR / f"{name}.parquet").unlink()
    assert {"scores", "evaluation", "parameters"} <= set(project.planned())


def test_of_a_folder_the_content_counts_and_no_date(project: Project) -> None:
    weights = project.folder / "tiny-llama/model.safetensors"
    weights.touch()
    (project.folder / "text/document-003.txt").touch()
    assert "Nothing to be done" in project.snakemake("-n"), "the same content with other dates"
    date = weights.stat().st_mtime - 10000
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    # Another checkpoint that was moved here keeps its date, older than all results.
    os.utime(weights, (date, date))
    planned = project.planned()
    assert (planned["model"], planned["activations"], planned["corpus"]) == (1, 3, 0)


def test_compute_options_rerun_nothing(project: Project) -> None:
    project.study |= {"compute": {"device": "cpu", "batch_tokens": 128}}
    assert "Nothing to be done" in project.snakemake("-n")


@pytest.mark.parametrize(
    ("module", "reruns", "spares"),
    [
        ("scoring/selection", {"selection"}, {"activations", "shortcuts", "scores", "corpus", "model"}),
        ("data/corpus", {"corpus", "activations", "shortcuts"}, {"model"}),
        ("fitting/kinds/jtc", {"shortcuts", "evaluate"}, {"scores", "selection", "activations", "model"}),
        ("figures/drawing", FIGURES, {"evaluation", "evaluate", "selection", "parameters"}),
        ("figures/drawn/scores", {"figure_scores"}, FIGURES - {"figure_scores"}),
    ],
)
def test_an_edit_in_a_library_module_reruns_the_stages_that_use_it(
    project: Project, module: str, reruns: set[str], spares: set[str]
) -> None:
    source = project.folder / "src/onejump" / f"{module}.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace('"""', '"""Reworded. ', 1) + "\n# A remark.\n", encoding="utf-8")
    assert "Nothing to be done" in project.snakemake("-n"), "words about code are not code"
    source.write_text(text + "\nADDED = 1\n", encoding="utf-8")
    planned = set(project.planned())
    assert reruns <= planned
    assert not spares & planned


@pytest.mark.parametrize("seed", [int(os.environ.get("ONEJUMP_KILLS", "0"))])
def test_killed_at_random_moments_a_run_ends_with_the_same_files(
    finished: Project, fresh_project: Callable[[], Project], seed: int
) -> None:
    project = fresh_project()
    # These jobs have to end when their run is killed, so they are started as users' jobs are.
    project.python = sys.executable
    moments = random.Random(seed)
    endings = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    for ending, whole_group in [(signal.SIGKILL, False), *((ending, True) for ending in endings)]:
        with subprocess.Popen(
            project.command(),
            cwd=project.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=project.environment(),
        ) as run:
            with suppress(subprocess.TimeoutExpired):
                run.wait(timeout=moments.uniform(2, 10))
            if run.poll() is None:
                (os.killpg if whole_group else os.kill)(run.pid, ending)
    project.snakemake()

    def results(folder: Path) -> dict[str, bytes]:
        files = (path for path in (folder / "results").rglob("*") if path.is_file())
        names = {path.relative_to(folder): path for path in files}
        # Times of jobs, and Snakemake's own.
        varying = {"logs", "benchmarks", ".snakemake_timestamp"}
        return {str(name): path.read_bytes() for name, path in names.items() if not varying & {*name.parts}}

    expected = results(finished.folder)
    assert len(expected) > 50
    assert results(project.folder) == expected


def test_a_flipped_byte_stops_the_stage_that_reads_it(project: Project) -> None:
    chunk = project.folder / PAIR / "activations/training-1.zarr/activations/c/2/0/0"
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    output = project.snakemake("--forcerun", "scores", "--until", "scores", succeeds=False)
    assert "training-1.zarr: activations at level 2" in output
    assert "the same command goes on from there" in output


def test_a_halved_description_of_the_model_is_one_line(project: Project) -> None:
    description = project.folder / PAIR / "../model.json"
    description.write_bytes(description.read_bytes()[:100])
    output = project.snakemake("-n", succeeds=False)
    assert "Traceback" not in output
    assert "tiny-llama/model.json: no checksum in it" in output
    assert "delete it and run snakemake again" in output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"corpora": {"stories": {"path": "empty", "training": 5, "validation": 5}}},
            "too little text: 0 of",
        ),
        ({"corpora": {"stories": {"path": "text", "training": 5000, "validation": 5}}}, "5000"),
        ({"models": {"tiny-llama": {"folder": "no-model"}}}, "the model could not be loaded"),
    ],
)
def test_a_failing_job_shows_its_log_and_how_to_go_on(
    fresh_project: Callable[[], Project], change: Study, said: str
) -> None:
    project = fresh_project()
    for name in ("empty/nothing.txt", "no-model/config.json"):
        (project.folder / name).parent.mkdir()
        (project.folder / name).write_text("{}" if name.endswith(".json") else "\n")
    project.study |= change
    output = project.snakemake("--until", "corpus", "model", succeeds=False)
    assert re.search(rf"ERROR.*{said}", output), output
    assert "the same command goes on from there" in output
    assert "Traceback" not in output


def test_a_bad_study_is_refused_before_anything_is_planned(project: Project) -> None:
    project.study |= {"selection": {"metric": "cosin"}}
    output = project.snakemake("--config", "evaluation={random: -1}", succeeds=False)
    line = 1 + (project.folder / "study.yaml").read_text().splitlines().index("  metric: cosin")
    assert (
        f"study.yaml, line {line}: selection.metric: 'cosin' given, accepted is 'signed-squared-cosine', "
        "'cosine' or 'mse'"
    ) in output
    assert "--config: evaluation.random: -1 given" in output
    assert "Traceback" not in output


def test_what_a_study_reads_is_looked_at_before_anything_runs(project: Project) -> None:
    study = project.study
    study["shortcuts"]["n-njtc"]["rank"] = 33
    study["corpora"]["more"] = study["corpora"]["stories"] | {"path": "nowhere"}
    project.study = study
    output = project.snakemake(succeeds=False)
    assert "shortcuts.n-njtc.rank: 33 given, 1 to H = 32 accepted for tiny-llama" in output
    assert "corpora.more.path: 'nowhere' given, but there is no such file or folder" in output
    assert "Traceback" not in output


def test_the_report_holds_every_figure(project: Project) -> None:
    (project.folder / PAIR / "notes.txt").write_text("jtc: fitted to few samples\n", encoding="utf-8")
    project.snakemake("--report", "report.html")
    page = (project.folder / "report.html").read_text(encoding="utf-8")
    for figure in ("methods", "selected", "alternatives", "scores", "parameters"):
        assert f"figures/{figure}.svg" in page
    front = page[page.index("var workflow_desc") :]
    opening = (
        "The selected jump of tiny-llama",
        "a jump per level (4 jumps)",
        "dotted line and the star mark",
    )
    then = (
        "Every shortcut of the study, mean over all levels",
        "What to know about these numbers",
        "jtc: fitted to few samples",
        "What the workflow did",
        "More figures: tiny",
    )
    places = [front.index(text) for text in (*opening, *then)]
    assert places == sorted(places)


def test_the_summary_names_jump_figures_and_scores(
    finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    run = CliRunner().invoke(main, ["summary", "study.yaml"])
    assert run.exit_code == 0
    jump = json.loads((PAIR / "selection.json").read_text(encoding="utf-8"))["jump"]
    first = (
        f"tiny-llama on stories: the selected jump is from level {jump} (levels 0 to 3, kind n-njtc); "
        f"results are in {PAIR}/"
    )
    assert run.stdout.splitlines()[0] == first
    assert "figures/scores.svg" in run.stdout
    value = pd.read_parquet(PAIR / "evaluation.parquet").query("method == 'jtc' and metric == 'surprisal'")
    assert re.search(rf"^ +jtc .* {value['value'].mean():.3f} ", run.stdout, re.M)
    # What is there is told even where another corpus has no results yet.
    run = CliRunner().invoke(main, ["summary", "study.yaml", "-C", f"corpora.more={MORE}"])
    assert run.exit_code == 1
    assert run.stdout.splitlines()[0] == first
    assert run.stderr.splitlines() == [
        "Error: results/tiny/tiny-llama/more: no results yet; run the study first: onejump run STUDY"
    ]
