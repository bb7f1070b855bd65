"""The stage "copied texts": prompts continued with exits in the modes copied and trusted, and without exits.

Methods of the study predict at exits: identity, whose exits are natural (the hidden state as it is, through
the model's own head), and shortcuts. The stage keeps the tokens and the level that each was predicted at;
`onejump.experiments.copied_states` measures them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from onejump.base.errors import CorpusError, ModelError
from onejump.base.files import read_table, write_table
from onejump.base.identity import one_model
from onejump.data.generated_rows import prompt_lengths, tokens_of_rows
from onejump.data.held_out import some_of
from onejump.exits.choosing import LevelThresholds
from onejump.exits.confidences import Confidences
from onejump.exits.enough_samples import too_few_for
from onejump.exits.gates import TopProbability
from onejump.models.description import read_description
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.generated_corpus import GenerationOptions, end_tokens, plan_texts
from onejump.runtime.packing import can_be_packed, packed
from onejump.runtime.predictor import ExitPredictor, predictor_at
from onejump.runtime.record import Generated
from onejump.shortcuts.methods import methods_of_kinds

NO_EXITS = "none"
"""Method, what makes tokens exit, and mode of the full model's own texts."""
MODES = ("copied", "trusted")
_LOG = logging.getLogger(__name__)


class Condition(NamedTuple):
    """What makes tokens exit."""

    name: str
    """As the tables call it, such as "level 24", "probability 0.9" or "agreement 90%"."""
    gate: TopProbability
    """Without levels, nothing exits."""
    note: str = ""
    """Why nothing exits."""


class Exits(NamedTuple):
    """A method with what makes its tokens exit."""

    method: str
    condition: Condition
    predictor: ExitPredictor


def checked_levels(blocks: int, checked_from: float, step: int) -> list[int]:
    """Every `step`-th level from a part of L on."""
    return list(range(_level(checked_from, blocks), blocks, step))


def _level(part: float, blocks: int) -> int:
    return min(blocks - 1, round(part * blocks))


def conditions(
    blocks: int, *, levels: Sequence[float], thresholds: Sequence[float], checked: Sequence[int]
) -> list[Condition]:
    """Give what makes tokens exit: a level for every token, and thresholds on the probability of the token.

    Parameters
    ----------
    blocks : int
        L.
    levels : sequence of float
        Every token exits at this part of L.
    thresholds : sequence of float
        A token exits at the first checked level where its probability reaches this.
    checked : sequence of int
        The levels that are checked.
    """
    fixed = dict.fromkeys(_level(part, blocks) for part in levels)
    return [
        *(Condition(f"level {at}", TopProbability({at: 0.0})) for at in fixed),
        *(
            Condition(f"probability {one:g}", TopProbability(dict.fromkeys(checked, one)))
            for one in thresholds
        ),
    ]


def calibrated_conditions(
    held_out: Confidences, targets: Sequence[float], checked: Sequence[int]
) -> list[Condition]:
    """Give thresholds for each level that reach agreements on held-out samples.

    They are those of the rule per-level (`onejump.exits.rules`) among the levels that are checked.

    Parameters
    ----------
    held_out : Confidences
        Of the method that predicts.
    targets : sequence of float
        Agreements.
    checked : sequence of int
        The levels that are checked.
    """
    by_level = LevelThresholds(held_out.probabilities, held_out.hits)
    blocks, levels = held_out.hits.shape[1], list(checked)
    saved = (blocks - np.array(levels)) / blocks
    found = []
    for target in targets:
        note = too_few_for(target, held_out.documents)
        thresholds = {} if note else by_level.reaching(target, levels, saved)
        if not thresholds:
            note = note or f"no threshold reaches an agreement of {target:g} on the held-out samples"
        found.append(Condition(f"agreement {100 * target:g}%", TopProbability(thresholds), note))
    return found


