"""The figure "copied-states": panels for each method, a point for each range of distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from onejump.base.files import write_table
from onejump.figures.drawn.copied_states import draw
from onejump.figures.inputs import Inputs


def test_curves_leave_out_the_range_of_all_distances(tmp_path: Path) -> None:
    refused = {"method": "one-jump", "exits": "agreement 90%"}
    columns = [("none", "none", "none")]
    for method in ("one-jump", "identity"):
        columns += [
            (method, exits, mode) for exits in ("level 2", "agreement 90%") for mode in ("copied", "trusted")
        ]
    rows: list[dict[str, Any]] = [
        {"method": method, "exits": exits, "mode": mode, "metric": metric}
        | {"whole": whole, "from": first, "to": last, "value": value}
        for method, exits, mode in columns
        for metric in ("exits", "depth", "agreement", "cache", "surprisal", "same")
        if metric != "cache" or mode == "copied"
        for whole, first, last, value in ((True, 1, 19, 0.5), (False, 1, 8, 0.75), (False, 9, 16, 0.25))
        if metric != "agreement" or {"method": method, "exits": exits} != refused
    ]
    table = pd.DataFrame(rows).assign(stderr=0.05, n=30, documents=4, note="")
    nothing = (table["method"] == "one-jump") & (table["exits"] == "agreement 90%")
    table.loc[nothing, "note"] = "no threshold for an agreement of 0.9: there are 30 held-out samples"
    write_table(tmp_path / "table.parquet", table, model="m", corpus="c")
    figure = draw(Inputs("copied-states", {"copied_states": tmp_path / "table.parquet"}))
    shares, surprisal = (*figure.axes[:2], *figure.axes[4:6]), (*figure.axes[2:4], *figure.axes[6:])
    ran = "50% of tokens exit, 50% of the blocks are run"
    assert [ax.get_title() for ax in shares] == [
        f"identity, exit at level 2\n{ran}",
        f"one-jump, exit at level 2\n{ran}",
        f"identity, gate for 90% agreement\n{ran}",
        "one-jump, gate for 90% agreement\nno exits: no threshold for an agreement of 0.9",
    ]
    for ax, curves in zip(shares, (5, 5, 5, 3), strict=True):
        lines = {line.get_label(): line for line in ax.lines if not str(line.get_label()).startswith("_")}
        assert len(lines) == curves
        assert lines["full model on copies"].get_xdata() == pytest.approx([8**0.5, 12])
        assert lines["full model on copies"].get_ydata() == pytest.approx([0.75, 0.25])
    assert [len(ax.lines) for ax in surprisal] == [3, 3, 3, 3]
    # The target is drawn where a gate aims at one.
    assert [len(ax.lines) for ax in shares] == [5, 5, 6, 4]
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5
