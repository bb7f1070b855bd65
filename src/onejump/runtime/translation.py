"""The stage "translation by gates": texts of an encoder-decoder whose tokens exit by gates, and their BLEU.

A token exits at the first level where its probability reaches a threshold, in the modes trusted and copied of
the decode loop (`onejump.runtime.decoding`). The first token of each text comes from the full model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from onejump.base.files import write_table
from onejump.exits.gates import TopProbability
from onejump.experiments.translation import check_sacrebleu, load_translated, scores_of, written
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.packing import can_be_packed, packed
from onejump.runtime.predictor import predictor_at
from onejump.runtime.record import Generated
from onejump.shortcuts.methods import ShortcutAt

MODES = ("trusted", "copied")


def translation_by_gates(
    transformer: Transformer,
    tokenizer: Any,
    sources: Sequence[str],
    targets: Sequence[str],
    exits: Mapping[str, ShortcutAt],
    thresholds: Sequence[float],
    **options: Any,
) -> pd.DataFrame:
    """Measure texts whose tokens exit where they are likely enough, for each method, mode and threshold.

    Parameters
    ----------
    transformer, tokenizer, sources, targets, exits
        See `translation`.
    thresholds : sequence of float
        A token exits at the first level from 1 on where its probability reaches this.
    **options
        See `written`.

    Returns
    -------
    DataFrame
        Columns method, mode ("trusted", "copied"), threshold, level (mean over the tokens behind the first of
        each text: where each was predicted), blocks (run for each of these tokens, mean), agreement (share of
        trusted exits whose token is the full model's own), bleu, chrf, same, n as in `translation`.

    Raises
    ------
    OneJumpError
        If sacrebleu is not installed.
    """
    check_sacrebleu()
    columns = ["method", "mode", "threshold", "level", "blocks", "agreement", "bleu", "chrf", "same", "n"]
    full = written(transformer, tokenizer, sources, **options) if thresholds else []
    runs = [(method, mode, one) for method in exits for mode in MODES for one in thresholds]
    # Packed once for all runs.
    view = packed(transformer) if runs and can_be_packed(transformer) else transformer
    levels, rows = range(1, len(transformer.blocks)), []
    for method, mode, threshold in tqdm(runs, unit="gate", disable=None):
        engine = EarlyExit(
            view,
            predictor_at(exits[method], view.head, levels),
            gate=TopProbability(dict.fromkeys(levels, threshold)),
            mode=mode,
            packed=False,
        )
        texts, whole = _written(engine, tokenizer, sources, **options)
        behind = [level for of in whole.exit_levels for level in of[1:]]
        rows.append(
            {
                "method": method,
                "mode": mode,
                "threshold": threshold,
                "level": sum(behind) / max(1, len(behind)),
                "blocks": whole.blocks,
                "agreement": whole.agreement,
                **scores_of(texts, targets, full),
                "n": len(full),
            }
        )
    return pd.DataFrame(rows, columns=columns).astype({"agreement": float})


def _written(
    engine: EarlyExit, tokenizer: Any, sources: Sequence[str], **options: Any
) -> tuple[list[str], Generated]:
    """Texts with exits, and one record of all of them."""
    records: list[Generated] = []

    def generate(input_ids: Tensor, attention_mask: Tensor, **given: Any) -> Tensor:
        records.append(engine.generate(input_ids, attention_mask=attention_mask, **given))
        return records[-1].sequences

    texts = written(engine.transformer, tokenizer, sources, generate=generate, **options)
    whole = records[0]
    for record in records[1:]:
        whole.add(record)
    return texts, whole


def measure_translation_by_gates(
    table: Path,
    sentences: Path,
    shortcuts: Sequence[Path],
    selections: Sequence[Path],
    description: Path,
    weights: Path | None = None,
    *,
    methods: Mapping[str, str],
    pairs: int,
    new_tokens: int,
    thresholds: Sequence[float],
    model: str,
    corpus: str,
    device: str = "auto",
    device_map: str | None = None,
    batch_tokens: int = 4096,
) -> None:
    """The stage: write targets of validation pairs with exits by gates, and measure them.

    Parameters
    ----------
    table : Path
        To write, with columns model, corpus, and those of `translation_by_gates`.
    thresholds : sequence of float
        See `translation_by_gates`.
    sentences, shortcuts, selections, description, weights, methods, pairs, new_tokens, model, corpus
        As in `onejump.experiments.translation.measure_translation`.
    device, device_map, batch_tokens
        As there.

    Raises
    ------
    CorpusError
        If the corpus has no targets.
    OneJumpError
        If sacrebleu is not installed.
    """
    given = load_translated(
        sentences,
        shortcuts,
        selections,
        description,
        weights,
        methods=methods,
        pairs=pairs,
        device=device,
        device_map=device_map,
    )
    found = translation_by_gates(
        given.transformer,
        given.tokenizer,
        given.sources,
        given.targets,
        given.exits,
        thresholds,
        new_tokens=new_tokens,
        batch_tokens=batch_tokens,
    )
    write_table(table, found, model_digest=given.model_digest, model=model, corpus=corpus)
