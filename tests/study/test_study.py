from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import ROOT

from onejump.base.errors import StudyError
from onejump.study.reading import load_study, parse_study, study_schema
from onejump.study.sources import sources_of
from onejump.study.study import Study

SHAPES = {"blocks": 2, "hidden": 64, "feed_forward": 96, "heads": 4, "vocabulary": 100}
VALID: dict[str, Any] = {
    "study": "tiny",
    "models": {"m": {"folder": "somewhere"}},
    "corpora": {"c": {"path": "text", "training": 10, "validation": 5}},
    "shortcuts": {"jtc": {}, "n-njtc": {}},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    study = deepcopy(VALID)
    *path, last = key.split("/")
    here = study
    for step in path:
        here = here.setdefault(step, {})
    here[last] = value
    return study


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))], ids=str)
def test_every_study_of_the_project_is_valid_and_named_once(path: Path) -> None:
    study = load_study(path)
    assert study.study == ("default" if path.name == "config.yaml" else path.stem)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("shortcut", {}, ["shortcut: unknown key", "shortcuts"]),
        ("models/m/hubb", "x", ["models.m.hubb: unknown key", "hub"]),
        ("models/m/hub", "x", ["models.m", "exactly one of hub, folder, gguf, wheel", "hub, folder"]),
        ("models/m", None, ["models.m", "None given"]),
        ("models/a b", {"hub": "x"}, ["models.a b", "'a b' given", "letters, digits"]),
        ("models/corpora", {"hub": "x"}, ["models.corpora", "a name other than"]),
        ("corpora/c/training", "10", ["corpora.c.training", "'10' given", "whole number"]),
        ("corpora/c/training", 0, ["corpora.c.training", "0 given", "greater than 0"]),
        ("corpora/c", {"path": "x"}, ["corpora.c.training: missing", "corpora.c.validation: missing"]),
        ("shortcuts/n-njtc/rank", 0, ["shortcuts.n-njtc.rank", "0 given", "at least 1"]),
        ("shortcuts/n-njtc/rank", "five", ["shortcuts.n-njtc.rank", "'five' given", "part of H"]),
        ("figures/one-jump", {}, ["figures.one-jump: unknown key; it is called figures.selected now"]),
        ("shortcuts/nnjtc", {}, ["shortcuts.nnjtc: unknown key", "identity, jtc, njtc, n-njtc, joint"]),
        ("shortcuts/jtc/solver", "gradient", ["shortcuts.jtc.solver", "'gradient' given", "'exact'"]),
        (
            "shortcuts/n-njtc/gradient",
            {"epochs": 3},
            ["n-njtc.gradient: it has no effect without solver: gradient"],
        ),
        ("selection/method", "njtc", ["selection.method: 'njtc' given", "own shortcuts: n-njtc"]),
        ("selection/metric", "cos", ["selection.metric: 'cos' given", "'cosine'"]),
        ("evaluation/arbitrary", ["first", -1], ["evaluation.arbitrary.1: -1 given"]),
        ("evaluation/arbitrary", ["frst"], ["evaluation.arbitrary.0: 'frst' given", "'first'"]),
        ("evaluation/precision_at", [100], ["evaluation.precision_at: 100 given", "activations.top_k = 64"]),
        ("figures/methods/metrics", ["precision@2"], ["figures.methods.metrics: 'precision@2'", "[1, 5,"]),
        ("figures/methods/metrics", ["prec@1"], ["figures.methods.metrics.0: 'prec@1' given", "surprisal"]),
        ("figures/limit", {}, ["figures.limit", "shortcuts.affine"]),
        ("held_out", {"stopping": 1}, ["held_out.stopping: 1 given", "less than 1"]),
        ("held_out", {"thresholds": 0.9}, ["held_out.stopping: the default has 0.1", "1 - thresholds = 0.1"]),
        ("shortcuts/one-jump", {"statistics": "own"}, ["one-jump.statistics: 'own' given", "'shared'"]),
        ("shortcuts/residual", {"solver": "gradient"}, ["shortcuts.residual.solver: 'gradient' given"]),
        ("figures/scores/colormap", "virdis", ["figures.scores.colormap: 'virdis' given", "viridis"]),
        ("activations/store/dtype", "int8", ["activations.store.dtype: 'int8' given", "'float32'"]),
        ("activations/store/keepbits", 24, ["activations.store.keepbits: 24 given", "23"]),
        ("compute/device", "gpu", ["compute", "cuda", "'gpu'"]),
        ("shortcuts/n-njtc/rank", 1.5, ["shortcuts.n-njtc.rank: 1.5 given", "such as 5 or 0.01"]),
        ("corpora/c/unit", "word", ["corpora.c.unit: 'word' given", "'paragraph'"]),
        ("corpora/c/standard_library", True, ["corpora.c", "exactly one of", "path, standard_library"]),
        ("figures/prediction", {}, ["figures.prediction.methods: the default has 'identity'", "jtc, n-njtc"]),
        ("models/m/revision", "main", ["models.m.revision: 'main' given", "not from the hub"]),
        ("models/m", {"gguf": "x", "trust_remote_code": True}, ["m.trust_remote_code: True given"]),
        ("models/m/sha256", "0" * 64, ["models.m.sha256", "no effect without wheel"]),
        ("models/m", {"wheel": "x==1"}, ["models.m.file", "missing; it names the file"]),
        ("models/m", {"hub": "../m"}, ["models.m.hub: '../m' given", "a folder of this machine: folder"]),
        ("models/m", {"hub": "a/b/c"}, ["models.m.hub: 'a/b/c' given", "openai-community/gpt2"]),
        ("models/m", {"wheel": "x==1", "file": "../../evil.txt"}, ["models.m.file: '../../evil.txt' given"]),
        ("models/m", {"wheel": "x==1", "file": "/etc/passwd"}, ["models.m.file: '/etc/passwd' given"]),
        ("models/m", {"wheel": "x==1", "file": "a//b"}, ["models.m.file: 'a//b' given", "inside the wheel"]),
        ("models/m", {"wheel": "x==1", "file": "{a}.gguf"}, ["models.m.file: '{a}.gguf' given", "braces"]),
        ("models/m", {"wheel": "../../x==1.0", "file": "f"}, ["models.m.wheel: '../../x==1.0'", "pinned"]),
        ("models/m", {"wheel": "x==1/../..", "file": "f"}, ["models.m.wheel: 'x==1/../..' given", "pinned"]),
        ("models/m/folder", "a\nb", ["models.m.folder: 'a\\nb' given", "control characters"]),
        ("models/m/folder", "a\ud800", ["models.m.folder: 'a\\ud800' given", "control characters"]),
        ("models/m/folder", "{a}", ["models.m.folder: '{a}' given", "without braces"]),
        ("models/m/folder", "", ["models.m.folder: '' given", "a path"]),
        ("models/..", {"hub": "x"}, ["models...: '..' given", "a name of"]),
        ("corpora/weights", {"path": "x", "training": 1, "validation": 1}, ["corpora.weights", "other than"]),
        ("study", "../mine", ["study: '../mine' given", "a name of"]),
        ("study", "x" * 101, ["study: 'xxx", "at most 100"]),
        ("corpora/c/subset", "x", ["corpora.c.subset: 'x' given", "no effect without dataset"]),
        ("corpora/c/split", "train", ["corpora.c.split: 'train' given", "no effect without dataset"]),
        ("corpora/c", {"path": "a.txt", "text": "x", "training": 1, "validation": 1}, ["c.text: 'x' given"]),
        ("corpora/c/language", "English", ["corpora.c.language: 'English' given", "such as en, de or zh"]),
        ("corpora/c/language", "qq", ["corpora.c.language: 'qq' given", "such as en, de or zh"]),
        ("corpora/c/min_characters", 2000, ["c.min_characters: 2000 given", "max_characters = 1000"]),
        ("activations/store", {"compressor": "none", "compression_level": 3}, ["store.compression_level: 3"]),
        ("activations/store", {"dtype": "float16", "keepbits": 11}, ["store.keepbits: 11 given", "float16"]),
        (
            "experiments/early-exit",
            {"rules": ["fixed"], "tau": 2.0},
            ["early-exit.tau: 2.0 given, but it has no effect without the rule decaying"],
        ),
        (
            "experiments/level-pairs",
            {"methods": ["jtc"], "rank": 3},
            ["level-pairs.rank: 3 given, but it has no effect without njtc"],
        ),
        ("shortcuts/affine", {"steps": 0, "patience": 3}, ["affine.patience: 3 given", "trains nothing"]),
        ("evaluation/precision_at", [1, 5, 1], ["evaluation.precision_at: 1 given twice"]),
        ("shortcuts", {"jtc": {}}, ["selection.method: the default has 'n-njtc', but the study has none"]),
        ("shortcuts/distilled", {"sharpness": float("nan")}, ["distilled.sharpness: nan given"]),
        ("models/m/folder", 3, ["models.m.folder: 3 given", "text"]),
        ("seed", "x" * 10_000, ["seed: 'xxx", "..."]),
        ("experiments/level-pair", {}, ["experiments.level-pair: unknown key", "level-pairs"]),
        (
            "experiments/level-pairs",
            {"methods": ["joint"]},
            ["level-pairs.methods.0: 'joint' given", "'njtc'"],
        ),
        ("experiments/sub-modules", {"metrics": ["r2"]}, ["sub-modules.metrics.0: 'r2' given", "surprisal"]),
        (
            "experiments/early-exit",
            {"methods": ["joint"]},
            ["early-exit.methods: 'joint' given", "jtc, n-njtc"],
        ),
        ("experiments/early-exit", {"targets": [95]}, ["early-exit.targets.0: 95 given", "equal to 1"]),
        ("experiments/transfer", {}, ["experiments.transfer", "another corpus"]),
        ("experiments/rank-sweep", {"ranks": [0.01, 0]}, ["rank-sweep.ranks.1: 0 given", "at least 1"]),
        (
            "experiments/rank-sweep",
            {"metrics": ["precision@2"]},
            ["experiments.rank-sweep.metrics", "[1, 5,"],
        ),
        (
            "corpora/g",
            {"generated": {"prompts": "d"}, "training": 1, "validation": 1},
            ["corpora.g.generated.prompts: 'd' given", "of the study that is neither generated nor mixed: c"],
        ),
        (
            "corpora/g",
            {"generated": {"prompts": "g"}, "training": 1, "validation": 1},
            ["corpora.g.generated.prompts: 'g' given", "neither generated nor mixed: c"],
        ),
        (
            "corpora/g",
            {"generated": {"prompts": "c"}, "training": 11, "validation": 5},
            ["corpora.g.training: 11 given", "at most 10, the training sentences of c"],
        ),
        (
            "corpora/g",
            {"generated": {"prompts": "c"}, "language": "fr", "training": 1, "validation": 1},
            ["corpora.g.language: 'fr' given", "no effect on generated text"],
        ),
        (
            "corpora/g",
            {"generated": {"prompts": "c", "greedy": 1, "top_p": 0.5}, "training": 1, "validation": 1},
            ["corpora.g.generated.top_p: 0.5 given", "no effect with greedy: 1"],
        ),
        (
            "corpora/g",
            {"generated": {"prompts": "c", "greedy": 1.5}, "training": 1, "validation": 1},
            ["corpora.g.generated.greedy: 1.5 given", "less than or equal to 1"],
        ),
        (
            "corpora/c/generated",
            {"prompts": "c"},
            ["corpora.c", "exactly one of path, dataset, wheel, standard_library, generated, mixture"],
        ),
        (
            "figures/prediction",
            {"methods": ["distilled", "affine"], "metrics": ["r2"]},
            ["figures.prediction.metrics: 'r2' given", "distilled, affine", "predict no state"],
        ),
        (
            "experiments/exit-costs",
            {"methods": ["arbitrary"]},
            ["exit-costs.methods: 'arbitrary' given", "jtc, n-njtc, ojfa"],
        ),
        (
            "experiments/exit-costs",
            {"shapes": {"mine": SHAPES | {"heads": 3}}},
            ["exit-costs.shapes.mine.heads: 3 given, accepted is a divisor of 64"],
        ),
        (
            "experiments/exit-costs",
            {"shapes": {"mine": SHAPES | {"key_heads": 3}}},
            ["exit-costs.shapes.mine.key_heads: 3 given, accepted is a divisor of 4"],
        ),
        (
            "experiments/exit-costs",
            {"shapes": {"mine": SHAPES | {"heads": 64}}},
            ["exit-costs.shapes.mine.heads: 64 given", "rotary positions"],
        ),
        (
            "experiments/rank-sweep",
            {"methods": ["one-jump"]},
            ["rank-sweep.methods: 'one-jump' given", "jtc, n-njtc, ojfa"],
        ),
        ("experiments/cross-scale", {}, ["experiments.cross-scale", "switch experiments.oracle on"]),
        ("experiments/oracle", {"methods": ["identity"]}, ["oracle.methods: 'identity' given"]),
        ("experiments/oracle", {"last_blocks": 0}, ["oracle.last_blocks: 0 given"]),
        ("experiments/gates", {"gates": ["mood"]}, ["gates.gates", "'mood' given", "patience"]),
        (
            "experiments/gates",
            {"gates": ["learned"], "methods": ["jtc"]},
            ["gates.gates: ['learned'] given", "none of jtc is a low-rank jump"],
        ),
    ],
)
def test_a_mistake_is_one_line_with_key_value_and_what_is_accepted(
    key: str, value: Any, said: list[str]
) -> None:
    with pytest.raises(StudyError) as error:
        parse_study(changed(key, value))
    for words in said:
        assert words in str(error.value)
    mistakes = 2 if ": missing" in said[0] else 1
    assert len(str(error.value).splitlines()) == mistakes


