"""Exits by pieces of words: groups, whole words and gates, sample by sample."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from simulated_exits import table_of
from sklearn.linear_model import LogisticRegression
from stage_files import describe_as

from onejump.base.errors import OneJumpError
from onejump.base.files import write_table
from onejump.data.parts_of_speech import parts_of_speech
from onejump.exits.calibration import Calibration
from onejump.exits.oracle import oracle_exits
from onejump.exits.words import whole_words
from onejump.experiments import sub_word_tags, sub_words
from onejump.experiments.sub_word_tokens import describe_tokens
from onejump.experiments.sub_words import SubWordOptions, compare_pieces
from onejump.figures.drawn.sub_words import draw
from onejump.figures.inputs import Inputs

LEVELS, SENTENCES, LENGTH = 5, 200, 12
# Tokens: 0 to 3 begin a word, 4 to 7 continue one, 8 and 9 are punctuation.
PIECES = pd.DataFrame(
    {
        "token": range(10),
        "text": list("abcdefgh.,"),
        "opens": [True] * 4 + [False] * 6,
        "closes": False,
        "word": [True] * 8 + [False] * 2,
        "unfinished": [True] * 8 + [False] * 2,
        "family": "byte-level BPE",
        "count": [5] * 10,
        "per_million": [0, 5, 50, 500, 5000, 50_000, 5, 5, 5, 5],
    }
)


class Samples:
    """What a store says of its samples: every position of sentences that go on as the model predicts."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        text = generator.integers(0, 10, (SENTENCES, LENGTH + 1))
        self.columns = {
            "sentence": np.repeat(np.arange(SENTENCES), LENGTH),
            "position": np.tile(np.arange(LENGTH), SENTENCES),
            "token": text[:, :-1].ravel(),
            "top_tokens": np.stack([text[:, 1:].ravel(), np.zeros(SENTENCES * LENGTH)], 1).astype(np.int32),
        }
        self.text = text

    def of_samples(self, name: str) -> np.ndarray:
        return self.columns[name]

    def table(self, seed: int, method: str) -> pd.DataFrame:
        """Continuations are found earlier, at one and the same confidence."""
        generator = np.random.default_rng(seed)
        final = self.columns["top_tokens"][:, 0]
        eased = np.where((final >= 4) & (final < 8), 0.4, 0.0)[:, None]
        p = generator.beta(2, 1, size=(len(final), LEVELS)) * np.linspace(0.3, 0.6, LEVELS)
        hits = generator.random(p.shape) < p + eased
        tokens = np.where(hits, final[:, None], (final[:, None] + 1) % 10)
        return table_of(hits, method, token=tokens, probability=p, document=self.columns["sentence"])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The stage's tables, and what they were made from."""
    samples = {"training": Samples(0), "shards": Samples(1)}
    monkeypatch.setattr(sub_words, "ActivationStore", lambda paths: samples[paths[0].stem])
    monkeypatch.setattr(sub_words, "one_model", lambda *_: None)
    tables = {}
    for seed, (split, name) in enumerate((("training", "held_out"), ("shards", "validation"))):
        tables[name] = samples[split].table(seed, "identity")
        write_table(tmp_path / f"{name}.parquet", tables[name])
    write_table(tmp_path / "tokens.parquet", PIECES)

    def make(task: str = "causal", tags: Path | None = None, **options: Any) -> dict[str, Any]:
        describe_as(tmp_path / "model.json", task=task, blocks=LEVELS)
        compare_pieces(
            tmp_path / "levels.parquet",
            tmp_path / "gates.parquet",
            tmp_path / "tokens.parquet",
            tmp_path / "model.json",
            [tmp_path / "training.zarr"],
            [tmp_path / "shards.zarr"],
            [tmp_path / "held_out.parquet"],
            [tmp_path / "validation.parquet"],
            tags,
            options=SubWordOptions(**options),
            model="m",
            corpus="c",
        )
        found = {name: pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("levels", "gates")}
        return found | {"samples": samples["shards"], "tables": tables, "folder": tmp_path}

    return {"make": make}


def kind_by_hand(token: int, before: int) -> str:
    if token >= 8:
        return "other"
    return "continuation" if token >= 4 and before < 8 else "word-initial"


