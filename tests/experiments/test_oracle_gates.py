"""Gates beside the oracle, against a simulation sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from simulated_exits import table_of

from onejump.base.errors import OneJumpError
from onejump.base.files import write_table
from onejump.exits.gate_confidences import GATE_KINDS, confidences_of_gate, levels_in_a_row
from onejump.exits.gate_training import fit_weights
from onejump.exits.gates import Patience
from onejump.exits.guarantee import learning_part
from onejump.exits.learned_gate import Learned
from onejump.experiments.gates import OUTCOMES, GateOptions, compare_gates
from onejump.figures.drawn.gates import draw
from onejump.figures.inputs import Inputs
from onejump.study.experiments import Gates

LEVELS, SAMPLES = 6, 400
# Tables without coordinates have no learned gate.
PLAIN = tuple(kind for kind in GATE_KINDS if kind != "learned")


def some_table(seed: int, method: str = "identity", samples: int = SAMPLES) -> pd.DataFrame:
    """Hits the likelier the later the level and the surer the prediction; wrong tokens are one of three."""
    generator = np.random.default_rng(seed)
    p = generator.beta(2, 1, size=(samples, LEVELS)) * np.linspace(0.6, 1, LEVELS)
    hits = generator.random(p.shape) < p
    tokens = np.where(hits, 0, generator.integers(1, 4, p.shape))
    return table_of(
        hits,
        method,
        token=tokens,
        probability=p,
        margin=p**2,
        entropy=p**3,
        document=np.arange(samples) // 2,
    )


def simulated(
    table: pd.DataFrame, kind: str, thresholds: Sequence[float], from_level: int
) -> list[tuple[str, int, int]]:
    """Outcome, level of exit and stable level of each sample, by the words of the module's docstring."""
    found = []
    column = {"top-probability": "probability"}.get(kind, kind)
    for _, rows in table.sort_values("level").groupby("sample"):
        hits, tokens = rows["hit"].tolist(), rows["token"].tolist()
        stable = next((s for s in range(from_level, LEVELS) if all(hits[s:])), LEVELS)
        level, row = LEVELS, 1
        for at in range(from_level, LEVELS):
            row = row + 1 if at > from_level and tokens[at] == tokens[at - 1] else 1
            sure = row / (row + 1) if kind == "patience" else rows[column].iloc[at]
            if sure >= thresholds[at]:
                level = at
                break
        if level == LEVELS:
            outcome = "stayed" if stable == LEVELS else "missed"
        elif level < stable:
            outcome = "unsettled" if hits[level] else "wrong"
        else:
            outcome = "exact" if level == stable else "late"
        found.append((outcome, level, stable))
    return found


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("gates")
    for split, seed in (("held-out", 0), ("validation", 1)):
        tables = [some_table(seed + 10 * number, m) for number, m in enumerate(("identity", "jtc"))]
        write_table(folder / f"{split}.parquet", pd.concat(tables))
    compare_gates(
        folder / "curves.parquet",
        folder / "outcomes.parquet",
        [folder / "held-out.parquet"],
        [folder / "validation.parquet"],
        options=GateOptions(targets=(0.9, 0.8)),
        model="m",
        corpus="c",
    )
    return folder, *(pd.read_parquet(folder / f"{name}.parquet") for name in ("curves", "outcomes"))


@pytest.mark.parametrize("kind", PLAIN)
def test_outcomes_are_those_of_a_simulation(kind: str, compared: Any) -> None:
    _, _, outcomes = compared
    rows = outcomes[(outcomes["gate"] == kind) & (outcomes["rule"] == "fixed")]
    assert len(rows) == 4
    for _, row in rows.iterrows():
        table = some_table(1 + 10 * (row["method"] == "jtc"), row["method"])
        found = simulated(table, kind, [row["threshold"]] * LEVELS, from_level=1)
        for name in OUTCOMES:
            values = [outcome == name for outcome, _, _ in found]
            assert row[name] == pytest.approx(np.mean(values)), name
            # Two samples of a document are one draw.
            of_documents = np.array(values, float).reshape(-1, 2).mean(1)
            assert row[f"{name}_stderr"] == pytest.approx(scipy.stats.sem(of_documents), abs=1e-12)
        level, stable = (np.array([sample[part] for sample in found]) for part in (1, 2))
        assert row["saved"] == pytest.approx(1 - level.mean() / LEVELS)
        assert row["blocks"] == pytest.approx(level.mean())
        assert row["possible"] == pytest.approx(1 - stable.mean() / LEVELS)
        assert row["possible_first"] >= row["possible"]
        assert row["early"] == pytest.approx((stable - level)[level < stable].mean())
        assert row["behind"] == pytest.approx((level - stable)[level > stable].mean())
        assert row["agreement"] == pytest.approx(1 - row["wrong"])
    assert outcomes[list(OUTCOMES)].sum(axis=1).to_numpy() == pytest.approx(1)


