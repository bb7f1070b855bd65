"""Figures: what they hold, and that they are written whole and alike."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from onejump.base.errors import OneJumpError
from onejump.base.files import write_table
from onejump.base.scores import OF_STATES
from onejump.figures.drawing import draw
from onejump.figures.drawn.pareto import _front, _Point
from onejump.figures.looks import LOOKS
from onejump.scoring.selection import select_jump

FIGURES = (
    *("methods", "selected", "alternatives", "limit", "pareto"),
    *("scores", "parameters", "spaces", "ranks"),
)
PRECISIONS = ["precision@1", "precision@5", "precision@10"]
PAPERS = ("identity", "jtc", "njtc", "n-njtc", "joint")
DISTILLED = ("distilled", "one-jump", "shortlist", "one-residual", "one-forward", "affine")
EVERY = (*PAPERS, "residual", *DISTILLED)


def _options(figure: str) -> dict[str, Any]:
    if figure in ("scores", "spaces"):
        return {"colormap": "cividis"}
    if figure in ("parameters", "ranks"):
        return {}
    return {"metrics": ["precision@1"] if figure in ("limit", "pareto") else ["precision@1", "surprisal"]}


def _value(method: str, metric: str, x: float, jump: float) -> float:
    """A plausible value at the fraction x of the way to the last level."""
    away = abs(x - jump)
    precision = {
        "identity": 0.005 + 0.5 * x**3,
        "jtc": 0.27 + 0.5 * x**2,
        "njtc": 0.12 + 0.02 * x,
        "n-njtc": 0.15 + 0.01 * x,
        "joint": 0.135 - 0.01 * x,
        "residual": 0.1 + 0.5 * x**3,
        "distilled": 0.28 + 0.1 * x,
        "one-jump": 0.22 + 0.15 * x,
        "shortlist": 0.23 + 0.3 * x**2,
        "one-residual": 0.24 + 0.33 * x**2,
        "one-forward": 0.3 + 0.1 * x,
        "affine": 0.33 + 0.47 * x**2,
    }.get(method, max(0.002, 0.152 - 0.14 * away))
    if metric in PRECISIONS:
        return min(1.0, precision * (1 + 0.5 * PRECISIONS.index(metric)))
    surprisal = {
        "identity": 0.9 + 140 * (1 - x) ** 6 + 8 * (1 - x),
        "jtc": 4.2 - 3.4 * x,
        "njtc": 5.6,
        "n-njtc": 5.2 - 0.1 * x,
        "joint": 5.5,
    }.get(method, 5.2 + 2 * away + (30 * away if x == 0 else 0))
    if metric != "r2":
        return surprisal * (0.8 if metric == "kl" else 1)
    r2 = {"identity": -8 + 8.9 * x, "jtc": 0.3 + 0.6 * x, "njtc": 0.1, "n-njtc": 0.2 + 0.1 * x, "joint": 0.15}
    return r2.get(method, -1e7 * away if x == 0 else 0.2 - away)


def tables(
    folder: Path,
    *,
    levels: int = 30,
    methods: tuple[str, ...] = PAPERS,
    arbitrary: bool = True,
    metric: str = "signed-squared-cosine",
    model: str = "SmolLM2-135M",
    hidden: int = 576,
    samples: int = 3000,
) -> dict[str, Path]:
    """Tables shaped like the stages' own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    level = np.arange(levels)
    best = int(0.45 * levels)
    # Scores: high near the diagonal, the middle jumps serving most.
    cosine = np.exp(-(((level[:, None] - level) / levels) ** 2) * 3) * 0.5 - 0.3 * (level[:, None] < 1)
    cosine += 0.01 * rng.normal(size=cosine.shape)
    by_metric = dict(zip(OF_STATES, (cosine * abs(cosine), cosine, 10.0 ** (2 - 3 * cosine)), strict=True))
    paths = {name: folder / f"{name}.parquet" for name in ("evaluation", "scores", "parameters")}
    paths["selection"] = folder / "selection.json"
    rows = [
        (model, "wiki-en", name, m, k, float(matrix[m, k]), 9000)
        for name, matrix in by_metric.items()
        for m in level
        for k in level
    ]
    columns = ["model", "corpus", "metric", "jump", "level", "score", "n"]
    write_table(paths["scores"], pd.DataFrame(rows, columns=columns))
    the_set = "n-njtc" if "n-njtc" in methods else "njtc"
    select_jump(paths["selection"], paths["scores"], method=the_set, metric=metric)
    jump = json.loads(paths["selection"].read_text())["jump"]
    jumps = dict.fromkeys(methods, best) | {"ojfa": jump}
    if "distilled" in methods:
        jumps |= {"ojfa-normalised": jump, "ojfa-distilled": best, "ojfa-distilled-surprisal": best + 2}
    if arbitrary:
        jumps |= {"arbitrary-first": 0, "arbitrary-middle": levels // 2, "arbitrary-last": levels - 1}
        jumps |= {f"arbitrary-random-{i}": int(rng.integers(levels)) for i in range(1, 6)}
    evaluation = []
    for method, at in jumps.items():
        for k in level:
            # A distilled kind has no r2.
            fit = [] if method in DISTILLED or method.startswith("ojfa-distilled") else ["r2"]
            for name in [*PRECISIONS, "surprisal", "kl", *fit]:
                value = _value(method, name, k / max(1, levels - 1), at / max(1, levels - 1))
                value *= 1 + 0.02 * rng.normal()
                value = min(value, 1.0) if name in PRECISIONS else value
                spread = (value * (1 - value)) ** 0.5 if name in PRECISIONS else abs(value)
                stderr = spread / samples**0.5
                evaluation.append((model, "wiki-en", method, k, name, value, stderr, samples, samples // 2))
    columns = ["model", "corpus", "method", "level", "metric", "value", "stderr", "n", "documents"]
    write_table(paths["evaluation"], pd.DataFrame(evaluation, columns=columns))
    rank = max(1, hidden // 100)
    low = 4 * hidden + 2 * hidden * rank
    numbers = {
        "identity": (0, 0),
        "jtc": (levels, levels * hidden**2),
        "njtc": (levels, levels * 2 * hidden * rank),
        "n-njtc": (levels, levels * low),
        "joint": (1, low),
        "ojfa": (1, low),
        "residual": (levels, levels * low),
        "distilled": (levels, levels * (2 * hidden * rank + hidden + rank)),
        "one-jump": (1, 2 * hidden * rank + hidden + levels * (rank + rank**2)),
        "shortlist": (1, 2 * hidden * rank + hidden + levels * (rank + rank**2 + 2)),
        "one-residual": (1, 2 * (2 * hidden * rank + hidden + levels * (rank + rank**2 + 1))),
        "one-forward": (1, 3 * hidden * rank + hidden + levels * (rank + rank**2)),
        "affine": (levels, levels * (hidden**2 + hidden)),
        "ojfa-normalised": (1, low + 2 * levels * hidden),
        "ojfa-distilled": (1, 2 * hidden * rank + hidden + rank),
        "ojfa-distilled-surprisal": (1, 2 * hidden * rank + hidden + rank),
    }
    full = numbers[the_set][1]
    counts = [
        (model, "wiki-en", m, kept, n, full / n if n else float("nan"))
        for m, (kept, n) in numbers.items()
        if m in jumps or m == "identity"
    ]
    columns = ["model", "corpus", "method", "shortcuts", "numbers", "reduction"]
    write_table(paths["parameters"], pd.DataFrame(counts, columns=columns))
    paths["analysis"] = folder / "analysis.parquet"
    found: list[tuple[Any, ...]] = []
    for method in (method for method in ("n-njtc", "distilled") if method in methods):
        found.append((method, "by-chance", None, None, None, rank / hidden))
        for k in level:
            for name, near in (("shared-down", 3), ("shared-up", 80)):
                found += [(method, name, k, m, None, float(np.exp(-abs(k - m) / near))) for m in level]
            steep = 0.3 if method == "n-njtc" else 0.8
            held = rng.uniform(0.9, 1) * (1 - steep) * steep ** np.arange(rank)
            lost = 8 - (1 - steep) * np.arange(rank + 1)
            for name, values in (("error-share", held), ("head-share", held / 9), ("cross-entropy", lost)):
                found += [(method, name, k, None, i, float(value)) for i, value in enumerate(values)]
    columns = ["method", "quantity", "level", "other", "index", "value"]
    analysis = pd.DataFrame(found, columns=columns).astype(dict.fromkeys(columns[2:5], "Int64"))
    analysis.insert(0, "model", model)
    analysis.insert(1, "corpus", "wiki-en")
    write_table(paths["analysis"], analysis)
    return paths


def _texts(svg: Path) -> str:
    return "\n".join(
        element.text or "" for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    )


def _draw(figure: str, folder: Path, inputs: dict[str, Path], **options: Any) -> tuple[Path, Path]:
    svg, png = folder / f"{figure}.svg", folder / f"{figure}.png"
    draw(figure, svg, png, **inputs, options=_options(figure) | options)
    return svg, png


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tables(tmp_path_factory.mktemp("full"), methods=EVERY)


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """drawn(figure, inputs, **options): the figure as it was saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)

    def make(figure: str, inputs: dict[str, Path], **options: Any) -> Figure:
        monkeypatch.setattr(Figure, "savefig", keep)
        _draw(figure, tmp_path, inputs, **options)
        return saved[-1]

    return make


EXPECTED = {
    "methods": [
        *EVERY,
        "selected jump (OJFA), level ",
        "ojfa-normalised",
        "ojfa-distilled",
        "ojfa-distilled-surprisal",
    ],
    "selected": ["n-njtc, a jump per level (30 jumps)", "selected jump (OJFA), fitted at level", "identity"],
    "alternatives": ["joint (one n-njtc for all levels)", "first jump (level 0)", "last jump (level 29)"],
    "limit": ["share of affine's precision@1", "identity", "one-jump", "selected jump (OJFA), level "],
    "pareto": [
        "how often its token is the full model's own (precision@1)",
        "one-jump: one low-rank jump for all",
        "affine",
        "one-jump",
        "selected jump (OJFA), level ",
    ],
    "scores": ["jump m (fitted at level m)", "◀ jump ", "selected: jump "],
    "parameters": [
        "jtc",
        "n-njtc",
        "9,953,280",
        "41.1× more",
        "30× fewer",
        "the same",
        "selected jump (OJFA), level ",
    ],
    "spaces": [
        "n-njtc: spaces read (columns of A)",
        "distilled: spaces written (rows of B)",
        "0.0087: mean of random",
    ],
    "ranks": ["share of the last level's variance", "cross-entropy with the full", "distilled"],
}


@pytest.mark.parametrize("figure", FIGURES)
def test_full_study_is_drawn_with_its_labels_as_text_and_twice_alike(
    figure: str, full: dict[str, Path], tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    svg, png = _draw(figure, tmp_path / "a", full)
    again = _draw(figure, tmp_path / "b", full)
    assert [svg.read_bytes(), png.read_bytes()] == [path.read_bytes() for path in again]
    texts = _texts(svg)
    for label in [*EXPECTED[figure], "SmolLM2-135M on wiki-en"]:
        assert label in texts
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<dc:date>" not in svg.read_text(encoding="utf-8")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("figure", [figure for figure in FIGURES if figure != "limit"])
def test_study_with_little_in_it_is_drawn(figure: str, levels: int, tmp_path: Path) -> None:
    inputs = tables(tmp_path / "in", levels=levels, methods=("n-njtc",), arbitrary=False)
    svg, _ = _draw(figure, tmp_path, inputs)
    texts = _texts(svg)
    assert "joint" not in texts
    assert "arbitrary" not in texts
    assert "\njtc" not in texts
    assert "distilled" not in texts
    assert "affine" not in texts


def test_every_metric_and_values_beyond_the_axis(full: dict[str, Path], tmp_path: Path) -> None:
    metrics = [*PRECISIONS, "surprisal", "r2", "kl"]
    svg, _ = _draw("alternatives", tmp_path, full, metrics=metrics)
    texts = _texts(svg)
    for label in [*PRECISIONS, "(token is in the full model's top 5)", "KL divergence from the full"]:
        assert label in texts
    assert "▼ below the axis: " in texts
    assert "arbitrary jumps down to −" in texts.replace("\n", " ")


def test_without_a_selection_methods_and_parameters_name_no_level(
    full: dict[str, Path], tmp_path: Path
) -> None:
    inputs = {name: full[name] for name in ("evaluation", "parameters")}
    assert "selected jump (OJFA)\n" in _texts(_draw("methods", tmp_path, inputs)[0])
    texts = _texts(_draw("parameters", tmp_path, inputs)[0])
    assert "selected jump (OJFA)\n" in texts
    assert "all n-njtc jumps" in texts
    assert "level" not in texts


@pytest.mark.parametrize("metric", OF_STATES)
def test_scores_show_the_metric_that_chose(metric: str, tmp_path: Path) -> None:
    inputs = tables(tmp_path / "in", levels=6, metric=metric, methods=("njtc",), arbitrary=False)
    chosen = json.loads(inputs["selection"].read_text())
    svg, _ = _draw("scores", tmp_path, inputs)
    texts = _texts(svg)
    assert {"mse": "mean squared error (less"}.get(metric, "cosine") in texts
    assert f"selected: jump {chosen['jump']}, score {chosen['score']:#.4g}" in texts


def test_infinite_and_zero_values_are_drawn(tmp_path: Path) -> None:
    inputs = tables(tmp_path / "in", levels=3)
    table = pd.read_parquet(inputs["evaluation"])
    table.loc[(table["method"] == "identity") & (table["level"] == 0), ["value", "stderr"]] = np.inf
    table.loc[(table["method"] == "jtc") & (table["level"] == 2), ["value", "stderr"]] = 0.0
    write_table(inputs["evaluation"], table)
    svg, _ = _draw("methods", tmp_path, inputs, metrics=["precision@1", "surprisal", "kl", "r2"])
    assert "identity up to inf" in _texts(svg)


def test_linear_parts_that_leave_the_axis_are_drawn(full: dict[str, Path], tmp_path: Path) -> None:
    rows = [
        ("SmolLM2-135M", "wiki-en", part, level, metric, value, 0.01, 600, 200)
        for part in ("attention", "feed-forward", "norms")
        for level in (0, 15, 29)
        for metric, value in (("precision@1", 0.5), ("surprisal", 1e9 if part == "norms" else 2.0))
    ]
    columns = ["model", "corpus", "part", "level", "metric", "value", "stderr", "n", "documents"]
    write_table(tmp_path / "parts.parquet", pd.DataFrame(rows, columns=columns))
    svg, _ = _draw("sub-modules", tmp_path, full | {"sub_modules": tmp_path / "parts.parquet"})
    texts = _texts(svg)
    assert "feed-forward linear" in texts
    assert "▲ above the axis: " in texts
    assert "norms up to 1e9" in texts


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("methods", "evaluation"),
        ("pareto", "evaluation"),
        ("ranks", "analysis"),
        ("parameters", "parameters"),
    ],
)
def test_a_method_without_a_look_is_no_figure(
    figure: str, name: str, full: dict[str, Path], tmp_path: Path
) -> None:
    table = pd.read_parquet(full[name])
    table["method"] = table["method"].replace("n-njtc", "new-kind")
    write_table(tmp_path / "new.parquet", table)
    with pytest.raises(OneJumpError, match="method 'new-kind' has no look in figures: give it"):
        _draw(figure, tmp_path, full | {name: tmp_path / "new.parquet"})


def test_a_method_without_the_first_metric_is_in_the_legend(
    full: dict[str, Path], drawn: Callable[..., Figure]
) -> None:
    result = drawn("methods", full, metrics=["r2", "precision@1"])
    names = [text.get_text() for text in result.legends[0].get_texts()]
    first, second = result.axes
    assert "distilled" in names
    assert names.index("residual") < names.index("distilled")
    for ax, there in ((first, False), (second, True)):
        assert (LOOKS["distilled"].colour in [line.get_color() for line in ax.lines]) is there


def test_every_method_has_a_look_of_its_own() -> None:
    for looks in zip(*LOOKS.values(), strict=True):
        assert len(set(looks)) == len(LOOKS)


@pytest.fixture
def transferred(full: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The shortcuts of wiki-en there and on another corpus, beside those fitted to that one."""
    table = pd.read_parquet(full["evaluation"])
    table = table[~table["method"].str.startswith("arbitrary")]
    there = [("wiki-en", "wiki-en", 13), ("wiki-en", "code", 13), ("code", "code", 20)]
    together = pd.concat([table.assign(fitted_on=a, target=b, jump=jump) for a, b, jump in there])
    write_table(tmp_path / "transfer.parquet", together)
    return {"transfer": tmp_path / "transfer.parquet"}


def test_transfer_says_whose_jumps_a_corpus_selects(
    transferred: dict[str, Path], drawn: Callable[..., Figure]
) -> None:
    titles = [ax.get_title() for ax in drawn("transfer", transferred).axes]
    samples = "3,000 samples from 1,500 documents"
    assert titles[0] == f"on wiki-en, where they were fitted\n{samples}\nwiki-en selects jump 13"
    assert titles[1] == f"on code\n{samples}\ncode selects jump 13;\nof its own, jump 20"


@pytest.mark.parametrize("figure", ["methods", "limit", "transfer"])
def test_a_long_legend_stays_inside_and_below(
    figure: str, full: dict[str, Path], transferred: dict[str, Path], drawn: Callable[..., Figure]
) -> None:
    result = drawn(figure, full | transferred)
    legend = result.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= result.bbox.x1
    below = min(ax.get_tightbbox().y0 for ax in result.axes)
    assert 0 <= legend.y0 < legend.y1 <= below + 1
    assert min(ax.get_window_extent().height for ax in result.axes) > 2.5 * result.dpi


def _precisions(inputs: dict[str, Path]) -> pd.DataFrame:
    table = pd.read_parquet(inputs["evaluation"])
    table = table[table["metric"] == "precision@1"]
    return table.pivot(index="level", columns="method", values="value")


def test_the_limit_divides_by_affine_level_by_level(
    full: dict[str, Path], drawn: Callable[..., Figure]
) -> None:
    values = _precisions(full)
    (ax,) = drawn("limit", full).axes
    lines = {line.get_color(): line for line in ax.lines if len(line.get_xdata()) == len(values)}
    assert len(lines) == len(LOOKS) - 1
    for method, look in LOOKS.items():
        if method != "affine":
            expected = values[method] / values["affine"]
            np.testing.assert_allclose(lines[look.colour].get_ydata(), expected)
    reference = [line for line in ax.lines if line.get_color() == LOOKS["affine"].colour]
    assert [list(line.get_ydata()) for line in reference] == [[1, 1]]


def test_the_limit_needs_affine_and_leaves_a_gap_where_that_is_nothing(
    tmp_path: Path, drawn: Callable[..., Figure]
) -> None:
    inputs = tables(tmp_path / "in", levels=3)
    with pytest.raises(OneJumpError, match=r"figure limit: affine, .* the study needs shortcuts.affine"):
        _draw("limit", tmp_path, inputs)
    inputs = tables(tmp_path / "in", levels=3, methods=EVERY)
    table = pd.read_parquet(inputs["evaluation"])
    table.loc[(table["method"] == "affine") & (table["level"] == 1), "value"] = 0.0
    write_table(inputs["evaluation"], table)
    (ax,) = drawn("limit", inputs).axes
    line = next(line for line in ax.lines if line.get_color() == LOOKS["distilled"].colour)
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]


@pytest.mark.parametrize("methods", [EVERY, PAPERS])
def test_pareto_points_are_numbers_and_mean_precisions(
    methods: tuple[str, ...], tmp_path: Path, drawn: Callable[..., Figure]
) -> None:
    inputs = tables(tmp_path / "in", methods=methods)
    values = _precisions(inputs)
    means = values.mean()
    counts = pd.read_parquet(inputs["parameters"]).set_index("method")
    (ax,) = drawn("pareto", inputs).axes
    zero, name = next(zip(ax.get_xticks(), ax.get_xticklabels(), strict=False))
    assert name.get_text() == "0"
    points = {line.get_color(): line for line in ax.lines if line.get_marker() != "None"}
    for method, (kept, numbers) in counts[["shortcuts", "numbers"]].iterrows():
        point = points[LOOKS[method].colour]
        assert point.get_xdata()[0] == (numbers or zero)
        assert point.get_ydata()[0] == pytest.approx(means[method])
        assert (point.get_markerfacecolor() == "white") == (kept != 1)
    inside = ax.get_window_extent()
    names = [text for text in ax.texts if isinstance(text, Annotation)]
    assert len(names) == len(counts)
    boxes = [Text.get_window_extent(text) for text in names]  # without the lines to the points
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_pareto_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    kinds = {str(i): _Point("", numbers, value, True) for i, (numbers, value) in enumerate(points)}
    best = {
        (numbers, value)
        for numbers, value in points
        if not any((n, v) != (numbers, value) and n <= numbers and v >= value for n, v in points)
    }
    front = [(kinds[method].numbers, kinds[method].value) for method in _front(kinds)]
    assert front == sorted(best)


def test_spaces_and_ranks_show_the_table(full: dict[str, Path], drawn: Callable[..., Figure]) -> None:
    table = pd.read_parquet(full["analysis"])
    panels = [ax for ax in drawn("spaces", full).axes if ax.get_title()]
    order = [(m, q) for m in ("n-njtc", "distilled") for q in ("shared-down", "shared-up")]
    for ax, (method, quantity) in zip(panels, order, strict=True):
        rows = table[(table["method"] == method) & (table["quantity"] == quantity)]
        (mesh,) = (found for found in ax.collections if isinstance(found, QuadMesh))
        expected = rows.pivot(index="level", columns="other", values="value").to_numpy()
        np.testing.assert_allclose(mesh.get_array().reshape(expected.shape), expected)
        assert mesh.get_clim() == (0, 1)
    variance, loss = drawn("ranks", full).axes
    for ax, quantity in ((variance, "error-share"), (loss, "cross-entropy")):
        for line in ax.lines:
            rows = table[(table["method"] == line.get_label()) & (table["quantity"] == quantity)]
            means = rows.groupby("index")["value"].mean()
            expected = [0, *means.cumsum()] if ax is variance else means
            np.testing.assert_allclose(line.get_ydata(), expected)
        assert len(ax.lines) == 2


def test_errors_say_what_was_given_and_leave_the_old_files(full: dict[str, Path], tmp_path: Path) -> None:
    svg, png = _draw("scores", tmp_path, full)
    old = svg.read_bytes(), png.read_bytes()
    with pytest.raises(OneJumpError, match="'precision@7' given, but the evaluation holds precision@1"):
        _draw("methods", tmp_path, full, metrics=["precision@7"])
    with pytest.raises(OneJumpError, match="figure 'pie' given"):
        draw("pie", svg, png, options={})
    with pytest.raises(OneJumpError, match="figure methods: the input 'evaluation' is needed"):
        draw("methods", svg, png, options=_options("methods"))
    with pytest.raises(OneJumpError, match="figure ranks: the options metrics given, needed are none"):
        draw("ranks", svg, png, **full, options={"metrics": ["r2"]})
    with pytest.raises(OneJumpError, match="figure methods: the options none given, needed are metrics"):
        draw("methods", svg, png, **full, options={})
    with pytest.raises(OneJumpError, match="figure ranks: a csv is asked for, but the figure has no table"):
        draw("ranks", svg, png, csv=tmp_path / "ranks.csv", **full, options={})
    # A failure at the second file leaves the first as it was.
    with pytest.raises(ValueError, match="nonsense"):
        draw("parameters", svg, tmp_path / "x.nonsense", **full, options={})
    assert (svg.read_bytes(), png.read_bytes()) == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.png", "scores.svg"]


def test_pyplot_is_left_alone() -> None:
    import subprocess

    code = "import sys, onejump.figures.drawing; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_of_two_equal_curves_both_are_seen(tmp_path: Path, drawn: Callable[..., Figure]) -> None:
    """The line without gaps lies below: of njtc, which n-njtc hid, the strokes lie on it."""
    ax = drawn("methods", tables(tmp_path / "in", levels=6)).axes[0]
    curves = {line.get_color(): line for line in ax.lines if len(line.get_xdata()) == 6}
    solid = curves.pop(LOOKS["n-njtc"].colour)
    assert solid.get_linestyle() == "-"
    assert LOOKS["njtc"].colour in curves
    assert all(curve.get_linestyle() != "-" for curve in curves.values())
    assert all(curve.get_zorder() > solid.get_zorder() for curve in curves.values())


@pytest.mark.parametrize("levels", [2, 30])
@pytest.mark.parametrize("figure", ["methods", "selected", "alternatives", "limit"])
def test_bands_of_few_samples_are_shown_whole(
    figure: str, levels: int, tmp_path: Path, drawn: Callable[..., Figure]
) -> None:
    inputs = tables(tmp_path / "in", levels=levels, methods=EVERY, samples=20)
    axes = drawn(figure, inputs).axes
    (low, high), (least, most) = axes[0].get_ylim(), _extent(axes[0])
    assert low <= least
    assert most <= high
    if figure != "limit":
        assert 0 <= least < most <= 1  # no band leaves what a precision can be
        assert _extent(axes[1])[0] >= 0


def _extent(ax: Axes) -> tuple[float, float]:
    """From the lowest to the highest end of the bands."""
    ends = [
        path.vertices[:, 1]
        for band in ax.collections
        if isinstance(band, PolyCollection) and band.get_alpha() == 0.18
        for path in band.get_paths()
    ]
    return float(min(map(np.min, ends))), float(max(map(np.max, ends)))


@pytest.mark.parametrize("figure", ["methods", "selected", "alternatives", "limit", "prediction"])
def test_the_selected_jump_is_marked_where_levels_are_shown(
    figure: str, full: dict[str, Path], drawn: Callable[..., Figure]
) -> None:
    level = json.loads(full["selection"].read_text())["jump"]
    options = (
        {"methods": ["n-njtc", "identity"], "metrics": ["precision@1"]} if figure == "prediction" else {}
    )
    for ax in drawn(figure, full, **options).axes:
        assert f"selected: level {level}" in [text.get_text() for text in ax.texts]
        assert any(list(line.get_xdata()) == [level, level] for line in ax.lines)


def test_maps_of_levels_point_at_the_selected_jump(
    full: dict[str, Path], drawn: Callable[..., Figure]
) -> None:
    level = json.loads(full["selection"].read_text())["jump"]
    maps = drawn("spaces", full).axes[:4]
    at = [[(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines] for ax in maps]
    assert at == [[(level, 1.02), (1.02, level)]] * 2 + [[], []]  # of n-njtc, not of distilled
