"""The figure "copied-states": a panel for each condition, a point for each range of the distance."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from onejump.base.files import write_table
from onejump.figures.drawn.copied_states import draw
from onejump.figures.inputs import Inputs


def test_curves_leave_out_the_range_of_all_distances(tmp_path: Path) -> None:
    rows = [
        {
            "exits": exits,
            "mode": mode,
            "whole": whole,
            "from": first,
            "to": last,
            "metric": metric,
            "value": value,
        }
        for exits, mode in (
            ("none", "none"),
            *((exits, mode) for exits in ("level 2", "probability 0.9") for mode in ("copied", "trusted")),
        )
        for metric in ("exits", "depth", "agreement", "cache", "surprisal", "same")
        if metric != "cache" or mode == "copied"
        for whole, first, last, value in ((True, 1, 19, 0.5), (False, 1, 8, 0.75), (False, 9, 16, 0.25))
    ]
    table = pd.DataFrame(rows).assign(stderr=0.05, n=30, documents=4)
    write_table(tmp_path / "table.parquet", table, model="m", corpus="c")
    figure = draw(Inputs("copied-states", {"copied_states": tmp_path / "table.parquet"}))
    shares, surprisal = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title() for ax in shares] == ["exit at level 2", "exit at probability 0.9 or more"]
    for ax in shares:
        lines = {line.get_label(): line for line in ax.lines}
        assert len(lines) == 5
        assert lines["full model on copies"].get_xdata() == pytest.approx([8**0.5, 12])
        assert lines["full model on copies"].get_ydata() == pytest.approx([0.75, 0.25])
    assert [len(ax.lines) for ax in surprisal] == [3, 3]
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "level 2: 50% of tokens exit, 50% of the blocks are run" in texts
