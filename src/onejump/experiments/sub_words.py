"""The stage "sub-words": exits by the piece of a word that is predicted, and gates that know its kind.

A sample is a prediction of the next token (of the masked one, in a masked model). Its piece is the full
model's most likely token: word-initial, a continuation, or other (`onejump.models.pieces`). Its level is that
of an oracle exit (first, stable: `onejump.exits.oracle`), or that of a gate by top probability with a
threshold for each level (gate). A whole word exits where the deepest of its pieces exits: before that, some
piece of it would be wrong.

When a gate decides, it knows the token that was read last and the token that is drafted at the level. A gate
that knows their kinds is the same rule with a calibration that depends on them:

| gate | its probability to agree depends on |
|---|---|
| plain | the probability of the drafted token |
| drafted | that, and the kind of the drafted token |
| current | that, and the kind of the token that was read last, as far as this token alone shows it |
| both | that, and both kinds |

Source: arXiv 2412.01455, section 5 and open question 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from onejump.base.errors import OneJumpError
from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.data.parts_of_speech import PARTS
from onejump.data.store import ActivationStore
from onejump.exits.calibration import Calibration
from onejump.exits.confidences import Confidences, Floats, by_sample
from onejump.exits.enough_samples import too_few_for
from onejump.exits.gate_confidences import tables_of_methods
from onejump.exits.oracle import oracle_exits
from onejump.exits.sweep import Sweep
from onejump.exits.words import whole_words
from onejump.models.description import read_description
from onejump.models.pieces import KINDS, kinds_of
from onejump.scoring.standard_errors import Clusters

# Frequencies are told by their order of magnitude, per million tokens of the training text.
_PER_MILLION = (0.0, 10.0, 100.0, 1000.0, 10_000.0)
_FREQUENCIES = ("not in the text", "below 10", "10 to 100", "100 to 1,000", "1,000 to 10,000", "above 10,000")
_PIECES = 3
GATES = {"plain": (), "drafted": ("drafted",), "current": ("current",), "both": ("drafted", "current")}


@dataclass(frozen=True)
class SubWordOptions:
    """Which gates are compared."""

    targets: Sequence[float] = (0.95, 0.9)
    """Agreements with the full model that thresholds are chosen for. Levels of the exit gate are those of the
    first one."""
    from_level: int = 1
    """The first level to exit from."""


class _Samples(NamedTuple):
    """What is known of samples besides what a method predicts."""

    sentences: NDArray[Any]
    positions: NDArray[Any]
    tokens: NDArray[Any]
    """The token at the position, which was read last; in a masked model, the one that was masked."""
    predicted: NDArray[Any]
    """The full model's most likely token."""
    read: bool
    """Whether the prediction follows the token at the position."""

    def of(self, rows: NDArray[np.int64]) -> _Samples:
        columns = (self.sentences, self.positions, self.tokens, self.predicted)
        sentences, positions, tokens, predicted = (values[rows] for values in columns)
        return _Samples(sentences, positions, tokens, predicted, self.read)

    def before(self) -> NDArray[Any] | None:
        return self.tokens if self.read else None


def compare_pieces(
    levels: Path,
    gates: Path,
    tokens: Path,
    description: Path,
    training: Sequence[Path],
    shards: Sequence[Path],
    held_out: Sequence[Path],
    validation: Sequence[Path],
    tags: Path | None = None,
    *,
    options: SubWordOptions,
    model: str,
    corpus: str,
) -> None:
    """The stage: levels of exit by piece, and what gates save that know the kind of a piece.

    Standard errors are those of `onejump.scoring.standard_errors`.

    Parameters
    ----------
    levels : Path
        Table to write, with columns

        - model, corpus, family (of the tokenizer), method, exit (first, stable, gate);
        - by, group, kind: which samples. by is kind (one group, all), position (in the sentence, in groups
          whose width doubles), frequency (of the predicted token in the training text, per million tokens),
          word (whole words, by the number of their pieces) or place (pieces of words of several pieces, by
          their place in the word) or part of speech (of the word in the text, where the full model's token is
          the text's own); kind is word-initial, continuation, other, all, or whole word;
        - order (of the groups), level (mean), level_stderr, saved (mean of 1 - level / L), n, documents.
    gates : Path
        Table to write, with columns

        - model, corpus, method, gate, target, threshold (chosen on held-out samples);
        - agreement, saved and difference (to what the plain gate saves), each with a column <name>_stderr;
        - equal_saved, equal_difference, equal_difference_stderr: the same with thresholds that just reach the
          target on these samples, so that all gates have the same agreement;
        - reached, n, documents, note: as in `onejump.experiments.early_exit.compare_exits`.
    tokens : Path
        Table of `onejump.experiments.sub_word_tokens.describe_tokens`.
    description : Path
        Of the model stage.
    training, shards : sequence of Path
        Training and validation shards.
    held_out, validation : sequence of Path
        Tables of `onejump.exits.measuring.measure_confidences`, of the same methods in the same order.
    tags : Path, optional
        Table of `onejump.experiments.sub_word_tags.tag_tokens`; without it there are no parts of speech.
    options : SubWordOptions
    model, corpus : str
        Names, for the tables.

    Raises
    ------
    OneJumpError
        If the model classifies texts: it predicts no pieces.
    """
    model_digest = one_model(tokens, training[0], shards[0], *held_out, *validation)
    described = read_description(description)
    if described.task == "classification":
        raise OneJumpError(
            "experiments.sub-words: the model classifies texts, and so predicts no pieces of words; accepted "
            "are models that predict tokens"
        )
    pieces = read_table(tokens)
    tagged = None if tags is None else read_table(tags)
    known = [_samples(ActivationStore(paths), described.task != "masked") for paths in (training, shards)]
    about = {"model": model, "corpus": corpus}
    by_group, saved = [], []
    for method, *tables in tables_of_methods(held_out, validation):
        seen, unseen = (_Predicted.of(table, pieces, of) for table, of in zip(tables, known, strict=True))
        judged = list(_compared(seen, unseen, options))
        saved += [about | {"method": method} | row for row in judged]
        exits = oracle_exits(unseen.found.hits, options.from_level)
        at = {"first": exits.first, "stable": exits.stable}
        at["gate"] = _gate(seen, unseen, "plain", options.from_level).exits(float(judged[0]["threshold"]))[1]
        family = {"family": pieces["family"].iloc[0], "method": method}
        by_group += [about | family | row for row in _by_group(unseen, pieces, tagged, at)]
    write_table(levels, pd.DataFrame(by_group), model_digest=model_digest)
    write_table(gates, pd.DataFrame(saved), model_digest=model_digest)


