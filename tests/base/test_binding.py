"""What a stage gets of the rule that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from snakemake.iocontainers import InputFiles, OutputFiles, Params, Wildcards

from onejump.base.binding import arguments_for
from onejump.base.errors import OneJumpError


@dataclass(frozen=True)
class Stopping:
    patience: int
    share: float = 0.1


@dataclass(frozen=True)
class Options:
    rank: int | None
    solver: Literal["exact", "gradient"]
    stopping: Stopping
    targets: tuple[float, ...] = ()


def named(kind: type, values: Mapping[str, Any], *unnamed: str) -> Any:
    """As Snakemake names them: a list of paths is one name for several items."""
    found = kind()
    for name, value in values.items():
        start = len(found)
        if isinstance(value, list) and kind is not Params:
            found.extend(value)
            found._set_name(name, start, end=len(found))
        else:
            found.append(value)
            found._set_name(name, start)
    found.extend(unnamed)
    return found


def rule(
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    **wildcards: str,
) -> SimpleNamespace:
    return SimpleNamespace(
        rule="evaluate",
        input=named(InputFiles, inputs or {}),
        output=named(OutputFiles, outputs or {}),
        params=named(Params, params or {}),
        wildcards=named(Wildcards, wildcards),
        config={"compute": {"device": "cpu", "device_map": None, "batch_tokens": 8}, "study": "tiny"},
    )


def evaluate(
    table: Path,
    shards: Sequence[Path],
    *,
    method: str,
    shard: int,
    options: Options,
    arbitrary: Mapping[str, Any],
    selection: Path | None,
    head: Path | None = None,
    precision_at: list[int] | None = None,
    device: str = "cuda",
) -> None: ...


WHOLE = {
    "inputs": {"shards": ["0.zarr"], "selection": [], "description": "model.json"},
    "outputs": {"table": "table.parquet"},
    "params": {
        "options": {"rank": None, "solver": "exact", "stopping": {"patience": 3}, "targets": [1, 0.5]},
        "arbitrary": {"first": {"level": 0}},
        "code": "0123",
    },
    "method": "jtc",
    "shard": "02",
    "corpus": "stories",
}


def test_a_stage_gets_what_its_rule_names_as_its_annotations_say() -> None:
    assert arguments_for(evaluate, rule(**WHOLE)) == {
        "table": Path("table.parquet"),
        "shards": [Path("0.zarr")],
        "method": "jtc",
        "shard": 2,
        "options": Options(None, "exact", Stopping(3, 0.1), (1.0, 0.5)),
        "arbitrary": {"first": {"level": 0}},
        "selection": None,
        "device": "cpu",
    }


def test_an_input_wins_over_a_wildcard_and_a_stage_may_ask_for_what_serves_snakemake() -> None:
    def describe(description: Path, method: str, batch_tokens: int) -> None: ...

    given = rule({"description": "model.json"}, params={"method": "njtc"}, method="jtc")
    assert arguments_for(describe, given) == {
        "description": Path("model.json"),
        "method": "njtc",
        "batch_tokens": 8,
    }


def test_any_other_inputs_go_where_a_stage_takes_any() -> None:
    def draw(svg: Path, selection: Path, **tables: Path) -> None: ...

    given = rule({"scores": "scores.parquet", "selection": "selection.json"}, {"svg": "scores.svg"})
    assert arguments_for(draw, given) == {
        "svg": Path("scores.svg"),
        "selection": Path("selection.json"),
        "scores": Path("scores.parquet"),
    }


def whole(kind: str, **changed: Any) -> SimpleNamespace:
    return rule(**(WHOLE | {kind: WHOLE[kind] | changed}))


OPTIONS = WHOLE["params"]["options"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            lambda: rule(**{name: value for name, value in WHOLE.items() if name != "method"}),
            "nothing of the rule is named method, which the stage needs",
        ),
        (lambda: whole("inputs", tables="a"), "the rule names tables, which the stage does not take"),
        (
            lambda: whole("params", selection="a"),
            "selection is named among the rule's input and its params",
        ),
        (lambda: rule(**WHOLE | {"shard": "x"}), "shard: 'x' given, accepted is a valid integer"),
        (lambda: whole("inputs", shards="0.zarr"), "shards: '0.zarr' given, accepted is"),
        (lambda: whole("inputs", head=["a", "b"]), "head: ['a', 'b'] given, accepted is"),
        (
            lambda: whole("params", options={"rank": 1, "solver": "exact"}),
            "options.stopping is missing",
        ),
        (
            lambda: whole("params", options=OPTIONS | {"ranks": 1}),
            "options.ranks is not a key that is accepted",
        ),
        (
            lambda: whole("params", options=OPTIONS | {"stopping": {"patience": 1, "shares": 1}}),
            "options.stopping.shares is not a key that is accepted",
        ),
        (
            lambda: whole("params", options=OPTIONS | {"solver": "fast"}),
            "options.solver: 'fast' given, accepted is 'exact' or 'gradient'",
        ),
    ],
)
def test_a_rule_that_does_not_fit_its_stage_is_refused(
    given: Callable[[], SimpleNamespace], said: str
) -> None:
    with pytest.raises(OneJumpError) as refused:
        arguments_for(evaluate, given())
    message = str(refused.value)
    assert message.startswith(f"rule evaluate does not fit {__name__}.evaluate: ")
    assert said in message
    assert ";" not in message, "one mistake, told once"
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["input", "output", "params"])
def test_what_has_no_name_is_refused(kind: str) -> None:
    given = rule(**WHOLE)
    getattr(given, kind).append("unnamed")
    with pytest.raises(OneJumpError, match=f"evaluate: the rule has {kind} without a name$"):
        arguments_for(evaluate, given)


def test_all_mistakes_are_told_at_once() -> None:
    given = rule(**WHOLE | {"outputs": {"tables": "a"}, "shard": "x"})
    with pytest.raises(OneJumpError, match=r"is named table,.*; shard: 'x' given.*; the rule names tables"):
        arguments_for(evaluate, given)