def generate_copied_texts(
    texts: Path,
    sentences: Path,
    description: Path,
    weights: Path | None = None,
    *,
    methods: Mapping[str, str],
    shortcuts: Sequence[Path] = (),
    selections: Sequence[Path] = (),
    held_out: Sequence[Path] = (),
    prompts: int = 12,
    prompt_tokens: int = 32,
    chat_template: bool = True,
    new_tokens: int = 512,
    levels: Sequence[float] = (0.8,),
    targets: Sequence[float] = (0.9,),
    thresholds: Sequence[float] = (),
    checked_from: float = 0.5,
    step: int = 2,
    device: str = "auto",
    device_map: str | None = None,
) -> None:
    """The stage: continue prompts greedily in each mode, all of them in one batch.

    Parameters
    ----------
    texts : Path
        Table to write, with columns method, exits, mode ("copied", "trusted"; all three are "none" for the
        full model's own texts), text (number of the prompt), document, prompt_tokens (how many of the tokens
        are the prompt's), tokens, exit_levels (the level that each new token was predicted at; L: by the full
        model), note (why nothing exits, or empty).
    sentences : Path
        Table of the corpus; of a generated one, the prompts of its texts.
    description, weights, device, device_map
        As in `onejump.models.activations.extract_shard`.
    methods, shortcuts, selections
        As in `onejump.shortcuts.methods.methods_of_kinds`.
    held_out : sequence of Path
        For targets: tables of `onejump.exits.measuring.measure_confidences` on the documents for thresholds,
        each named like its method.
    prompts : int
        Most validation sentences to continue, evenly spread over all of them.
    prompt_tokens, chat_template, new_tokens
        As in `onejump.runtime.generated_corpus.GenerationOptions`.
    levels, thresholds
        As in `conditions`.
    targets : sequence of float
        As in `calibrated_conditions`.
    checked_from, step
        As in `checked_levels`.

    Raises
    ------
    CorpusError
        If there is no validation sentence.
    ModelError
        If the model does not generate.
    """
    model_digest = one_model(description, *shortcuts, *selections, *held_out)
    described = read_description(description)
    if described.task != "causal":
        raise ModelError(
            f"{described.source}: {described.task} model given, copied-states generates text, which needs a "
            "causal one: leave the experiment out"
        )
    transformer = load_described(described, weights, device=device, device_map=device_map)
    tokenizer = load_described_tokenizer(described, weights)
    table = read_table(sentences)
    table = table[table["split"] == "validation"]
    if table.empty:
        raise CorpusError(f"{sentences}: no validation sentence, and at least one is needed as a prompt")
    table = table.iloc[some_of(torch.arange(len(table)), prompts).numpy()].reset_index(drop=True)
    options = GenerationOptions(chat_template, prompt_tokens, new_tokens, greedy=1.0)
    whole = tokens_of_rows(
        table, lambda plain: (text.tokens for text in plan_texts(plain, tokenizer, options, seed=0))
    )
    # Of a generated text, the prompt; of a sentence, all that was planned.
    begun = [tokens[: length or None] for tokens, length in zip(whole, prompt_lengths(table), strict=True)]
    checked = checked_levels(len(transformer.blocks), checked_from, step)
    plain = conditions(len(transformer.blocks), levels=levels, thresholds=thresholds, checked=checked)
    tables = {path.stem: path for path in held_out}
    asked = []
    for method, (_, made) in zip(
        methods,
        methods_of_kinds(methods, shortcuts, selections, levels=len(transformer.blocks)),
        strict=True,
    ):
        calibrated = []
        if targets:
            confidences = read_table(tables[method])
            seen = Confidences.of(confidences[confidences["method"] == method])
            calibrated = calibrated_conditions(seen, targets, checked)
        own = [*plain, *calibrated]
        at = sorted({level for condition in own for level in condition.gate.levels})
        # Without a level, nothing is predicted.
        predictor = predictor_at(made[method], transformer.head, at or [0])
        asked += [Exits(method, condition, predictor) for condition in own]
    for exits in asked:
        if exits.condition.note:
            _LOG.warning("%s, %s: %s", exits.method, exits.condition.name, exits.condition.note)
    continued = continue_in_modes(
        transformer, begun, asked, new_tokens=new_tokens, ends=end_tokens(transformer.model, tokenizer)
    )
    found = pd.concat([of.assign(document=table["document"]) for of in continued], ignore_index=True)
    write_table(texts, found, model_digest=model_digest)


def continue_in_modes(
    transformer: Transformer,
    prompts: Sequence[list[int]],
    asked: Sequence[Exits],
    *,
    new_tokens: int,
    ends: Sequence[int] = (),
) -> Iterator[pd.DataFrame]:
    """Continue prompts greedily: by the full model, then with each kind of exits in each mode.

    Where nothing exits, the text is the full model's own: it is not generated again.

    Parameters
    ----------
    transformer : Transformer
    prompts : sequence of list of int
    asked : sequence of Exits
    new_tokens : int
        Most new tokens of a text.
    ends : sequence of int
        Tokens that end a text.

    Yields
    ------
    DataFrame
        A row for each prompt, with the columns of `generate_copied_texts` but document.
    """
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], mask[row, : len(prompt)] = torch.tensor(prompt), 1
    # Packed once for all modes.
    if can_be_packed(transformer):
        transformer = packed(transformer)

    def generated(engine: EarlyExit) -> Generated:
        return engine.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=list(ends) or None,
        )

    own = generated(EarlyExit(transformer, None, packed=False))
    yield _texts(prompts, own, method=NO_EXITS, exits=NO_EXITS, mode=NO_EXITS, note="")
    for (method, condition, predictor), mode in tqdm(
        [(exits, mode) for exits in asked for mode in MODES], unit="run", disable=None
    ):
        made = own
        if condition.gate.levels:
            made = generated(EarlyExit(transformer, predictor, gate=condition.gate, mode=mode, packed=False))
        yield _texts(prompts, made, method=method, exits=condition.name, mode=mode, note=condition.note)


def _texts(prompts: Sequence[list[int]], made: Generated, **about: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **about,
            "text": range(len(prompts)),
            "prompt_tokens": np.array([len(prompt) for prompt in prompts], np.int32),
            "tokens": [
                np.array([*prompt, *new], np.int32)
                for prompt, new in zip(prompts, made.new_tokens, strict=True)
            ],
            "exit_levels": [np.array(of, np.int16) for of in made.exit_levels],
        }
    )
