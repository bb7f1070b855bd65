"""Texts with labels: what is read from each kind of file, how they are split, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from onejump.base.errors import CorpusError
from onejump.base.files import read_json, read_table
from onejump.data.corpus import SUMMARY
from onejump.data.labelled import LabelledSource, build_labelled, split_texts
from onejump.data.records_asked import DrawOptions
from onejump.data.sides import place


def records(count: int) -> list[dict[str, Any]]:
    return [{"review": f"The  film number {at} was\nvery long.", "sentiment": at % 2} for at in range(count)]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def source(path: Path, **more: Any) -> LabelledSource:
    return LabelledSource(text="review", label="sentiment", path=str(path), **more)


def test_texts_are_read_with_their_labels_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = records(3)
    lines = write_lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows), encoding="utf-8")
    pd.DataFrame(rows).assign(other=1).to_parquet(tmp_path / "c.parquet")
    expected = [(row["review"], row["sentiment"]) for row in rows]
    for name in ("a.jsonl", "b.json", "c.parquet"):
        found = list(source(tmp_path / name).texts())
        assert [(row.text, row.label) for row in found] == expected
    assert [row.id for row in source(lines).texts()] == ["a.jsonl#1", "a.jsonl#2", "a.jsonl#3"]
    nested = write_lines(tmp_path / "d.jsonl", [{"a": {"review": "x", "sentiment": "good"}}])
    found = list(LabelledSource(text="a.review", label="a.sentiment", path=str(nested)).texts())
    assert [(row.text, row.label) for row in found] == [("x", "good")]


def test_a_data_set_of_the_hub_library_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
            "idx": datasets.Value("int32"),
        }
    )
    rows = {"sentence": ["so bad", "so good"], "label": [0, 1], "idx": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "sst2"))
    found = list(LabelledSource(text="sentence", label="label", dataset=str(tmp_path / "sst2")).texts())
    assert [tuple(row) for row in found] == [("train#0", "so bad", 0, None), ("train#1", "so good", 1, None)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"review": "x"}, r"a.jsonl#2: no 'sentiment'; there is: review"),
        ({"sentiment": 1}, r"a.jsonl#2: no 'review'; there is: sentiment"),
        ({"review": 3, "sentiment": 1}, r"a.jsonl#2: 'review' holds int, a string was expected"),
        ({"review": "x", "sentiment": 0.5}, r"a.jsonl#2: 'sentiment' holds 0.5, the number of a label, from"),
        ({"review": "x", "sentiment": None}, r"a.jsonl#2: 'sentiment' holds None, the number of a label"),
        ({"review": "x", "sentiment": True}, r"a.jsonl#2: 'sentiment' holds True, the number of a label"),
        ({"review": "x", "sentiment": -1}, r"'sentiment' holds -1, .* many test splits: take another split"),
        ({"review": "x", "sentiment": "good"}, r"holds 'good', where .*a.jsonl#1.* of the other kind"),
        ("only a text", r"a.jsonl#2: no 'review'; there is: no object"),
    ],
)
def test_a_record_without_a_text_or_a_label_is_named(tmp_path: Path, wrong: Any, said: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*records(1), wrong])
    with pytest.raises(CorpusError, match=said) as refused:
        list(source(path).texts())
    assert "\n" not in str(refused.value)


def test_the_stage_writes_texts_of_both_sides_by_their_hash(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*records(60), {"review": "Short.", "sentiment": 1}])
    build_labelled(
        tmp_path / "t.parquet",
        tmp_path / "t.json",
        source=source(Path("elsewhere")),
        options=DrawOptions(training=20, validation=8),
        file=path,
        seed=3,
    )
    table = read_table(tmp_path / "t.parquet")
    assert list(table["split"]) == ["training"] * 20 + ["validation"] * 8
    assert list(table["sentence_id"]) == list(range(28))
    assert table["sentence"].is_unique
    for row in table.itertuples():
        number = int(str(row.document).removeprefix("a.jsonl#")) - 1
        assert row.sentence == f"The film number {number} was very long."
        assert row.label == number % 2
        assert place(str(row.sentence), "document", 3).side == row.split
    assert read_json(tmp_path / "t.json", SUMMARY)["training"]["documents"] == 20
    with pytest.raises(CorpusError, match="too few texts: 47 of the 50 asked for training and 5 of the 5"):
        split_texts(source(path).texts(), training=50, validation=5, seed=3)
    with pytest.raises(CorpusError, match="two texts have one id"):
        split_texts([*source(path).texts()] * 2, training=1, validation=1)


def pairs(count: int) -> list[dict[str, Any]]:
    """Premises with two hypotheses each."""
    return [
        {
            "premise": f"The  boat number {at // 2} is green.",
            "hypothesis": f"It is {('', 'not ')[at % 2]}red.",
            "label": at % 2,
        }
        for at in range(count)
    ]


def of_pairs(path: Path) -> LabelledSource:
    return LabelledSource(text="premise", text_pair="hypothesis", label="label", path=str(path))


def test_pairs_of_one_first_text_are_on_one_side(tmp_path: Path) -> None:
    rows = pairs(80)
    path = write_lines(tmp_path / "a.jsonl", [*rows, rows[5] | {"label": 0}, rows[0] | {"premise": "No."}])
    build_labelled(
        tmp_path / "t.parquet", source=of_pairs(path), options=DrawOptions(training=50, validation=12), seed=1
    )
    table = read_table(tmp_path / "t.parquet")
    assert list(table.columns) == ["sentence_id", "document", "sentence", "text_pair", "label", "split"]
    assert table["split"].value_counts().to_dict() == {"training": 50, "validation": 12}
    assert not table.duplicated(["sentence", "text_pair"]).any()
    assert table.groupby("sentence")["split"].nunique().max() == 1
    assert table.groupby("sentence").size().max() == 2
    known = {(" ".join(row["premise"].split()), row["hypothesis"]): row["label"] for row in rows}
    assert [known[row.sentence, row.text_pair] for row in table.itertuples()] == list(table["label"])
    # "No. It is red." has fewer than 20 characters.
    assert "No." not in set(table["sentence"])


def test_a_data_set_of_pairs_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(pairs(4)).save_to_disk(str(tmp_path / "rte"))
    source = LabelledSource(
        text="premise", text_pair="hypothesis", label="label", dataset=str(tmp_path / "rte")
    )
    assert [tuple(row) for row in source.texts()][1] == (
        "train#1",
        "The  boat number 0 is green.",
        1,
        "It is not red.",
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"premise": "x", "label": 1}, r"a.jsonl#1: no 'hypothesis'; there is: premise, label"),
        (
            {"premise": "x", "hypothesis": None, "label": 1},
            r"a.jsonl#1: 'hypothesis' holds NoneType, a string was expected",
        ),
    ],
)
def test_a_record_without_a_second_text_is_named(tmp_path: Path, wrong: Any, said: str) -> None:
    with pytest.raises(CorpusError, match=said):
        list(of_pairs(write_lines(tmp_path / "a.jsonl", [wrong])).texts())