def _samples(store: ActivationStore, read: bool) -> _Samples:
    sentences, positions, tokens = (store.of_samples(name) for name in ("sentence", "position", "token"))
    return _Samples(sentences, positions, tokens, store.of_samples("top_tokens")[:, 0], read)


class _Predicted(NamedTuple):
    """What a method predicts in some samples, and the kinds of the pieces."""

    found: Confidences
    samples: _Samples
    kinds: NDArray[np.int8]
    """Kind of the full model's token, (n,)."""
    drafted: NDArray[np.int8]
    """Kind of the token that is predicted at each level, (n, L)."""
    current: NDArray[np.int8]
    """Kind of the token that was read last, (n,)."""

    @classmethod
    def of(cls, table: pd.DataFrame, pieces: pd.DataFrame, samples: _Samples) -> _Predicted:
        matrix = by_sample(table)
        chosen = samples.of(matrix("sample")[:, 0])
        before = chosen.before()
        drafted = kinds_of(pieces, matrix("token"), None if before is None else before[:, None])
        kinds = kinds_of(pieces, chosen.predicted, before)
        return cls(Confidences.of(table), chosen, kinds, drafted, kinds_of(pieces, chosen.tokens, None))

    def others(self, known: Sequence[str]) -> list[NDArray[np.bool_]]:
        """What a gate knows of the kinds, (n, L) each: whether a piece is of the second or third kind."""
        of_kinds = {"drafted": self.drafted, "current": self.current[:, None]}
        return [
            np.broadcast_to(of_kinds[name] == kind, self.drafted.shape)
            for name in known
            for kind in range(1, len(KINDS))
        ]


def _compared(seen: _Predicted, unseen: _Predicted, options: SubWordOptions) -> Iterator[dict[str, Any]]:
    """Rows of the table of gates, for one method."""
    clusters = Clusters(unseen.found.documents)
    sweeps = {gate: [_gate(seen, one, gate, options.from_level) for one in (seen, unseen)] for gate in GATES}
    for target in options.targets:
        refused = too_few_for(target, seen.found.documents)
        plain: dict[str, NDArray[np.float64]] = {}
        for gate, (on_held_out, on_validation) in sweeps.items():
            threshold = np.inf if refused else on_held_out.reaching(target)
            agreed, level = on_validation.exits(threshold)
            _, equal = on_validation.exits(on_validation.reaching(target))
            saved = {
                "saved": 1 - level / on_validation.levels,
                "equal_saved": 1 - equal / on_validation.levels,
            }
            plain = plain or saved
            values = {
                "agreement": agreed.astype(np.float64),
                "saved": saved["saved"],
                "difference": saved["saved"] - plain["saved"],
                "equal_saved": saved["equal_saved"],
                "equal_difference": saved["equal_saved"] - plain["equal_saved"],
            }
            means, errors = clusters.of_values(torch.from_numpy(np.stack([*values.values()], 1)))
            row: dict[str, Any] = {"gate": gate, "target": target, "threshold": threshold}
            for name, mean, error in zip(values, means.tolist(), errors.tolist(), strict=True):
                row |= {name: mean, f"{name}_stderr": error}
            size = {"n": len(agreed), "documents": clusters.documents}
            yield row | {"reached": bool(np.isfinite(threshold))} | size | {"note": refused}


