"""The stage "copied texts": prompts continued with exits in the modes copied and trusted, and without exits.

Exits are natural: the hidden state as it is goes through the model's own head. The stage keeps the tokens and
the level that each was predicted at; `onejump.experiments.copied_states` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from onejump.base.errors import CorpusError, ModelError
from onejump.base.files import read_table, write_table
from onejump.data.held_out import some_of
from onejump.exits.gates import Gate, TopProbability
from onejump.models.description import read_description
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.models.prompts import is_generated
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit
from onejump.runtime.generated_corpus import GenerationOptions, end_tokens, plan_texts
from onejump.runtime.packing import can_be_packed, packed
from onejump.shortcuts.kinds.identity import Identity

NO_EXITS = "none"
"""What makes tokens exit, and the mode, of the full model's own texts."""
MODES = ("copied", "trusted")


class Condition(NamedTuple):
    """What makes tokens exit."""

    name: str
    """As the tables call it, such as "level 24" or "probability 0.9"."""
    gate: Gate


def conditions(
    blocks: int, *, levels: Sequence[float], thresholds: Sequence[float], checked_from: float, step: int
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
    checked_from : float
        The part of L from which on levels are checked.
    step : int
        Every how many levels.
    """

    def level(part: float) -> int:
        return min(blocks - 1, round(part * blocks))

    fixed = dict.fromkeys(level(part) for part in levels)
    checked = range(level(checked_from), blocks, step)
    return [
        *(Condition(f"level {at}", TopProbability({at: 0.0})) for at in fixed),
        *(
            Condition(f"probability {one:g}", TopProbability(dict.fromkeys(checked, one)))
            for one in thresholds
        ),
    ]


def generate_copied_texts(
    texts: Path,
    sentences: Path,
    description: Path,
    weights: Path | None = None,
    *,
    prompts: int = 12,
    prompt_tokens: int = 32,
    chat_template: bool = True,
    new_tokens: int = 512,
    levels: Sequence[float] = (0.8,),
    thresholds: Sequence[float] = (0.9,),
    checked_from: float = 0.5,
    step: int = 2,
    device: str = "auto",
    device_map: str | None = None,
) -> None:
    """The stage: continue prompts greedily in each mode, all of them in one batch.

    Parameters
    ----------
    texts : Path
        Table to write, with columns exits, mode ("copied", "trusted"; both are "none" for the full model's
        own texts), text (number of the prompt), document, prompt_tokens (how many of the tokens are the
        prompt's), tokens, exit_levels (the level that each new token was predicted at; L: by the full model).
    sentences : Path
        Table of the corpus; of a generated one, the prompts of its texts.
    description, weights, device, device_map
        As in `onejump.models.activations.extract_shard`.
    prompts : int
        Most validation sentences to continue, evenly spread over all of them.
    prompt_tokens, chat_template, new_tokens
        As in `onejump.runtime.generated_corpus.GenerationOptions`.
    levels, thresholds, checked_from, step
        As in `conditions`.

    Raises
    ------
    CorpusError
        If there is no validation sentence.
    ModelError
        If the model does not generate.
    """
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
    if is_generated(table):
        begun = [
            tokens[:count].tolist()
            for tokens, count in zip(table["tokens"], table["prompt_tokens"], strict=True)
        ]
    else:
        options = GenerationOptions(chat_template, prompt_tokens, new_tokens, greedy=1.0)
        begun = [text.tokens for text in plan_texts(table, tokenizer, options, seed=0)]
    asked = conditions(
        len(transformer.blocks), levels=levels, thresholds=thresholds, checked_from=checked_from, step=step
    )
    made = continue_in_modes(
        transformer, begun, asked, new_tokens=new_tokens, ends=end_tokens(transformer.model, tokenizer)
    )
    found = pd.concat([of.assign(document=table["document"]) for of in made], ignore_index=True)
    write_table(texts, found, model_digest=described.model_digest)


def continue_in_modes(
    transformer: Transformer,
    prompts: Sequence[list[int]],
    asked: Sequence[Condition],
    *,
    new_tokens: int,
    ends: Sequence[int] = (),
) -> Iterator[pd.DataFrame]:
    """Continue prompts greedily: by the full model, then under each condition in each mode.

    Parameters
    ----------
    transformer : Transformer
    prompts : sequence of list of int
    asked : sequence of Condition
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
    runs: list[tuple[str, str, EarlyExit]] = [
        (NO_EXITS, NO_EXITS, EarlyExit(transformer, None, packed=False)),
        *(
            (
                condition.name,
                mode,
                EarlyExit(transformer, Identity(), gate=condition.gate, mode=mode, packed=False),
            )
            for condition in asked
            for mode in MODES
        ),
    ]
    for exits, mode, engine in tqdm(runs, unit="run", disable=None):
        made = engine.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=list(ends) or None,
        )
        yield pd.DataFrame(
            {
                "exits": exits,
                "mode": mode,
                "text": range(len(prompts)),
                "prompt_tokens": np.array([len(prompt) for prompt in prompts], np.int32),
                "tokens": [
                    np.array([*prompt, *new], np.int32)
                    for prompt, new in zip(prompts, made.new_tokens, strict=True)
                ],
                "exit_levels": [np.array(of, np.int16) for of in made.exit_levels],
            }
        )
