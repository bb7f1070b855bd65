"""The figure "lens", and the stage that makes its table, on a tiny study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jumps_at_random import trained

from onejump.base.errors import OneJumpError, StudyError
from onejump.base.files import read_table
from onejump.figures.drawn.lens import MOST_TOKENS, draw
from onejump.figures.inputs import Inputs
from onejump.figures.style import styled
from onejump.lens.stage import look_at_prompts
from onejump.lens.trajectory import Trajectory
from onejump.models.description import read_description
from onejump.models.loading import load_model, load_tokenizer
from onejump.models.model_stage import describe
from onejump.shortcuts.files import save_shortcuts
from onejump.shortcuts.kinds.identity import Identity
from onejump.study.reading import parse_study

PROMPTS = [
    "The old farmer",
    "A young teacher painted the green boat in the garden before the rain . Our doctor",
]
METHODS = {"identity": "identity", "one-jump": "one-jump"}
OPTIONS: dict[str, Any] = {"prompts": PROMPTS, "targets": None, "methods": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """What the stage writes, in the folder of a model and corpus."""
    pair = tmp_path_factory.mktemp("lens") / "tiny/random"
    about = pair.parent / "model.json"
    describe(about, pair.parent / "head.safetensors", source=str(tiny_model_folder), device="cpu")
    digest = read_description(about).model_digest
    folder = pair / "shortcuts/one-jump"
    save_shortcuts(folder, trained("one-jump", 4, 32), {}, levels=4, one=True, model_digest=digest)
    look_at_prompts(
        pair / "lens.parquet",
        pair / "lens.html",
        about,
        [folder],
        [],
        methods=METHODS,
        prompts=PROMPTS,
        statistic="entropy",
        model="tiny",
        corpus="random",
        device="cpu",
    )
    return pair


def test_the_table_holds_the_trajectories(made: Path, tiny_model_folder: Path) -> None:
    found = read_table(made / "lens.parquet")
    assert found.columns[:3].tolist() == ["model", "corpus", "prompt"]
    model, tokenizer = (
        load_model(str(tiny_model_folder), device="cpu"),
        load_tokenizer(str(tiny_model_folder)),
    )
    for number, prompt in enumerate(PROMPTS):
        expected = Trajectory.from_prompt(model, tokenizer, prompt, [Identity()]).to_pandas()
        rows = found.query(f"prompt == {number} and shortcut == 'identity'").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[expected.columns], expected, check_dtype=False)
    page = (made / "lens.html").read_text(encoding="utf-8")
    assert page.count('class="prompt"') == len(PROMPTS)
    assert "What tiny says at every level, shortcuts fitted on random" in page


def test_a_panel_for_each_prompt_and_method(made: Path) -> None:
    table = read_table(made / "lens.parquet")
    with styled():
        drawn = draw(Inputs("lens", {"lens": made / "lens.parquet"}), **OPTIONS, statistic="entropy")
        drawn.canvas.draw()
    *panels, colours = drawn.axes
    assert [ax.get_title() for ax in panels] == ["identity", "one-jump"] * 2
    assert colours.get_ylabel() == "entropy (nats)"
    for ax, (number, name) in zip(panels, [(p, m) for p in (0, 1) for m in METHODS], strict=True):
        rows = table.query(f"prompt == {number} and shortcut == '{name}' and place == 1")
        rows = rows.sort_values(["level", "position"])
        shape = 5, rows["position"].nunique()
        values = rows["entropy"].to_numpy().reshape(shape)[:, -MOST_TOKENS:]
        np.testing.assert_array_equal(np.ma.filled(ax.images[0].get_array(), np.nan), values)
        texts = rows["prediction"].to_numpy().reshape(shape)[:, -MOST_TOKENS:].ravel()
        assert [text.get_text() for text in ax.texts] == [
            text if len(text) <= 10 else text[:9] + "…" for text in texts
        ]
    assert any(f"the last {MOST_TOKENS} tokens" in text.get_text() for text in drawn.texts)


def test_prompts_that_cannot_be_looked_at_leave_nothing(made: Path, tmp_path: Path) -> None:
    with pytest.raises(OneJumpError, match="the prompt is empty"):
        look_at_prompts(
            tmp_path / "lens.parquet",
            tmp_path / "lens.html",
            made.parent / "model.json",
            [],
            [],
            methods={"identity": "identity"},
            prompts=["river", ""],
            model="tiny",
            corpus="random",
            device="cpu",
        )
    assert not list(tmp_path.iterdir())


STUDY: dict[str, Any] = {
    "study": "mine",
    "models": {"m": {"hub": "some/model"}},
    "corpora": {"c": {"path": "text.txt", "training": 10, "validation": 5}},
    "shortcuts": {"n-njtc": {}, "one-jump": {}},
}


def test_a_study_names_prompts_and_methods() -> None:
    def looked_through(**options: Any) -> tuple[str, ...]:
        return parse_study(STUDY | {"figures": {"lens": options}}).looked_through()

    assert parse_study(STUDY).looked_through() == ()
    assert looked_through(prompts=["The moon"]) == ("identity", "one-jump")
    assert looked_through(methods=["identity", "ojfa"]) == ("identity", "ojfa")
    for options, message in (
        ({"prompts": []}, "prompts"),
        ({"prompts": [""]}, "prompts"),
        ({"methods": ["jtc"]}, "the study evaluates n-njtc, one-jump, ojfa"),
        ({"statistic": "loss"}, "probability"),
        ({"prompts": ["a", "b"], "targets": ["c"]}, "there are 2 prompts"),
    ):
        with pytest.raises(StudyError, match=message):
            looked_through(**options)


def test_a_study_puts_its_prefix_before_each_source(tiny_marian: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = tiny_marian
    about, source, target = tmp_path / "model.json", "The old farmer", "My neighbour"
    pairs = {"prefix": "river ", "source_language": None, "target_language": None}
    describe(about, tmp_path / "head.safetensors", source=str(folder), pairs=pairs, device="cpu")
    names = {"model": "m", "corpus": "c", "device": "cpu"}
    options = {"methods": {"identity": "identity"}, "prompts": [source], "targets": [target]}
    look_at_prompts(tmp_path / "lens.parquet", tmp_path / "lens.html", about, [], [], **options, **names)
    found = read_table(tmp_path / "lens.parquet")
    model, tokenizer = load_model(str(folder), device="cpu"), load_tokenizer(str(folder))
    for prefix, same in (("river ", True), ("", False)):
        expected = Trajectory.from_prompt(model, tokenizer, prefix + source, target=target).to_pandas()
        near = np.allclose(found["surprisal"], expected["surprisal"], rtol=1e-4, equal_nan=True)
        assert near == same
