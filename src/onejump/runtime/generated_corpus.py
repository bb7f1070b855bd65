"""The stage "generation": texts that a model writes itself, as a corpus to fit and measure exits on.

What a text is depends on the model, on its prompt, on the options and on the seed: not on the shard, nor on
the texts that are generated together with it, as far as rounding allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from onejump.base.errors import CorpusError, ModelError
from onejump.base.files import read_table, write_table
from onejump.models.anatomy import text_config
from onejump.models.description import read_description
from onejump.models.loading import load_described, load_described_tokenizer
from onejump.models.prompts import is_generated
from onejump.models.tasks import NAMED
from onejump.models.transformer import Transformer
from onejump.runtime.early_exit import EarlyExit


@dataclass(frozen=True)
class GenerationOptions:
    """What is generated from a prompt."""

    chat_template: bool = True
    """Put the prompt into the chat template, as a user's message, if the tokenizer has one."""
    prompt_tokens: int = 32
    """Longer prompts are cut. Tokens of the template come on top."""
    new_tokens: int = 64
    """Most tokens that are generated."""
    greedy: float = 0.5
    """Share of texts that take the most likely token at each position."""
    temperature: float = 0.7
    """Of the tokens that are drawn at random."""
    top_p: float = 0.95
    """Tokens are drawn among the most likely ones that together have this probability."""


class Text(NamedTuple):
    """A text to generate."""

    row: int
    """Of the table of prompts."""
    tokens: list[int]
    """Of the prompt."""
    seed: int | None
    """Of the tokens that are drawn; None: greedy."""


def generate_texts(
    texts: Path,
    prompts: Path,
    description: Path,
    weights: Path | None = None,
    *,
    split: str,
    shard: int,
    shards: int,
    wanted: int,
    options: GenerationOptions,
    seed: int,
    device: str = "auto",
    device_map: str | None = None,
    batch_tokens: int = 4096,
) -> None:
    """The stage: generate the texts of one shard of one split.

    Parameters
    ----------
    texts : Path
        Table to write, with the columns of `onejump.data.generated_texts`.
    prompts : Path
        Table of the corpus stage, whose sentences are the prompts.
    description : Path
        `model.json` of the model stage.
    weights : Path, optional
        The folder that the model is in, if the model stage loaded it from another place.
    split : {"training", "validation"}
    shard, shards : int
        Which shard of how many.
    wanted : int
        Texts in all shards of the split.
    options : GenerationOptions
    seed : int
        Decides which texts are greedy, and what is drawn in the others.
    device, device_map
        As in `onejump.models.loading.load_model`.
    batch_tokens : int
        Most tokens of the texts that are generated together.

    Raises
    ------
    CorpusError
        If there are too few prompts, or one has no token.
    ModelError
        If the model is not causal, cannot hold as many tokens, or its files have changed since the model
        stage.
    """
    described = read_description(description)
    if not described.causal:
        source = described.source if weights is None else weights
        raise ModelError(
            f"{source}: {NAMED[described.task]} given, generated text needs a causal one: give it a study "
            "without generated corpora"
        )
    chosen = prompts_of_shard(read_table(prompts), split, wanted, shard, shards)
    tokenizer = load_described_tokenizer(described, weights)
    transformer = load_described(described, weights, device=device, device_map=device_map)
    planned = list(plan_texts(chosen, tokenizer, options, seed))
    generated = generate(transformer, tokenizer, planned, options, batch_tokens=batch_tokens)
    table = pd.DataFrame(
        {
            "document": chosen["document"],
            "sentence": [
                tokenizer.decode(tokens[len(text.tokens) :], skip_special_tokens=True)
                for text, tokens in zip(planned, generated, strict=True)
            ],
            "split": split,
            "prompt": [tokenizer.decode(text.tokens) for text in planned],
            "prompt_id": chosen["sentence_id"],
            "greedy": [text.seed is None for text in planned],
            "prompt_tokens": np.array([len(text.tokens) for text in planned], np.int32),
            "tokens": [np.array(tokens, np.int32) for tokens in generated],
        }
    )
    write_table(texts, table, model_digest=described.model_digest)


def prompts_of_shard(
    sentences: pd.DataFrame, split: str, wanted: int, shard: int, shards: int
) -> pd.DataFrame:
    """Give the sentences of a corpus that are the prompts of one shard.

    Parameters
    ----------
    sentences : DataFrame
        Of the corpus stage.
    split : {"training", "validation"}
    wanted : int
        Texts in all shards. Their prompts are the first sentences of the split: those of as many documents as
        possible (`onejump.data.sides.draw`).
    shard, shards : int
        Which shard of how many.

    Raises
    ------
    CorpusError
        If the corpus is a generated one, or has too few sentences.
    """
    if is_generated(sentences):
        raise CorpusError("prompts: a generated corpus given, accepted is one that is not generated")
    of_split = sentences[sentences["split"] == split]
    if len(of_split) < wanted:
        raise CorpusError(
            f"prompts: {len(of_split)} {split} sentences given, {wanted} texts need one prompt each"
        )
    return of_split.iloc[:wanted].iloc[shard::shards].reset_index(drop=True)