TEXTS = {"training": 8, "validation": 4}
PARTS = {
    "b": {"path": "text", "language": "fr", "training": 10, "validation": 5},
    "d": {"path": "other", "training": 10, "validation": 5},
    "pairs": {"path": "pairs.json", "target": "de", "training": 10, "validation": 5},
    "rated": {"path": "rated.json", "label": "stars", "training": 10, "validation": 5},
    "told": {"generated": {"prompts": "b"}, "training": 10, "validation": 5},
}


def mixing(parts: dict[str, float], **others: Any) -> dict[str, Any]:
    corpora = VALID["corpora"] | PARTS | {"m": TEXTS | {"mixture": {"parts": parts}} | others}
    return VALID | {"corpora": corpora}


@pytest.mark.parametrize(
    ("parts", "others", "said"),
    [
        ({"c": 1, "e": 1}, {}, "corpora.m.mixture.parts: 'e' given, which is no corpus of the study"),
        ({"c": 1, "m": 1}, {}, "corpora.m.mixture.parts: 'm' given, which is a mixture: accepted is c, b, d"),
        ({"c": 1, "pairs": 1}, {}, "'pairs' given, which is pairs: accepted is c, b, d, told"),
        ({"c": 1, "rated": 1}, {}, "'rated' given, which is texts with labels: accepted is"),
        ({"c": 1, "d": 0}, {}, "corpora.m.mixture.parts.d: 0 given"),
        ({"c": 1}, {}, "corpora.m.mixture.parts"),
        ({"c": 4, "d": 1}, {"training": 14}, "corpora.m.training: 14 given, of which c has to give 11, but"),
        (
            {"c": 1, "d": 1},
            {"language": "fr"},
            "corpora.m.language: 'fr' given, but it has no effect on a mix",
        ),
        ({"c": 1, "d": 1}, {"label": "x"}, "no effect with label"),
        ({"c": 1, "d": 1}, {"path": "x"}, "exactly one of path, dataset"),
    ],
)
def test_what_no_mixture_can_be_made_of_is_said(
    parts: dict[str, float], others: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(mixing(parts, **others))
    assert said in str(refused.value)


def test_prompts_are_no_mixture() -> None:
    study = mixing({"c": 1, "d": 1})
    study["corpora"]["g"] = {"generated": {"prompts": "m"}, "training": 1, "validation": 1}
    with pytest.raises(StudyError, match=r"'m' given, accepted is a corpus .* neither generated nor mixed"):
        parse_study(study)


def test_parts_of_one_source_are_known_by_one_name() -> None:
    study = parse_study(mixing({"c": 1, "b": 1, "told": 2, "d": 1}))
    sources = sources_of(study.corpora, ["c", "b", "told", "d"])
    assert sources == {"c": "c", "b": "c", "told": "c", "d": "d"}
    assert study.activations_of("m") == study.activations
    with_positions = mixing({"c": 1, "told": 1}, mixture={"parts": {"c": 1, "told": 1}, "positions": 4})
    study = parse_study(with_positions | {"activations": {"positions": 2, "shard_sentences": 10}})
    assert (study.activations_of("m").positions, study.activations_of("m").shard_sentences) == (4, 5)


def test_a_shard_of_generated_texts_has_as_many_samples_as_any_other() -> None:
    texts = {"generated": {"prompts": "c", "positions": 6}, "training": 10, "validation": 5}
    study = parse_study(
        changed("corpora/g", texts) | {"activations": {"positions": 2, "shard_sentences": 10}}
    )
    of_text, of_generated = study.activations_of("c"), study.activations_of("g")
    assert (of_text.positions, of_text.shard_sentences, study.shard_count("c", "training")) == (2, 10, 1)
    assert (of_generated.positions, of_generated.shard_sentences) == (6, 3)
    assert [study.shard_count("g", split) for split in ("training", "validation")] == [4, 2]


@pytest.mark.parametrize("on", [None, True, {}], ids=str)
def test_a_switch_that_is_named_is_on(on: Any) -> None:
    study = changed("shortcuts/identity", on) | {"experiments": {"criteria": on}, "figures": {"pareto": on}}
    found = parse_study(study)
    assert found.shortcuts.names() == ("identity", "jtc", "n-njtc")
    assert found.experiments.names() == ("criteria",)
    assert "pareto" in found.figures.names()


def test_false_switches_off_what_is_on_by_itself() -> None:
    found = parse_study(changed("figures", {"scores": False, "selected": None}))
    assert "scores" not in found.figures.names()
    assert "selected" in found.figures.names()


def test_a_section_whose_keys_are_all_commented_out_is_the_default() -> None:
    empty = dict.fromkeys(("activations", "selection", "evaluation", "figures", "experiments", "compute"))
    assert parse_study(VALID | empty) == parse_study(VALID)


def test_long_values_that_look_alike_when_shortened_are_two() -> None:
    values = ["x" * 100 + middle + "x" * 100 for middle in "ab"]
    with pytest.raises(StudyError) as error:
        parse_study(changed("evaluation/arbitrary", values))
    assert "given twice" not in str(error.value)


def test_a_wheels_file_has_one_checksum() -> None:
    source = {"wheel": "x==1", "file": "f.txt"}
    corpus = source | {"sha256": "0" * 64, "training": 1, "validation": 1}
    with pytest.raises(StudyError, match=r"corpora\.c\.sha256: .*another checksum, or none"):
        parse_study(VALID | {"models": {"m": source}, "corpora": {"c": corpus}})


def test_thousands_of_mistakes_are_counted_and_not_all_told() -> None:
    with pytest.raises(StudyError) as error:
        parse_study(VALID | {f"key{number}": 1 for number in range(10_000)})
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 9980 more mistakes"


def test_a_misspelt_key_is_told_its_neighbour() -> None:
    with pytest.raises(StudyError, match=r"^shortcut: unknown key; did you mean shortcuts\? accepted here: "):
        parse_study(VALID | {"shortcut": {}})


def test_every_mistake_is_told_at_once() -> None:
    study = changed("seed", "x") | {"shortcuts": {"n-njtc": {"rank": -1}}}
    with pytest.raises(StudyError) as error:
        parse_study(study)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["seed", "shortcuts.n-njtc.rank"]


def test_ranks_and_levels_are_held_against_the_model() -> None:
    parse_study(VALID).check_dimensions("m", blocks=2, hidden=8)
    with pytest.raises(StudyError, match=r"shortcuts\.n-njtc\.rank: 9 given, 1 to H = 8"):
        parse_study(changed("shortcuts/n-njtc/rank", 9)).check_dimensions("m", blocks=2, hidden=8)
    with pytest.raises(StudyError, match=r"level 2 given, 0 to 1 accepted for m"):
        parse_study(changed("evaluation/arbitrary", [2])).check_dimensions("m", blocks=2, hidden=8)


def test_ranks_of_experiments_are_held_against_the_model() -> None:
    for key, value in (("level-pairs/rank", 9), ("rank-sweep", {"ranks": [0.5, 9], "methods": ["ojfa"]})):
        study = parse_study(changed(f"experiments/{key}", value))
        with pytest.raises(StudyError, match=r"experiments\..*: 9 given, 1 to H = 8 accepted for m"):
            study.check_dimensions("m", blocks=2, hidden=8)


def test_thresholds_need_shortcuts_that_were_not_fitted_to_the_documents() -> None:
    gradient = changed("shortcuts/n-njtc", {"solver": "gradient"}) | {"experiments": {"early-exit": {}}}
    with pytest.raises(
        StudyError, match=r"shortcuts\.n-njtc\.solver: 'gradient' given, but early exit fits this kind again"
    ):
        parse_study(gradient)
    distilled = changed("shortcuts/one-jump", {}) | {"experiments": {"early-exit": {}}}
    assert parse_study(distilled).exiting() == ("jtc", "n-njtc", "one-jump", "ojfa")
    assert parse_study(distilled).needed_roles() == ("stopping", "thresholds")
    assert parse_study(distilled | {"experiments": {}}).needed_roles() == ("stopping",)


def test_copied_states_exit_by_identity_and_by_what_is_exported() -> None:
    def study(**options: Any) -> Study:
        asked = changed("experiments/copied-states", options)
        asked["shortcuts"] |= {"identity": {}, "one-jump": {}}
        return parse_study(asked)

    assert study().copying() == study().thresholded() == ("identity", "one-jump")
    assert study().needed_roles() == ("stopping", "thresholds")
    assert study(methods=["ojfa", "jtc"]).copying() == ("jtc", "ojfa")
    assert study(targets=[]).thresholded() == ()
    assert parse_study(changed("experiments/copied-states", {})).copying() == ("ojfa",)
    with pytest.raises(StudyError, match="levels, targets and thresholds are empty"):
        study(levels=[], targets=[])


@pytest.mark.parametrize("experiment", ["gates", "sub-words"])
def test_every_experiment_with_thresholds_needs_documents_for_them(experiment: str) -> None:
    study = parse_study(changed(f"experiments/{experiment}", {"methods": ["n-njtc"]}))
    assert study.thresholded() == study.confident() == ("n-njtc",)
    assert study.exiting() == ()
    assert study.needed_roles() == ("thresholds",)
    gradient = changed("shortcuts/n-njtc", {"solver": "gradient"}) | {"experiments": {experiment: {}}}
    with pytest.raises(StudyError, match=rf"experiments\.{experiment}.*'gradient' given|'gradient' given"):
        parse_study(gradient)
    levels = changed(f"experiments/{experiment}", {"from_level": 5})
    assert parse_study(levels).dimension_mistakes("m", blocks=3, hidden=8) == [
        f"experiments.{experiment}.from_level: level 5 given, 0 to 2 accepted for m"
    ]


def test_oracle_exits_need_no_thresholds_and_only_english_is_tagged() -> None:
    oracle = parse_study(changed("experiments/oracle", {}))
    assert oracle.foreseen() == oracle.confident() == ("jtc", "n-njtc", "ojfa")
    assert oracle.thresholded() == oracle.needed_roles() == ()
    tagged = changed("experiments/sub-words", {"parts_of_speech": True})
    assert parse_study(tagged).experiments.sub_words.parts_of_speech
    for corpus in tagged["corpora"].values():
        corpus["language"] = "fr"
    with pytest.raises(StudyError, match=r"language is 'fr': accepted is English text"):
        parse_study(tagged)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study file"):
        load_study(tmp_path / "absent.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1, 2", encoding="utf-8")
    with pytest.raises(StudyError, match=r"bad\.yaml, line 1: not readable as YAML"):
        load_study(bad)
    bad.write_text("- a list", encoding="utf-8")
    with pytest.raises(
        StudyError, match="a mapping of keys such as `study: mine` was expected, a list was found"
    ):
        load_study(bad)


def test_the_editors_schema_is_the_one_that_is_checked() -> None:
    kept = json.loads((ROOT / "workflow/schemas/study.schema.json").read_text(encoding="utf-8"))
    assert kept == study_schema(), "run: onejump schema > workflow/schemas/study.schema.json"


def test_conda_and_pip_pin_the_same_versions() -> None:
    environment = yaml.safe_load((ROOT / "envs/onejump.yaml").read_text(encoding="utf-8"))
    pins = (ROOT / "envs/requirements.txt").read_text(encoding="utf-8").split()
    assert set(environment["dependencies"][-1]["pip"]) <= set(pins)


def test_the_studies_in_the_readme_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        parse_study(yaml.safe_load(block))


def test_what_reads_the_token_before_is_asked_for_where_that_is_known() -> None:
    def study(key: str = "shortcuts/identity", value: Any = None) -> Study:
        asked = changed(key, {} if value is None else value)
        asked["shortcuts"]["one-forward"] = {}
        asked["export"] = {"methods": ["one-forward"]}
        return parse_study(asked)

    assert study().keeps_previous()
    assert not parse_study(changed("shortcuts/one-jump", {})).keeps_previous()
    assert "one-forward" in study().evaluated()
    assert "one-forward" not in study("experiments/early-exit", {}).exiting()
    assert study("experiments/early-exit", {"methods": ["one-forward"]}).exiting() == ("one-forward",)
    assert study("experiments/exit-costs", {}).costed() == ("jtc", "n-njtc", "ojfa")
    assert study("experiments/copied-states", {}).copying() == ()
    assert study("figures/lens", {"prompts": ["x"]}).looked_through() == ("identity",)
    for path in ("experiments/exit-costs", "experiments/copied-states", "figures/lens"):
        options = {"methods": ["one-forward"]} | ({"prompts": ["x"]} if path == "figures/lens" else {})
        name = path.replace("/", r"\.")
        with pytest.raises(StudyError, match=rf"{name}\.methods: 'one-forward' given, which also reads"):
            study(path, options)
    with pytest.raises(StudyError, match=r"shortcuts\.one-forward: it reads the state of the token before"):
        study("corpora/c/label", "label")