def test_thresholds_per_level_are_chosen_on_held_out_samples_only(compared: Any, tmp_path: Path) -> None:
    folder, _, outcomes = compared
    others = [some_table(100, "identity"), some_table(101, "jtc")]
    write_table(tmp_path / "other.parquet", pd.concat(others))
    outputs = tmp_path / "curves.parquet", tmp_path / "outcomes.parquet"
    options = GateOptions(targets=(0.9, 0.8))
    paths = [folder / "held-out.parquet"], [tmp_path / "other.parquet"]
    compare_gates(*outputs, *paths, options=options, model="m", corpus="c")
    other = pd.read_parquet(outputs[1])
    assert other["threshold"].tolist() == outcomes["threshold"].tolist()
    assert other["saved"].tolist() != outcomes["saved"].tolist()


def test_what_a_gate_sees_is_what_gates_of_the_runtime_see() -> None:
    table = some_table(3)
    tokens = torch.from_numpy(table["token"].to_numpy().reshape(LEVELS, SAMPLES).T.copy())
    counts = levels_in_a_row(tokens.numpy(), from_level=2)
    for level in range(2, LEVELS):
        logits = torch.nn.functional.one_hot(tokens[:, level], 4).float()
        expected = Patience.confidence(logits, tokens[:, 2:level])
        assert counts[:, level].tolist() == expected.tolist()
    with pytest.raises(OneJumpError, match="gate: 'mood' given, accepted is top-probability, margin"):
        confidences_of_gate(table, "mood")


def test_the_study_names_the_gates_that_there_are() -> None:
    assert tuple(Gates().gates) == GATE_KINDS
    defaults = Gates().model_dump(exclude={"methods"})
    assert {name: tuple(value) if isinstance(value, list) else value for name, value in defaults.items()} == (
        vars(GateOptions())
    )


def test_too_few_documents_choose_no_threshold(tmp_path: Path) -> None:
    table = some_table(0, samples=60).assign(document=0)
    path = tmp_path / "table.parquet"
    write_table(path, table)
    outputs = tmp_path / "curves.parquet", tmp_path / "outcomes.parquet"
    compare_gates(*outputs, [path], [path], options=GateOptions(), model="m", corpus="c")
    outcomes = pd.read_parquet(outputs[1])
    assert not outcomes["reached"].any()
    assert (outcomes["missed"] + outcomes["stayed"] == 1).all()
    assert outcomes["note"].str.startswith("no threshold for an agreement").all()
    assert outcomes["wrong_stderr"].isna().all()


def test_the_figure(compared: Any) -> None:
    folder, curves, outcomes = compared
    paths = {name: folder / f"{name}.parquet" for name in ("curves", "outcomes")}
    axes = draw(Inputs("gates", paths)).axes
    assert len(axes) == 3 * len(PLAIN)
    assert axes[0].get_title() == "top-probability, one threshold"
    first = curves.query("method == 'identity' and gate == 'top-probability' and rule == 'fixed'")
    assert axes[0].lines[0].get_xdata().tolist() == sorted(first["saved"])
    bars = axes[2 * len(PLAIN)].patches
    row = outcomes.query("method == 'identity' and gate == 'top-probability' and target == 0.9").iloc[0]
    assert [bar.get_width() for bar in bars[:6]] == pytest.approx(
        [row[name] for name in ("wrong", "unsettled", "exact", "stayed", "late", "missed")]
    )


def test_guaranteed_thresholds_stand_beside_the_plain_ones(compared: Any, tmp_path: Path) -> None:
    folder, _, plain = compared
    paths = {name: tmp_path / f"{name}.parquet" for name in ("curves", "outcomes")}
    tables = [folder / "held-out.parquet"], [folder / "validation.parquet"]
    options = GateOptions(targets=(0.9, 0.8), guarantee=0.9)
    compare_gates(*paths.values(), *tables, options=options, model="m", corpus="c")
    outcomes = pd.read_parquet(paths["outcomes"])
    pd.testing.assert_frame_equal(outcomes[outcomes["guarantee"].isna()].reset_index(drop=True), plain)
    found = outcomes[outcomes["guarantee"] == 0.9].reset_index(drop=True)
    assert len(found) == len(plain)
    # Of one rule and gate the threshold is stricter; nothing exits where none is guaranteed.
    fixed = found["rule"] == "fixed"
    assert (found.loc[fixed, "threshold"] >= plain.loc[fixed, "threshold"]).all()
    fine = fixed & (found["gate"] != "patience")
    assert (found.loc[fine, "threshold"] > plain.loc[fine, "threshold"]).all()
    reached = found["reached"]
    assert reached.any()
    assert (found.loc[reached, "saved"] > 0).all()
    assert (found.loc[~reached, "note"] != "").all()
    assert (found.loc[reached, "agreement"] > found.loc[reached, "target"] - 0.03).all()
    axes = draw(Inputs("gates", paths)).axes
    assert {"o", "s"} <= {line.get_marker() for line in axes[0].lines}