def plan_texts(
    prompts: pd.DataFrame, tokenizer: Any, options: GenerationOptions, seed: int
) -> Iterator[Text]:
    """Make a text of each prompt: its tokens, and how the tokens behind it are chosen.

    Whether a text is greedy, and the seed of what is drawn in it, follow from the prompt and the seed alone.

    Parameters
    ----------
    prompts : DataFrame
        With columns document and sentence.
    tokenizer : transformers.PreTrainedTokenizerBase
    options : GenerationOptions
    seed : int
    """
    make = in_template if options.chat_template and tokenizer.chat_template else as_beginning
    for row, (document, sentence) in enumerate(zip(prompts["document"], prompts["sentence"], strict=True)):
        tokens = make(sentence, tokenizer, options.prompt_tokens)
        if not tokens:
            raise CorpusError(f"a sentence of {document} has no token, so that it can be no prompt")
        digest = hashlib.blake2b(
            f"{seed}\n{document}\n{sentence}".encode(errors="surrogatepass"), digest_size=16
        ).digest()
        greedy = int.from_bytes(digest[:8], "big") < options.greedy * 2**64
        yield Text(row, tokens, None if greedy else int.from_bytes(digest[9:], "big"))


def as_beginning(sentence: str, tokenizer: Any, most: int) -> list[int]:
    """The start token and at most `most` tokens of a sentence, which the model is to continue."""
    added = tokenizer.num_special_tokens_to_add()
    tokens: list[int] = tokenizer(sentence, truncation=True, max_length=most + added)["input_ids"]
    # A token that ends the sentence would end the text.
    while tokens and tokens[-1] in tokenizer.all_special_ids:
        tokens = tokens[:-1]
    return tokens


def in_template(sentence: str, tokenizer: Any, most: int) -> list[int]:
    """Tokens of the chat template with at most `most` tokens of a sentence as the user's message.

    Raises
    ------
    ModelError
        If the template cannot be filled in.
    """
    own = tokenizer(sentence, add_special_tokens=False)["input_ids"]
    message = sentence if len(own) <= most else tokenizer.decode(own[:most])
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template is a program
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template cannot take a user's message ({reason}): choose "
            "chat_template: false"
        ) from error
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def generate(
    transformer: Transformer,
    tokenizer: Any,
    texts: Sequence[Text],
    options: GenerationOptions,
    *,
    batch_tokens: int = 4096,
) -> list[list[int]]:
    """Generate texts, those of like lengths together.

    Parameters
    ----------
    transformer : Transformer
    tokenizer : transformers.PreTrainedTokenizerBase
    texts : sequence of Text
    options : GenerationOptions
    batch_tokens : int
        Most tokens of the texts that are generated together, padding included.

    Returns
    -------
    list of list of int
        Of each text the tokens of the prompt, then those generated. The end token is one of them, if the text
        ends with it.

    Raises
    ------
    ModelError
        If a text gets longer than the model's positions.
    """
    longest = max(len(text.tokens) for text in texts) + options.new_tokens
    positions = getattr(text_config(transformer.model), "max_position_embeddings", None)
    limit = transformer.context or positions
    if limit is not None and longest > limit:
        raise ModelError(
            f"generated: a prompt of {longest - options.new_tokens} tokens and {options.new_tokens} new ones "
            f"given, {type(transformer.model).__name__} holds at most {limit}: lower new_tokens or "
            "prompt_tokens"
        )
    exits = EarlyExit(transformer, None)
    ends = end_tokens(transformer.model, tokenizer)
    found: dict[int, list[int]] = {}
    # Longest first, so that a batch that does not fit into memory shows at once and not at the end.
    waiting = sorted(texts, key=lambda text: (text.seed is None, -len(text.tokens), text.row))
    with tqdm(total=len(texts), unit="text", disable=None) as progress:
        while waiting:
            rows = max(1, batch_tokens // (len(waiting[0].tokens) + options.new_tokens))
            batch = [text for text in waiting[:rows] if (text.seed is None) == (waiting[0].seed is None)]
            waiting = waiting[len(batch) :]
            for text, new in zip(batch, _continue(exits, batch, options, ends), strict=True):
                found[text.row] = [*text.tokens, *new]
            progress.update(len(batch))
    return [found[text.row] for text in texts]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text, by what the model and its tokenizer say."""
    stated = model.generation_config.eos_token_id
    ends = stated if isinstance(stated, list) else [stated]
    return sorted({int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None})


def _continue(
    exits: EarlyExit, batch: Sequence[Text], options: GenerationOptions, ends: Sequence[int]
) -> list[list[int]]:
    """Generate what follows each prompt of a batch: of texts that are all greedy, or all drawn at random."""
    longest = max(len(text.tokens) for text in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, text in enumerate(batch):
        tokens[row, : len(text.tokens)] = torch.tensor(text.tokens)
        mask[row, : len(text.tokens)] = 1
    # What the model's own configuration asks for (a penalty, a top_k) would make its text another model's.
    drawn: dict[str, Any] = {"do_sample": False}
    if batch[0].seed is not None:
        drawn = {
            "do_sample": True,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": 0,
            "generator": [torch.Generator().manual_seed(text.seed or 0) for text in batch],
        }
    made = exits.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=options.new_tokens,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=list(ends),
        **drawn,
    )
    return made.new_tokens
