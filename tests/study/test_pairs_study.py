"""Studies of pairs: what is accepted, and the line for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage_files import describe_as

from onejump.base.errors import StudyError
from onejump.planning.sizes import look_up_sizes
from onejump.planning.sources import check_known_sizes, check_sources, wheel_path
from onejump.study.reading import parse_study
from onejump.study.study import Study

PAIRS = {"path": "pairs.jsonl", "target": "de", "training": 10, "validation": 5}
TEXTS = {"path": "texts.jsonl", "training": 10, "validation": 5}


def study(model: dict[str, Any], corpus: dict[str, Any] = PAIRS, **more: Any) -> Study:
    return parse_study(
        {"study": "s", "models": {"m": model}, "corpora": {"c": corpus}, "shortcuts": {"n-njtc": {"rank": 2}}}
        | more
    )


@pytest.mark.parametrize(
    ("model", "corpus", "more", "said"),
    [
        (
            {"hub": "a/b"},
            PAIRS | {"language": "de"},
            {},
            "language: 'de' given, but it has no effect on pairs",
        ),
        (
            {"hub": "a/b"},
            PAIRS | {"unit": "paragraph"},
            {},
            "unit: 'paragraph' given, but it has no effect on",
        ),
        (
            {"hub": "a/b"},
            {"wheel": "a==1", "file": "x/*.txt", "training": 1, "validation": 1},
            {},
            r"file: 'x/\*.txt' given, accepted is the path of one file, without target",
        ),
        (
            {"untrained": {"corpus": "c"}},
            TEXTS,
            {},
            "untrained.corpus: 'c' given, accepted is a corpus .* target",
        ),
        ({"untrained": {"corpus": "c", "heads": 3}}, PAIRS, {}, "heads: 3 given, but hidden / heads"),
        ({"untrained": {"corpus": "c"}, "pairs": {}}, PAIRS, {}, "no effect on an untrained model"),
        (
            {"hub": "a/b"},
            TEXTS,
            {"experiments": {"translation": {}}},
            "it needs pairs: corpora.c has no target",
        ),
    ],
)
def test_a_mistake_is_one_line(
    model: dict[str, Any], corpus: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudyError, match=said) as raised:
        study(model, corpus, **more)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("task", "corpus", "said"),
    [
        ("seq2seq", TEXTS, "corpora.c: m is an encoder-decoder, which takes pairs: name the key"),
        ("causal", PAIRS, "corpora.c.target: m is a causal language model; accepted are encoder-decoders"),
        ("masked", PAIRS, "corpora.c.target: m is a masked language model; accepted are encoder-decoders"),
    ],
)
def test_models_and_corpora_have_to_fit(task: str, corpus: dict[str, Any], said: str, tmp_path: Path) -> None:
    describe_as(tmp_path / "s" / "m" / "model.json", task=task)
    with pytest.raises(StudyError, match=said):
        check_known_sizes(study({"hub": "a/b"}, corpus), tmp_path)


def test_an_untrained_model_has_known_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("{}", encoding="utf-8")
    made = {"corpus": "c", "hidden": 32, "blocks": 3, "encoder_blocks": 2, "heads": 4, "vocabulary": 200}
    found = study({"untrained": made})
    check_sources(found)
    sizes = look_up_sizes(found, tmp_path, {})["m"]
    assert (sizes.blocks, sizes.hidden, sizes.vocabulary, sizes.task) == (3, 32, 200, "seq2seq")
    # Attention and feed-forward network of the encoder; of the decoder, attention to the source besides.
    assert sizes.parameters == 2 * 12 * 32**2 + 3 * 16 * 32**2 + 200 * 32
    with pytest.raises(StudyError, match="rank: 40 given, 1 to H = 32 accepted"):
        check_sources(study({"untrained": made}, shortcuts={"n-njtc": {"rank": 40}}))


def test_files_of_a_pattern_have_a_folder_of_their_own() -> None:
    given = {"wheel": "a==1", "text": "msgid", "target": "msgstr", "training": 1, "validation": 1}
    folders = {
        wheel_path(study({"hub": "a/b"}, given | {"file": file}).corpora["c"])
        for file in ("x/*.po", "y/**/*.po")
    }
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {Path("resources/wheel-files/a==1")}