def _gate(seen: _Predicted, of: _Predicted, gate: str, from_level: int) -> Sweep:
    """The exits of a gate that is calibrated on some samples, in others: blocks saved for a disagreement."""
    calibration = Calibration(seen.found.probabilities, seen.found.hits, seen.others(GATES[gate]))
    blocks = of.found.hits.shape[1]
    odds = calibration.odds(of.found.probabilities, of.others(GATES[gate]))
    scores: Floats = np.arange(blocks, 0, -1) * (1 + odds)
    return Sweep(np.where(np.arange(blocks) < from_level, -np.inf, scores), of.found.hits)


def _by_group(
    predicted: _Predicted,
    pieces: pd.DataFrame,
    tagged: pd.DataFrame | None,
    levels: dict[str, NDArray[np.int64]],
) -> Iterator[dict[str, Any]]:
    """Rows of the table of levels, for one method."""
    blocks = predicted.found.hits.shape[1]
    documents = predicted.found.documents
    for (by, group, kind, order), members in _groups(predicted, pieces, tagged):
        if not members:
            continue
        samples = np.concatenate(members)
        starts = np.cumsum([0, *map(len, members[:-1])])
        of_documents = Clusters(documents[samples[starts]])
        for name, level in levels.items():
            # A word exits where the deepest of its pieces does.
            deepest = np.maximum.reduceat(level[samples], starts).astype(np.float64)
            mean, error = (float(of) for of in of_documents.of_values(torch.from_numpy(deepest)))
            about = {"exit": name, "by": by, "group": group, "kind": kind, "order": order}
            measured = {"level": mean, "level_stderr": error, "saved": 1 - mean / blocks}
            yield about | measured | {"n": len(members), "documents": of_documents.documents}


def _groups(
    predicted: _Predicted, pieces: pd.DataFrame, tagged: pd.DataFrame | None
) -> Iterator[tuple[tuple[str, str, str, int], list[list[int]]]]:
    """Groups of samples: what they are, and their members; a member is a sample, or the samples of a word."""
    samples, kinds = predicted.samples, predicted.kinds
    doubling = np.ceil(np.log2(samples.positions + 1)).astype(np.int64)
    rate = np.searchsorted(_PER_MILLION, pieces["per_million"].to_numpy()[samples.predicted], side="left")
    grouped = {
        "kind": (np.zeros(len(kinds), np.int64), lambda _: "all"),
        "position": (doubling, _positions),
        "frequency": (rate, _FREQUENCIES.__getitem__),
    }
    masks = {kind: kinds == number for number, kind in enumerate(KINDS)} | {"all": np.ones(len(kinds), bool)}
    for by, (numbers, name_of) in grouped.items():
        for number in np.unique(numbers).tolist():
            for kind, mask in masks.items():
                chosen = (mask & (numbers == number)).nonzero()[0]
                yield (by, name_of(number), kind, number), [[sample] for sample in chosen.tolist()]
    if tagged is not None:
        part = _parts(samples, tagged)
        for number, name in enumerate(PARTS):
            for kind, mask in masks.items():
                chosen = (mask & (part == name)).nonzero()[0]
                yield ("part of speech", name, kind, number), [[sample] for sample in chosen.tolist()]
    if not samples.read:
        return  # in a masked model each piece is masked by itself
    words = whole_words(samples.sentences, samples.positions, samples.tokens, samples.predicted, kinds)
    for count in range(1, _PIECES + 1):
        more = " or more" if count == _PIECES else ""
        of_count = [word for word in words if min(len(word), _PIECES) == count]
        yield ("word", f"{count}{more} piece{'s' if count > 1 else ''}", "whole word", count), of_count
    for place in range(_PIECES):
        last = place == _PIECES - 1
        there = [
            [at]
            for word in words
            if len(word) > 1
            for at in (word[place:] if last else word[place : place + 1])
        ]
        kind = KINDS[0] if place == 0 else KINDS[1]
        yield ("place", f"piece {place + 1}{' or later' if last else ''}", kind, place), there


def _parts(samples: _Samples, tagged: pd.DataFrame) -> NDArray[Any]:
    """Part of speech of the predicted token, (n,); an empty text where the text has another token."""
    asked = pd.DataFrame(
        {
            "sentence": samples.sentences,
            "position": samples.positions + int(samples.read),
            "token": samples.predicted,
        }
    )
    found = asked.merge(tagged, on=["sentence", "position", "token"], how="left", validate="many_to_one")
    return found["part"].fillna("").to_numpy()


def _positions(number: int) -> str:
    """The positions of a group: 0, 1, 2 to 3, 4 to 7, ..."""
    if number < 2:
        return str(number)
    return f"{2 ** (number - 1)} to {2**number - 1}"
