"""The page, the figures and the table of a terminal, against the numbers of the trajectory they show."""

from __future__ import annotations

import json
import re
import warnings
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from onejump.base.errors import OneJumpError
from onejump.base.statistics import STATISTICS
from onejump.exits.gates import TopProbability
from onejump.lens.terminal import columns_of
from onejump.lens.trajectory import Trajectory
from onejump.models.transformer import Transformer

SENTENCE = "The old farmer counted two heavy stones near the river ."
BLOCKS = 4


@pytest.fixture(scope="module")
def trajectory(pair: Path) -> Trajectory:
    gate = TopProbability({1: 0.05, 3: 0.04})
    return Trajectory.from_results(pair, SENTENCE, ["identity", "one-jump"], k=3, gate={"one-jump": gate})


class Loads(HTMLParser):
    """Finds what a page would load, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def figures_in(page: str) -> list[dict[str, Any]]:
    (found,) = re.findall(r"^const figures = (.*);$", page, re.M)
    figures: list[dict[str, Any]] = json.loads(found)
    return figures


def test_the_page_loads_nothing_and_holds_the_numbers(trajectory: Trajectory, tmp_path: Path) -> None:
    trajectory.save_html(tmp_path / "lens.html", "one-jump", "entropy")
    page = (tmp_path / "lens.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["lens.html"]
    seen = Loads()
    seen.feed(page)
    assert seen.loaded == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(seen.tags)
    assert "import url" not in page.partition("<script>")[0]
    assert "tiny-llama" in page.partition("<script>")[0]
    assert SENTENCE in page
    (figure,) = figures_in(page)
    by_name = {trace["name"]: trace for trace in figure["data"]}
    assert by_name["one-jump"]["visible"] is True
    assert by_name["identity"]["visible"] is False
    for name in trajectory.shortcuts:
        trace = by_name[name]
        np.testing.assert_allclose(trace["z"], trajectory.entropy(name), atol=1e-6)
        for level in trajectory.levels:
            for at, hover in enumerate(trace["customdata"][level]):
                heading, *lines = hover.split("<br>")
                following = trajectory.next_tokens[at]
                behind = "" if following is None else f" → {following}"
                assert heading == f"<b>level {level}, {trajectory.tokens[at]}{behind}</b>"
                likely = [line.split("  ", 1) for line in lines[:3]]
                assert [unescape(text) for _, text in likely] == [*trajectory.top_tokens(name)[level, at]]
                np.testing.assert_allclose(
                    [float(number) for number, _ in likely],
                    trajectory.probabilities(name)[level, at],
                    atol=5.1e-5,
                )
                said = dict(line.split(": ") for line in lines[3:] if ": " in line)
                assert float(said["entropy"]) == pytest.approx(trajectory.entropy(name)[level, at], rel=1e-3)
                assert ("rank" in said) == (following is not None)
                if following is not None:
                    place = trajectory.rank(shortcut=name)[level, at]
                    assert float(said["rank"]) == place
                agrees = trajectory.agreement(name)[level, at] and level < BLOCKS
                assert ("agrees with the last level" in lines) == agrees
                leaves = name == "one-jump" and trajectory.exit_level(shortcut=name)[at] == level < BLOCKS
                assert ("exits here" in lines) == leaves


def test_menus_switch_the_shortcut_and_the_statistic_by_themselves(trajectory: Trajectory) -> None:
    figure = json.loads(trajectory.figure().to_json())
    shortcuts, statistics = figure["layout"]["updatemenus"]
    names = [trace["name"] for trace in figure["data"]]
    assert names == ["identity", "one-jump", "one-jump: exits"]
    for button, seen in zip(shortcuts["buttons"], ([True, False, False], [False, True, True]), strict=True):
        assert button["args"] == [{"visible": seen}]
    assert [button["label"] for button in statistics["buttons"]] == [
        name.replace("_", " ") for name in STATISTICS
    ]
    for button, name in zip(statistics["buttons"], STATISTICS, strict=True):
        values, scale, traces = button["args"]
        assert traces == [0, 1]
        assert set(values) == {"z"}
        for shortcut, shown in zip(trajectory.shortcuts, values["z"], strict=True):
            expected = trajectory.statistic(name, shortcut)
            expected = np.log10(expected) if name == "rank" else expected
            np.testing.assert_allclose(np.array(shown, float), expected, atol=1e-6)
        assert scale["coloraxis.cmin"] == 0 < scale["coloraxis.cmax"]
        assert scale["coloraxis.colorbar.title.text"] == STATISTICS[name].label


def test_what_a_prompt_says_is_text_and_no_markup(tiny: Transformer, tokenizer: Any) -> None:
    hostile = "</script><script>alert(1)</script><img src=x> <b>river & <!-- "
    found = Trajectory.from_prompt(tiny, tokenizer, hostile, model_name="<i>model</i>")
    page = found.to_html()
    assert "</script><script>alert" not in page
    assert "<img" not in page.rpartition("<script>")[2]
    assert "&lt;img src=x&gt;" in page
    assert "<i>model" not in page
    (figure,) = figures_in(page)
    for trace in figure["data"]:
        for text in np.ravel(trace["text"]):
            assert not re.search(r"<(?!/?b>|br>)", text)


def test_without_plotly_it_says_what_to_install(
    trajectory: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    with pytest.raises(OneJumpError, match=r"pip install 'onejump\[lens\]'"):
        trajectory.to_html()


def test_the_printed_figure_has_the_texts_and_colours(trajectory: Trajectory) -> None:
    drawn = trajectory.draw("one-jump", "rank")
    ax, colours = drawn.axes
    assert colours.get_ylabel() == STATISTICS["rank"].label
    drawn.canvas.draw()
    ticks = [label.get_text() for label in colours.get_yticklabels()]
    assert {"1", "10", "100"} <= set(ticks), "no formulas"
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, trajectory.rank(shortcut="one-jump"))
    assert [text.get_text() for text in ax.texts] == [
        token if len(token) <= 10 else token[:9] + "…"
        for token in trajectory.top_tokens("one-jump")[..., 0].ravel()
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == trajectory.tokens
    exits = trajectory.exit_level(shortcut="one-jump")
    frames = [patch.get_xy() for patch in ax.patches if isinstance(patch, Rectangle)]
    assert frames == [(at - 0.5, level - 0.5) for at, level in enumerate(exits) if level < BLOCKS]
    assert frames


def test_characters_that_the_font_lacks_are_numbers(
    tiny: Transformer, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Trajectory.from_prompt(tiny, tokenizer, "river")
    monkeypatch.setattr(found, "tokens", ["東🗼"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = found.draw()
        drawn.savefig(tmp_path / "lens.png")
    (label,) = drawn.axes[0].get_xticklabels()
    assert label.get_text() == "\\u6771\\U1…"


def test_the_table_of_a_terminal(trajectory: Trajectory) -> None:
    text = trajectory.to_text("one-jump", width=60)
    lines = text.splitlines()
    assert all(sum(map(columns_of, line)) <= 60 for line in lines)
    assert [line.split()[0] for line in lines[1 : BLOCKS + 2]] == ["4", "3", "2", "1", "0"]
    shown = 3
    assert (
        lines[-1]
        == f"The first {len(trajectory.tokens) - shown} of {len(trajectory.tokens)} tokens are not shown."
    )
    assert lines[0].split() == trajectory.tokens[-shown:]
    for line in lines[1 : BLOCKS + 2]:
        level = int(line.split()[0])
        for place, at in enumerate((-3, -2, -1)):
            cell = line[3 + 17 * place :][:15]
            mark, token, percent = cell[0], cell[1:11].strip(), cell[11:]
            likely = trajectory.top_tokens("one-jump")[level, at, 0]
            assert token == likely if len(likely) <= 10 else token == likely[:9] + "…"
            assert int(percent) == round(100 * trajectory.probabilities("one-jump")[level, at, 0])
            leaves = trajectory.exit_level(shortcut="one-jump")[at] == level < BLOCKS
            agrees = trajectory.agreement("one-jump")[level, at] and level < BLOCKS
            assert mark == (">" if leaves else "=" if agrees else " ")
    one = trajectory.to_text(width=5, levels=[4])
    assert len(one.splitlines()) == 3