def knowing(seed: int, samples: int) -> pd.DataFrame:
    """A table whose coordinates tell what its probabilities do not."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(2, samples, LEVELS))
    p = generator.beta(2, 1, size=(samples, LEVELS))
    odds = np.exp(-(z[0] * 2 + np.log(p / (1 - p)) + np.linspace(-1, 1, LEVELS)))
    hits = generator.random(p.shape) < 1 / (1 + odds)
    columns = {"probability": p, "margin": p, "entropy": p, "z0": z[0], "z1": z[1]}
    return table_of(hits, "one-jump", document=np.arange(samples) // 2, **columns)


@pytest.mark.parametrize("guarantee", [None, 0.9])
def test_a_learned_gate_stands_beside_the_others(guarantee: float | None, tmp_path: Path) -> None:
    seen, unseen = knowing(0, 900), knowing(1, 500)
    paths = {name: tmp_path / f"{name}.parquet" for name in ("seen", "unseen", "curves", "outcomes")}
    for name, table in (("seen", seen), ("unseen", unseen)):
        write_table(paths[name], pd.concat([some_table(len(name), samples=400), table]))
    options = GateOptions(targets=(0.9,), rules=("fixed",), guarantee=guarantee, from_level=0)
    tables = [paths["seen"]], [paths["unseen"]]
    compare_gates(paths["curves"], paths["outcomes"], *tables, options=options, model="m", corpus="c")
    outcomes = pd.read_parquet(paths["outcomes"])
    assert set(outcomes.loc[outcomes["gate"] == "learned", "method"]) == {"one-jump"}
    of = outcomes[outcomes["method"] == "one-jump"].set_index(["gate", "guarantee"])["saved"]
    for way in (float("nan"), guarantee):
        if way is not None:
            assert of["learned", way] > of["top-probability", way] + 0.05

    def matrix(table: pd.DataFrame, column: str) -> np.ndarray:
        return table[column].to_numpy().reshape(LEVELS, -1).T

    # The exits are those of the gate of the runtime, with weights of the held-out samples: all of them, or
    # those to learn from.
    for row in outcomes[outcomes["gate"] == "learned"].itertuples():
        part = np.ones(900, bool)
        if not np.isnan(row.guarantee):
            part = learning_part(matrix(seen, "document")[:, 0])
        z, hits = np.stack([matrix(seen, name) for name in ("z0", "z1")], -1), matrix(seen, "hit")
        weights = fit_weights(matrix(seen, "probability")[part], z[part], hits[part])
        gate = Learned(dict.fromkeys(range(LEVELS), row.threshold), dict(enumerate(weights.tolist())))
        out, agreed = np.full(500, LEVELS), np.ones(500, bool)
        for level in reversed(range(LEVELS)):
            p, *z = (torch.tensor(matrix(unseen, name)[:, level]) for name in ("probability", "z0", "z1"))
            exits = (gate.agreement(level, p, torch.stack(z, 1)) >= row.threshold).numpy()
            out[exits], agreed[exits] = level, matrix(unseen, "hit")[exits, level]
        assert row.saved == pytest.approx(1 - out.mean() / LEVELS, abs=1e-3)
        assert row.agreement == pytest.approx(agreed.mean(), abs=3e-3)
    axes = draw(Inputs("gates", {name: paths[name] for name in ("curves", "outcomes")})).axes
    assert len(axes) == 2 * len(GATE_KINDS)
    assert [ax.get_title() for ax in axes[: len(GATE_KINDS)]][-1] == "learned, one threshold"


def test_documents_that_are_too_few_for_a_guarantee_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, some_table(0, samples=600).assign(document=np.tile(np.arange(600) // 20, LEVELS)))
    outputs = tmp_path / "curves.parquet", tmp_path / "outcomes.parquet"
    options = GateOptions(targets=(0.95,), guarantee=0.9)
    compare_gates(*outputs, [path], [path], options=options, model="m", corpus="c")
    outcomes = pd.read_parquet(outputs[1])
    refused = outcomes[outcomes["guarantee"].notna()]
    assert not refused["reached"].any()
    assert refused["note"].str.endswith("tested on 20 held-out documents, and at least 45 are needed").all()