def test_levels_by_group(made: dict[str, Any]) -> None:
    found = made["make"](from_level=0)
    levels, samples = found["levels"], found["samples"]
    hits = found["tables"]["validation"]["hit"].to_numpy().reshape(LEVELS, -1).T
    exits = oracle_exits(hits)
    columns = samples.columns
    kinds = np.array(
        [kind_by_hand(t, b) for t, b in zip(columns["top_tokens"][:, 0], columns["token"], strict=True)]
    )
    rates = PIECES["per_million"].to_numpy()[columns["top_tokens"][:, 0]]
    for oracle in ("first", "stable"):
        at = getattr(exits, oracle)
        rows = levels[levels["exit"] == oracle].set_index(["by", "group", "kind"])
        for kind in ("word-initial", "continuation", "other"):
            row = rows.loc["kind", "all", kind]
            of_kind = kinds == kind
            assert row["n"] == of_kind.sum()
            assert row["level"] == pytest.approx(at[of_kind].mean())
            assert row["saved"] == pytest.approx(1 - at[of_kind].mean() / LEVELS)
        four = (columns["position"] >= 4) & (columns["position"] <= 7)
        assert rows.loc[("position", "4 to 7", "all"), "level"] == pytest.approx(at[four].mean())
        rare = (rates > 0) & (rates <= 10) & (kinds == "continuation")
        assert rows.loc[("frequency", "below 10", "continuation"), "level"] == pytest.approx(at[rare].mean())
        first = columns["position"] == 0
        error = scipy.stats.sem(at[first])  # one sample of each sentence
        assert rows.loc[("position", "0", "all"), "level_stderr"] == pytest.approx(error)
    # A word exits where its deepest piece does: pieces up to the next one that does not continue it.
    deepest: dict[int, list[int]] = {}
    for sentence, text in enumerate(samples.text):
        of_sentence = [kind_by_hand(text[i + 1], text[i]) for i in range(LENGTH)]
        for start in range(LENGTH):
            stop = start + 1
            while stop < LENGTH and of_sentence[stop] == "continuation":
                stop += 1
            if of_sentence[start] == "word-initial" and stop < LENGTH:
                place = sentence * LENGTH
                deepest.setdefault(min(stop - start, 3), []).append(
                    int(exits.stable[place + start : place + stop].max())
                )
    rows = levels[(levels["exit"] == "stable") & (levels["by"] == "word")].set_index("order")
    assert rows["n"].to_dict() == {count: len(of) for count, of in deepest.items()}
    assert rows["level"].to_dict() == pytest.approx({count: np.mean(of) for count, of in deepest.items()})
    assert rows["group"].tolist() == ["1 piece", "2 pieces", "3 or more pieces"]


def test_a_gate_that_knows_the_kind_saves_more_where_the_kind_matters(made: dict[str, Any]) -> None:
    gates = made["make"](targets=(0.8,))["gates"].set_index("gate")
    assert gates.loc["plain", ["difference", "equal_difference"]].tolist() == [0, 0]
    for gate in ("drafted", "both"):
        row = gates.loc[gate]
        assert row["equal_difference"] > 3 * row["equal_difference_stderr"] > 0
        assert row["saved"] == pytest.approx(gates.loc["plain", "saved"] + row["difference"])
    assert abs(gates.loc["current", "equal_difference"]) < gates.loc["drafted", "equal_difference"]
    assert (gates["agreement"] > 0.75).all()


def test_a_calibration_with_more_inputs_is_a_logistic_regression() -> None:
    generator = np.random.default_rng(0)
    p = generator.random((4000, 1)).clip(0.01, 0.99)
    other = generator.random((4000, 1)) < 0.4
    hits = generator.random(p.shape) < 1 / (1 + np.exp(-(0.3 + 0.8 * np.log(p / (1 - p)) - 1.2 * other)))
    found = Calibration(p, hits, [other]).weights[0]
    inputs = np.column_stack([np.log(p / (1 - p)), other])
    reference = LogisticRegression(C=1e6).fit(inputs, hits[:, 0])
    assert found == pytest.approx([reference.intercept_[0], *reference.coef_[0]], abs=0.02)


def test_a_masked_model_has_no_words_and_a_classifier_no_pieces(made: dict[str, Any]) -> None:
    levels = made["make"]("masked")["levels"]
    assert set(levels["by"]) == {"kind", "position", "frequency"}
    with pytest.raises(OneJumpError, match="the model classifies texts, and so predicts no pieces"):
        made["make"]("classification")


