"""The figure "exit-costs": shares of the full model, and what a check costs in blocks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from onejump.base.files import write_table
from onejump.figures.drawn.exit_costs import draw
from onejump.figures.inputs import Inputs


def rows_of(measured: str, weights: str, batch: int, blocks: int, block: float, head: float) -> pd.DataFrame:
    """Blocks of one cost each, a whole head, and a method with an exit head of a hundredth of that."""
    rows = [(method, level) for method in ("identity", "one-jump") for level in range(blocks)]
    rows.append(("full model", blocks))
    table = pd.DataFrame(rows, columns=["method", "level"])
    table = table.assign(measured=measured, weights=weights, batch=batch, dtype="float32", context=128)
    table = table.assign(device="cpu", threads=1, rounds=5)
    for column, scale in (("flops", 1e6), ("seconds", 1e-3)):
        table[f"blocks_{column}"] = scale * batch * block * table["level"]
        table[f"jump_{column}"] = 0.0
        table[f"head_{column}"] = scale * batch * head * (1 - 0.99 * (table["method"] == "one-jump"))
        parts = [f"{part}_{column}" for part in ("blocks", "jump", "head")]
        table[column] = table[parts].sum(axis=1)
    return table


def drawn(path: Path) -> Figure:
    tables = [rows_of("tiny", "own", batch, 4, 10.0, 40.0) for batch in (1, 32)]
    tables += [rows_of("wide", "random", batch, 6, 100.0, 50.0) for batch in (1, 32)]
    write_table(path, pd.concat(tables), model="tiny", corpus="stories")
    return draw(Inputs("exit-costs", {"exit_costs": path}))


def test_lines_are_shares_of_the_full_model(tmp_path: Path) -> None:
    axes = drawn(tmp_path / "table.parquet").axes
    panels = [ax for ax in axes if ax.get_xlabel()]
    assert len(panels) == 6
    for ax, blocks, block, head in [(panels[0], 4, 10, 40), (panels[2], 4, 10, 40), (panels[3], 6, 100, 50)]:
        full = blocks * block + head
        identity, one_jump = ax.lines[:2]
        expected = [(level * block + head) / full for level in range(blocks)]
        assert identity.get_ydata() == pytest.approx(expected)
        assert one_jump.get_ydata()[0] == pytest.approx(0.01 * head / full)
        assert ax.get_xlim() == (0, blocks)


def test_a_check_for_exit_is_told_in_blocks(tmp_path: Path) -> None:
    figure = drawn(tmp_path / "table.parquet")
    cells = [text.get_text() for text in figure.axes[-1].texts]
    # A whole head is four blocks of the one and half a block of the other, an exit head a hundredth of that.
    assert [cells.count(number) for number in ("4", "0.5", "0.04", "0.005")] == [3, 3, 3, 3]
    assert "shapes of wide" in cells
    words = " ".join(text.get_text() for text in figure.texts)
    assert "wide: random weights, one block in float32, counted 6 times" in words
    assert "full model: 80 MFLOPs" in figure.axes[0].get_title()
    assert "full model: 2.56 s" in figure.axes[2].get_title()
