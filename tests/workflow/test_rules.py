"""The rules as Snakemake reads them, in this process: no job runs, but for a small one by hand."""

from __future__ import annotations

import importlib
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from projects import ROOT

from onejump.base import fingerprint as fingerprint_module
from onejump.base.binding import arguments_for
from onejump.base.errors import OneJumpError
from onejump.base.fingerprint import fingerprint
from onejump.base.selected import SELECTED
from onejump.study.experiments import Experiments
from onejump.study.figures import Figures
from onejump.study.kinds import FACTS

sys.path.insert(0, str(ROOT / "workflow"))

import by_hand

STUDY = {
    "study": "tiny",
    "models": {"tiny-llama": {"folder": "tiny-llama"}, "unpacked": {"wheel": "a==1", "file": "b.gguf"}},
    "corpora": {
        "stories": {"path": "text", "training": 200, "validation": 80},
        "code": {"standard_library": True, "unit": "paragraph", "training": 200, "validation": 80},
        "told": {"generated": {"prompts": "stories"}, "training": 100, "validation": 40},
        "mixed": {"mixture": {"parts": {"stories": 1, "told": 1}}, "training": 80, "validation": 40},
    },
    "shortcuts": {kind: {} for kind in FACTS},
    "evaluation": {"normalised": True},
    "figures": {figure: {} for figure in Figures.sections()},
    "experiments": {experiment: {} for experiment in Experiments.sections() if experiment != "translation"},
    "export": {"targets": [0.95]},
}
# Of wildcards that are not chosen from names.
VALUES = {"shard": "0", "wheel": "a==1", "file": "b.gguf"}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_folder: Path,
    write_documents: Callable[..., Path],
) -> Iterator[Path]:
    """A folder with a study of every kind, figure and experiment, as the current one."""
    folder = tmp_path_factory.mktemp("rules")
    write_documents(folder / "text", count=160)
    (folder / "tiny-llama").symlink_to(tiny_model_folder)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def workflow(folder: Path) -> Iterator[Any]:
    """The rules, where the fingerprint of modules is their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onejump.base.fingerprint.fingerprint", lambda *modules, data=(): modules)
        with by_hand.parsed_workflow("study.yaml") as workflow:
            yield workflow


def jobs_of(workflow: Any, rule: Any) -> Iterator[Any]:
    """What Snakemake would give the rule's script, for each of the first two values of its wildcards."""
    patterns = by_hand.wildcards_of(workflow, rule)
    values = [
        [VALUES[name]] if name in VALUES else [re.sub(r"\\(.)", r"\1", value) for value in pattern.split("|")]
        for name, pattern in patterns.items()
    ]
    if "(?!)" in itertools.chain(*values):
        return  # a rule of no job of this study
    for chosen in itertools.product(*values):
        wildcards = dict(zip(patterns, chosen, strict=True))
        yield by_hand.snakemake_for(workflow, rule.name, wildcards, to="by-hand")


def test_every_rule_gives_its_stage_what_it_takes(workflow: Any) -> None:
    bound, misfits = set(), set()
    for rule in workflow.rules:
        if not rule.script:
            continue
        module, name = by_hand.stage_of(rule.script)
        stage = getattr(importlib.import_module(module), name)
        for job in jobs_of(workflow, rule):
            try:
                arguments_for(stage, job)
                bound.add(rule.name)
            except OneJumpError as error:
                misfits.add(str(error))
    assert not misfits
    assert len(bound) > 45


def test_every_rule_runs_again_when_the_code_of_its_stage_changes(workflow: Any) -> None:
    for rule in workflow.rules:
        # Of a wheel, the file and its checksum are all that counts.
        if rule.script and rule.name not in ("wheel", "wheel_files"):
            module, _ = by_hand.stage_of(rule.script)
            for job in jobs_of(workflow, rule):
                assert module.removeprefix("onejump.") in job.params["code"], rule.name


def fingerprints(modules: dict[tuple[str, str], tuple[str, ...]]) -> dict[tuple[str, str], str]:
    fingerprint_module._tree.cache_clear()
    fingerprint_module._meaning.cache_clear()
    return {job: fingerprint(*names) for job, names in modules.items()}


