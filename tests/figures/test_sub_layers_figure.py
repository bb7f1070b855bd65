"""The figure "sub-layers": where curves lie, and what the table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from onejump.base.files import write_table
from onejump.figures.drawn.sub_layers import draw
from onejump.figures.inputs import Inputs

NAMES = {"model": "m", "corpus": "c"}


def inputs(folder: Path, states: tuple[str, ...], between: tuple[str, ...]) -> Inputs:
    rows = [
        (block, state, metric, 0.1 * block, 0.01)
        for block in range(1, 4)
        for state in states
        for metric in ("agreement", "overlap", "changes")
    ]
    table = pd.DataFrame(rows, columns=["block", "state", "metric", "value", "stderr"])
    write_table(folder / "states.parquet", table.assign(n=60, documents=20), **NAMES)
    exits = [
        {"exits": name, "gate": gate, "target": target, "saved": 0.25, "agreement": 0.9, "reached": reached}
        for name in between
        for gate, target, reached in (("first", np.nan, True), ("fixed", 0.95, True), ("fixed", 0.9, False))
    ]
    few = "there are too few samples"
    table = pd.DataFrame(exits).assign(note=["" if one["reached"] else few for one in exits])
    write_table(folder / "exits.parquet", table, **NAMES)
    return Inputs("sub-layers", {name: folder / f"{name}.parquet" for name in ("states", "exits")})


def test_states_stand_at_their_place_in_the_block(tmp_path: Path) -> None:
    states = ("level", "middle", "attention", "feed-forward")
    figure = draw(inputs(tmp_path, states, ("blocks", "half-blocks")))
    *panels, table = figure.axes
    assert len(panels) == 3
    for ax in panels:
        lines = {line.get_label(): line for line in ax.lines}
        assert lines["behind attention"].get_xdata() == pytest.approx([0.5, 1.5, 2.5])
        assert lines["feed-forward alone"].get_xdata() == pytest.approx([1, 2, 3])
        assert lines["attention alone"].get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    texts = [text.get_text() for text in table.texts]
    assert texts[:2] == ["exits after blocks", "and behind attention"]
    assert texts[2:5] == ["oracle, first", "25.0% (0.900)", "25.0% (0.900)"]
    assert texts[-3:] == ["fixed threshold, target 90%", "not reached", "not reached"]
    assert any("too few samples" in text.get_text() for text in figure.texts)


def test_parallel_blocks_are_said_to_be_such(tmp_path: Path) -> None:
    figure = draw(inputs(tmp_path, ("level", "both"), ("blocks",)))
    assert any("side by side: no state between" in text.get_text() for text in figure.texts)
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert "and behind attention" not in texts