def test_words_that_the_text_does_not_take_up_are_left_out() -> None:
    # The model would write 5 behind 1, but the text has 9.
    sentences, positions = np.zeros(4, int), np.arange(4)
    tokens, predicted = np.array([9, 1, 9, 1]), np.array([1, 5, 1, 8])
    kinds = np.array([0, 1, 0, 2])
    assert whole_words(sentences, positions, tokens, predicted, kinds) == [[2]]
    assert whole_words(sentences, positions * 2, tokens, predicted, kinds) == []


def test_the_figure(made: dict[str, Any]) -> None:
    folder = made["make"]()["folder"]
    axes = draw(Inputs("sub-words", {name: folder / f"{name}.parquet" for name in ("levels", "gates")})).axes
    assert len(axes) == 4
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == [
        "0",
        "1",
        "2 to 3",
        "4 to 7",
        "8 to 15",
    ]


def test_tokens_are_counted_in_the_training_text(tiny_model_folder: Path, tmp_path: Path) -> None:
    describe_as(tmp_path / "model.json", source=str(tiny_model_folder), vocabulary=200)
    texts = pd.DataFrame(
        {
            "sentence": ["The old farmer counted the green boat.", "The old boat.", "Our doctor."],
            "split": ["training", "training", "validation"],
        }
    )
    write_table(tmp_path / "corpus.parquet", texts)
    outputs = tmp_path / "tokens.parquet", tmp_path / "model.json", tmp_path / "corpus.parquet"
    describe_tokens(*outputs)
    counts = pd.read_parquet(outputs[0]).set_index("text")["count"]
    assert counts[["The", "old", "boat", "farmer", "doctor"]].tolist() == [2, 2, 2, 1, 0]
    generated = texts.assign(tokens=[[3, 8, 9], [5, 8], [7, 8]], prompt_tokens=[1, 1, 1])
    write_table(tmp_path / "corpus.parquet", generated)
    describe_tokens(*outputs)
    table = pd.read_parquet(outputs[0]).set_index("token")
    assert table["count"][[3, 5, 7, 8, 9]].tolist() == [0, 0, 0, 2, 1]
    assert table["per_million"][8] == pytest.approx(2e6 / 3)
    assert len(table) == 200


def test_parts_of_speech_are_those_of_words_that_the_model_would_write(
    made: dict[str, Any], tmp_path: Path
) -> None:
    samples = Samples(1)
    # The text has another token at every position that three divides.
    positions = np.tile(np.arange(LENGTH + 1), SENTENCES)
    written = np.where(positions % 3 == 0, 9 - samples.text.ravel(), samples.text.ravel())
    tags = pd.DataFrame({"sentence": np.repeat(np.arange(SENTENCES), LENGTH + 1), "position": positions})
    tags = tags.assign(token=written, part=np.where(positions % 2 == 0, "noun", "verb"))
    write_table(tmp_path / "tags.parquet", tags)
    levels = made["make"](tags=tmp_path / "tags.parquet")["levels"]
    found = levels[(levels["by"] == "part of speech") & (levels["kind"] == "all")]
    counted = found[found["exit"] == "first"].set_index("group")["n"].to_dict()
    # A prediction at position p is of the token at p + 1.
    at = [position for position in range(1, LENGTH + 1) if position % 3]
    assert counted == {
        "noun": SENTENCES * sum(position % 2 == 0 for position in at),
        "verb": SENTENCES * sum(position % 2 for position in at),
    }


def test_tokens_get_the_part_of_their_word(monkeypatch: pytest.MonkeyPatch) -> None:
    tagged: list[list[str]] = []

    def tagger(words: list[str]) -> list[str]:
        tagged.append(list(words))
        return [f"part {number}" for number in range(len(words))]

    monkeypatch.setattr(sub_word_tags, "parts_of_speech", tagger)
    # a, b with its continuations e and f, a full stop, c behind it without a space.
    parts = sub_word_tags.parts_of_tokens(PIECES, [0, 1, 4, 5, 8, 6])
    assert tagged == [["a", "bef", ".", "g"]]
    assert parts == ["part 0", "part 1", "part 1", "part 1", "other", "part 3"]


def test_words_of_english_are_tagged() -> None:
    pytest.importorskip("textblob", reason="an optional dependency")
    words = ["The", "old", "farmer", "/", "quickly", "counted", "3", "boats", "."]
    found = parts_of_speech(words)
    assert found[:3] == ["determiner", "adjective", "noun"]
    assert found[4:] == ["adverb", "verb", "number", "noun", "other"]


def test_without_the_tagger_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    with pytest.raises(OneJumpError, match=r"it needs TextBlob: pip install 'onejump\[tags\]'"):
        parts_of_speech(["a"])