def test_the_code_of_a_kind_counts_where_that_kind_is_used_and_nowhere_else(
    workflow: Any, tmp_path: Path
) -> None:
    modules = {
        (rule.name, job.wildcards.get("method", "")): job.params["code"]
        for rule in workflow.rules
        if rule.script and rule.name not in ("wheel", "wheel_files")
        for job in jobs_of(workflow, rule)
    }
    library = tmp_path / "onejump"
    shutil.copytree(ROOT / "src/onejump", library, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint_module, "_PACKAGE", library)
        before = fingerprints(modules)
        for package in ("shortcuts/kinds", "fitting/kinds", "fitting/solvers"):
            (library / package / "quantum.py").write_text("KIND = None\n")
        assert fingerprints(modules) == before

        def changed_by(module: str) -> set[tuple[str, str]]:
            file = library / f"{module}.py"
            text = file.read_text(encoding="utf-8")
            file.write_text(f"{text}\nADDED = 1\n", encoding="utf-8")
            changed = {job for job, code in fingerprints(modules).items() if code != before[job]}
            file.write_text(text, encoding="utf-8")
            return changed

        distilling = ("distillation", "rank_distillation", "sample_distillation")
        of_affine = {(rule, "affine") for rule in distilling}
        assert changed_by("fitting/kinds/affine") == of_affine
        evaluating = ("evaluate", "transfer_evaluate", "rank_evaluate", "sample_evaluate")
        loading = (*evaluating, "confidences", "held_out_confidences")
        of_affine |= {(rule, "affine") for rule in loading}
        of_affine |= {("parameters", ""), ("exit_costs", ""), ("sample_sweep", "")}
        assert changed_by("shortcuts/kinds/affine") == of_affine
        # A joint fit and a residual are made of n-njtc.
        fitting = ("shortcuts", "calibration_shortcuts", "rank_shortcuts")
        of_n_njtc = {(rule, kind) for rule in fitting for kind in ("n-njtc", "joint", "residual")}
        assert changed_by("fitting/kinds/n_njtc") == of_n_njtc | {("level_pairs", "")}
        assert changed_by("fitting/solvers/gradient") == set(), "the study has no such fit"


def test_thresholds_are_judged_and_kept_with_the_fit_that_they_were_chosen_on(workflow: Any) -> None:
    def fits(name: str) -> dict[tuple[str, str], str]:
        (rule,) = (rule for rule in workflow.rules if rule.name == name)
        return {
            (job.wildcards["corpus"], job.wildcards["method"]): str(job.input["shortcuts"])
            for job in jobs_of(workflow, rule)
        }

    measured, chosen = fits("confidences"), fits("held_out_confidences")
    exiting = {name for known in (FACTS, SELECTED) for name, of in known.items() if of.exits}
    assert len(exiting) > 5
    for job, fit in measured.items():
        # What exits in no experiment has no thresholds, and one fit.
        assert fit == chosen[job] or (job[1] not in exiting and "early-exit" not in fit)
    assert "/early-exit/shortcuts/n-njtc" in measured["stories", "ojfa"]
    assert "/stories/shortcuts/one-jump" in measured["stories", "one-jump"]
    (exported,) = (rule for rule in workflow.rules if rule.name == "export")
    kept = fits("export")
    assert kept == fits("calibration")
    assert "/early-exit/shortcuts/n-njtc" in kept["stories", "ojfa"]
    again = {job.wildcards["method"]: job.params["fitted_again"] for job in jobs_of(workflow, exported)}
    assert (again["ojfa"], again["joint"], again["one-jump"]) == (True, True, False)


def test_every_script_is_that_of_a_rule(workflow: Any) -> None:
    scripts = {Path(rule.script).resolve() for rule in workflow.rules if rule.script}
    assert scripts == set((ROOT / "workflow/scripts").glob("*.py"))


def test_seconds_of_work_on_small_tables_are_no_job_of_a_cluster(workflow: Any) -> None:
    local = workflow._localrules  # whatever runs here has no executor, to which each rule is local
    # A wheel needs the network, which a cluster's nodes may not have.
    assert {rule for rule in local if not rule.startswith("figure_")} == {
        *(
            "all",
            "wheel",
            "wheel_files",
            "untrained",
            "document_roles",
            *("generated_corpus", "mixture"),
            "generated_document_roles",
            "evaluation",
            "parameters",
            "notes",
            "export",
            "early_exit",
            "transfer",
            *("rank_sweep", "sample_sweep"),
            *("oracle", "oracle_corpora", "gates", "sub_words", "cross_scale", "joint_optimisation"),
        ),
        *("selection", "distilled_selection", "transfer_selection", "rank_selection"),
    }
    assert {rule.name for rule in workflow.rules if rule.name.startswith("figure_")} < local


