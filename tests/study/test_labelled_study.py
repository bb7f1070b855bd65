"""Studies of texts with labels: what is accepted, and the line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stage_files import describe_as

from onejump.base.errors import StudyError
from onejump.planning.sizes import look_up_sizes
from onejump.planning.sources import check_known_sizes, check_sources
from onejump.study.dimensions import OF_TOKENS
from onejump.study.experiments import Experiments
from onejump.study.figures import Figures
from onejump.study.reading import parse_study
from onejump.study.study import Study

LABELLED = {"path": "texts.jsonl", "label": "topic", "training": 10, "validation": 5}
TEXTS = {"path": "texts.jsonl", "training": 10, "validation": 5}
PAIRS = {"path": "texts.jsonl", "target": "de", "training": 10, "validation": 5}


def study(model: dict[str, Any], corpus: dict[str, Any] = LABELLED, **more: Any) -> Study:
    return parse_study(
        {"study": "s", "models": {"m": model}, "corpora": {"c": corpus}, "shortcuts": {"n-njtc": {"rank": 2}}}
        | more
    )


@pytest.mark.parametrize(
    ("model", "corpus", "more", "said"),
    [
        (
            {"hub": "a/b"},
            LABELLED | {"language": "de"},
            {},
            "language: 'de' given, but it has no effect on",
        ),
        (
            {"hub": "a/b"},
            LABELLED | {"target": "de"},
            {},
            "target: 'de' given, but .* with label",
        ),
        (
            {"hub": "a/b"},
            TEXTS | {"text_pair": "hypothesis"},
            {},
            "text_pair: 'hypothesis' given, but .* without label",
        ),
        (
            {"hub": "a/b"},
            LABELLED | {"path": "a.txt"},
            {},
            "label: 'topic' given, .* on plain",
        ),
        (
            {"untrained": {"corpus": "c", "architecture": "bert"}},
            PAIRS,
            {},
            "untrained.corpus: 'c' given, accepted is a corpus of the study that has a label: there is none",
        ),
        ({"untrained": {"corpus": "c"}}, LABELLED, {}, "accepted is a corpus of the study that has a target"),
        (
            {"untrained": {"corpus": "c", "architecture": "bert", "encoder_blocks": 2}},
            LABELLED,
            {},
            "encoder_blocks: 2 given, but it has no effect on bert",
        ),
        (
            {"hub": "a/b"},
            TEXTS,
            {"figures": {"methods": {"metrics": ["accuracy"]}}},
            "'accuracy' given, but accuracy needs labels: name the key label of every corpus",
        ),
        ({"hub": "a/b"}, LABELLED, {"export": {"targets": [0.9]}}, "export.targets: .* generates nothing"),
        *(
            (
                {"hub": "a/b"},
                LABELLED,
                {"experiments": {name: {}}},
                f"{name}: {why}, but corpora.c",
            )
            for name, why in OF_TOKENS.items()
            if name in Experiments.sections()
        ),
        ({"hub": "a/b"}, LABELLED, {"figures": {"lens": {}}}, "figures.lens: it shows what is predicted"),
    ],
)
def test_a_mistake_is_one_line(
    model: dict[str, Any], corpus: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudyError, match=said) as raised:
        study(model, corpus, **more)
    assert "\n" not in str(raised.value)


def test_what_makes_no_sense_for_texts_is_an_experiment_or_a_figure() -> None:
    assert set(OF_TOKENS) <= {*Experiments.sections(), *Figures.sections()}


def test_accuracy_can_be_drawn_of_texts_with_labels() -> None:
    study({"hub": "a/b"}, figures={"methods": {"metrics": ["accuracy", "precision@1"]}})


@pytest.mark.parametrize(
    ("task", "corpus", "experiments", "said"),
    [
        ("causal", LABELLED, {}, "corpora.c.label: m is a causal language model; accepted are classifiers"),
        ("seq2seq", LABELLED, {}, "corpora.c: m is an encoder-decoder, which takes pairs"),
        (
            "classification",
            PAIRS,
            {},
            "corpora.c.target: m is a classifier of texts; accepted are",
        ),
        ("classification", TEXTS, {"sub-words": {}}, "experiments.sub-words: it tells exits by the token"),
        (
            "classification",
            TEXTS,
            {"joint-optimisation": {}},
            "measures the loss on labels of m, .*: name the key label of corpora.c",
        ),
    ],
)
def test_models_corpora_and_experiments_have_to_fit(
    task: str, corpus: dict[str, Any], experiments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    describe_as(tmp_path / "s" / "m" / "model.json", task=task)
    kinds = {"identity": {}, "n-njtc": {"rank": 2}}
    found = study({"hub": "a/b"}, corpus, experiments=experiments, shortcuts=kinds)
    with pytest.raises(StudyError, match=said):
        check_known_sizes(found, tmp_path)
    check_known_sizes(study({"hub": "a/b"}, LABELLED), tmp_path / "elsewhere")


def test_the_folder_of_a_classifier_is_checked_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text("{}", encoding="utf-8")
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    check_sources(study({"folder": "model"}))
    check_sources(study({"folder": "model"}, TEXTS))
    with pytest.raises(StudyError, match=r"corpora.c.target: m is a classifier of texts"):
        check_sources(study({"folder": "model"}, PAIRS))


def test_an_untrained_classifier_has_known_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text("{}", encoding="utf-8")
    made = {"corpus": "c", "architecture": "bert", "hidden": 32, "blocks": 3, "heads": 4, "vocabulary": 200}
    found = study({"untrained": made})
    check_sources(found)
    sizes = look_up_sizes(found, tmp_path, {})["m"]
    assert (sizes.blocks, sizes.hidden, sizes.task) == (3, 32, "classification")
    assert sizes.parameters == 3 * 12 * 32**2 + 32**2 + 200 * 32
