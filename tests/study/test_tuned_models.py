"""What a study may say of a model that is tuned from another one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from onejump.base.errors import StudyError
from onejump.fitting.tuning import TuningOptions
from onejump.planning.sizes import Sizes, look_up_sizes
from onejump.planning.tuning_cost import tuning_cost
from onejump.study.reading import parse_study
from onejump.study.study import Study
from onejump.study.tuned import Tuned


def study_with(tuned: dict[str, Any], **beside: Any) -> Study:
    corpus = {"path": "text", "training": 50, "validation": 20}
    return parse_study(
        {
            "study": "s",
            "models": {
                "m": {"hub": "some/model", "dtype": "bfloat16"},
                "t": {"tuned": {"model": "m", "corpus": "c"} | tuned, **beside},
            },
            "corpora": {
                "c": corpus,
                "g": {"generated": {"prompts": "c"}, "training": 5, "validation": 5},
            },
            "shortcuts": {"n-njtc": {}},
        }
    )


@pytest.mark.parametrize(
    ("tuned", "beside", "message"),
    [
        (
            {"model": "t"},
            {},
            "models.t.tuned.model: 't' given, accepted is a model of the study that is not tuned: m",
        ),
        (
            {"corpus": "g"},
            {},
            "models.t.tuned.corpus: 'g' given, accepted is a corpus of the study that is",
        ),
        (
            {"corpus": "d"},
            {},
            "'d' given, accepted is a corpus of the study that is neither generated nor mixed",
        ),
        ({}, {"dtype": "float16"}, "models.t.dtype: 'float16' given, but it has no effect on a tuned model"),
        (
            {"weights": "final", "early": 0.1},
            {},
            "models.t.tuned.early: 0.1 given, but it has no effect with weights",
        ),
        ({"weights": "heavy"}, {}, "models.t.tuned.weights: 'heavy' given"),
        ({"early": 1.5}, {}, "models.t.tuned.early: 1.5 given"),
        ({}, {"hub": "a/b"}, "exactly one of hub, folder, gguf, wheel, tuned, untrained (given: hub, tuned)"),
    ],
)
def test_mistakes_are_one_line_each(tuned: dict[str, Any], beside: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        study_with(tuned, **beside)
    assert message in str(caught.value)


def test_a_tuned_model_has_sizes_and_dtype_of_the_other_one(tmp_path: Any) -> None:
    study = study_with({})
    assert study.origin_of("t") is study.models["m"]
    given = {"blocks": 4, "hidden": 32, "vocabulary": 200, "parameters": 10_000}
    found = look_up_sizes(study, tmp_path, {"m": given})
    assert found["t"] == found["m"] == Sizes(**given, dtype="bfloat16")


def test_the_stage_takes_all_that_a_study_says() -> None:
    said = set(Tuned.model_fields) - {"model", "corpus", "seed"}
    assert said | {"max_tokens"} == {field.name for field in dataclasses.fields(TuningOptions)}


def test_adapters_cost_less_memory_and_a_teacher_more_of_all() -> None:
    sizes = Sizes(30, 576, 49152, 134_515_008)
    plain, adapted, taught = (
        tuning_cost(sizes, Tuned(model="m", corpus="c", **options))
        for options in ({}, {"adapters": {"rank": 8}}, {"loss": "distilled"})
    )
    assert adapted.memory < plain.memory < taught.memory
    assert adapted.single_flops < plain.single_flops < taught.single_flops
    # Of AdamW alone: weights, gradients and two averages in single precision.
    assert plain.memory > 16 * sizes.parameters