def test_the_slurm_profile_sends_every_rule_that_asks_for_a_gpu_to_such_a_partition(workflow: Any) -> None:
    asking = {
        rule.name
        for rule in workflow.rules
        if rule.script and any(job.resources.get("gpu") for job in jobs_of(workflow, rule))
    }
    assert len(asking) > 5
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text(encoding="utf-8"))
    # The study of `test_rules_of_pairs` has the experiment translation, that of `test_tuned` a tuned model.
    assert set(profile["set-resources"]) == asking | {"translation", "translation_by_gates", "tuning"}


def test_what_a_rule_asks_for_is_counted_under_its_own_name() -> None:
    """The plan, which counts it, names a stage like its rule and its script."""
    asked = {}
    for file in (ROOT / "workflow/rules").rglob("*.smk"):
        for block in re.split(r"^(?=rule |use rule )", file.read_text(encoding="utf-8"), flags=re.M):
            if counted := re.search(r'asked_of_the_site\(\w+, "(\w+)"', block):
                rule, script = re.search(r'^rule (\w+):(?:.*\n)*? +f"{SCRIPTS}/(\w+)\.py"', block).groups()
                asked[counted[1]] = {rule, script}
    assert len(asked) > 10
    assert all({name} == names for name, names in asked.items()), asked


def test_a_stage_runs_by_hand_and_leaves_the_results_alone(folder: Path) -> None:
    run = CliRunner().invoke(by_hand.main, ["corpus", "corpus=stories", "--configfile", "study.yaml"])
    assert run.exit_code == 0, run.output
    written = Path("by-hand/results/tiny/corpora/stories.parquet")
    assert str(written) in run.stdout
    assert len(pd.read_parquet(written)) == 280
    assert not Path("results/tiny").exists()
    given = by_hand.arguments_of("corpus", "study.yaml", to="elsewhere", corpus="stories")
    assert given["table"] == Path("elsewhere/results/tiny/corpora/stories.parquet")
    assert given["source"].path == "text"


@pytest.mark.parametrize(
    ("rule", "wildcards", "said"),
    [
        ("scoers", {}, "rule 'scoers' given, accepted is one of activations, analysis, "),
        ("scores", {}, "rule scores: missing corpus=<stories|code|told|mixed> model=<tiny-llama|unpacked>"),
        ("scores", {"modle": "a"}, "rule scores: no wildcard modle; its wildcards are corpus, model"),
        (
            "corpus",
            {"corpus": "tales"},
            "rule corpus: corpus=tales given, accepted is corpus=<stories|code>",
        ),
    ],
)
def test_a_rule_or_wildcard_that_is_not_accepted_is_named(
    workflow: Any, rule: str, wildcards: dict[str, str], said: str
) -> None:
    with pytest.raises(OneJumpError) as refused:
        by_hand.snakemake_for(workflow, rule, wildcards, to="by-hand")
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["corpus", "stories"], "stories given, name=value was expected for each wildcard"),
        (["corpus", "--configfile", "stduy.yaml"], "stduy.yaml: no such study file"),
        (
            ["selection", "model=tiny-llama", "corpus=code", "--configfile", "study.yaml"],
            "rule selection: no such input: results/tiny/tiny-llama/code/scores.parquet; to make what is "
            "missing: snakemake --configfile study.yaml -- results/tiny/tiny-llama/code/scores.parquet",
        ),
    ],
)
def test_what_cannot_be_run_by_hand_is_one_line(folder: Path, arguments: list[str], said: str) -> None:
    run = CliRunner().invoke(by_hand.main, arguments)
    assert run.exit_code == 1
    assert run.stderr == f"Error: {said}\n"


def test_a_target_that_was_read_as_a_study_is_named(folder: Path) -> None:
    """As --configfile takes all that follows."""
    target = Path("results/model.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text("{}")
    with (
        pytest.raises(OneJumpError, match=r"model\.json: given as a study; put -- before targets"),
        by_hand.parsed_workflow("study.yaml", target),
    ):
        raise AssertionError


def test_a_script_that_does_more_than_run_its_stage_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "more.py"
    script.write_text("from onejump.base.job import job\n\nwith job(snakemake) as run:\n    print()\n")
    with pytest.raises(OneJumpError, match=r"more.py: expected were"):
        by_hand.stage_of(script)
